//! The change of the secret, as the daemon sees it: when a new file may be taken up, and what is still to be done.

use std::collections::HashMap;

use onemac_core::node::{HostStatus, Status};

use super::driver::Driver;
use crate::clock;
use crate::control::model::Problem;
use crate::failure::{Failure, Result};
use crate::gossip::seal::Speaks;
use crate::secret::{SecretId, Secrets};
use crate::setup;

/// What a living host speaks and accepts.
struct Peer<'a> {
    name: &'a str,
    speaks: Speaks,
}

impl Peer<'_> {
    /// Whether it is known to accept a secret.
    fn accepts(&self, id: SecretId) -> bool {
        self.speaks.last == Some(id) || self.speaks.accepts.contains(&id)
    }
}

impl Driver {
    /// Reads the secret file again; an error if this host cannot go over to it without harm.
    pub(super) fn read_secrets(&self) -> Result<Secrets> {
        let path = setup::secret_path(&self.terms.file, &self.terms.definition);
        let secrets = Secrets::load(&path)?;
        let shown = path.display();
        if secrets.hash_key() != self.terms.secrets.hash_key() {
            return Err(Failure::usage(format_args!(
                "the secret {shown}: by its seed, clients would be divided in another way than by the seed that runs; \
                 nothing was changed. Change a secret with `onemac keygen --add` on the file that runs, which keeps \
                 the seed"
            )));
        }
        if secrets == self.terms.secrets {
            return Ok(secrets);
        }
        let status = self.node.status(clock::now());
        let speaks = self.voices.wire.speaks();
        let unheard = cut_off(
            &self.terms.secrets.ids(),
            &secrets.ids(),
            &living(&status, &self.terms.host.name, &speaks),
        );
        if !unheard.is_empty() {
            return Err(Failure::usage(format_args!(
                "the secret {shown} would cut {0} off, which this host hears by a secret that the file does not hold: \
                 nothing was changed. Add the new secret with `onemac keygen --add`, and drop the old one when \
                 `onemac status` says that every living host speaks the new one. If somebody else may know the old \
                 secret: stop the agent, start it with the new file, host by host",
                unheard.join(", ")
            )));
        }
        Ok(secrets)
    }

    /// The secrets are these from now on; says so if they were others.
    pub(super) fn take_up_secrets(&mut self, secrets: Secrets) -> Option<String> {
        if secrets == self.terms.secrets {
            return None;
        }
        self.voices.wire.set_keys(secrets.keys());
        self.voices.beacon.set_keys(&secrets.keys());
        let said = match secrets.ids()[..] {
            [first, second] => format!("the secrets {first} and {second} are accepted"),
            _ => format!("the secret {} alone is accepted", list(&secrets.ids())),
        };
        self.terms.secrets = secrets;
        Some(said)
    }

    /// How far a change of the secret has come, and what to do next.
    pub(super) fn secret_problems(&self, core: &Status) -> Option<Problem> {
        let speaks = self.voices.wire.speaks();
        let path = setup::secret_path(&self.terms.file, &self.terms.definition);
        let dead = core.hosts.iter().filter(|h| h.name != self.terms.host.name && !h.alive);
        let (what, advice) = stage(
            &self.terms.secrets.ids(),
            &living(core, &self.terms.host.name, &speaks),
            &dead.map(|h| h.name.as_str()).collect::<Vec<_>>(),
            &path.display().to_string(),
        )?;
        Some(Problem { what, advice })
    }
}

fn living<'a>(status: &'a Status, me: &str, speaks: &HashMap<String, Speaks>) -> Vec<Peer<'a>> {
    let others = status.hosts.iter().filter(|h: &&HostStatus| h.name != me && h.alive);
    let peer =
        |h: &'a HostStatus| Peer { name: &h.name, speaks: speaks.get(&h.name).cloned().unwrap_or_default() };
    others.map(peer).collect()
}

/// The living hosts with which we would have no secret in common, or that still speak another one to us. Of whom nothing
/// is known, all that was common before must stay.
fn cut_off<'a>(before: &[SecretId], ours: &[SecretId], living: &[Peer<'a>]) -> Vec<&'a str> {
    let common = |peer: &Peer<'_>| match peer.speaks.last {
        Some(last) => ours.contains(&last),
        None => before.iter().all(|id| ours.contains(id)),
    };
    living.iter().filter(|peer| !common(peer)).map(|peer| peer.name).collect()
}

/// What to say of a change of the secret that is under way.
fn stage(ours: &[SecretId], living: &[Peer<'_>], dead: &[&str], file: &str) -> Option<(String, String)> {
    let names = |of: &dyn Fn(&Peer<'_>) -> bool| {
        living.iter().filter(|peer| of(peer)).map(|peer| peer.name).collect::<Vec<_>>().join(", ")
    };
    let copy = |to: &str| format!("copy {file} of this host to {to} (mode 0600), then `onemac reload` there");
    let [first, second] = ours[..] else {
        let more = names(&|peer| peer.speaks.accepts.iter().any(|id| !ours.contains(id)));
        if more.is_empty() {
            return None;
        }
        let wants_another = names(&|peer| peer.speaks.accepts.first().is_some_and(|id| !ours.contains(id)));
        let what =
            format!("the secret is being changed: {} alone is accepted here, two are by {more}", list(ours));
        return Some(match wants_another.is_empty() {
            true => (what, copy(&more)),
            false => (
                what,
                format!(
                    "copy the secret file of {wants_another} to {file} here (mode 0600), then `onemac reload` here"
                ),
            ),
        });
    };
    let what = format!("the secret is being changed: {first}, the new one, and {second} are accepted here");
    let without = names(&|peer| !peer.accepts(first));
    if !without.is_empty() {
        return Some((format!("{what}; {first} is not accepted yet by {without}"), copy(&without)));
    }
    let old = names(&|peer| peer.speaks.last != Some(first));
    if !old.is_empty() {
        return Some((
            format!("{what}; {second} is still spoken by {old}"),
            format!("usually over by itself in a second; if it persists, {}", copy(&old)),
        ));
    }
    let absent = match dead.is_empty() {
        true => String::new(),
        false => format!("; copy it to {}, not heard now, before the agent starts there", dead.join(", ")),
    };
    Some((
        format!("{what}; every living host speaks {first}"),
        format!(
            "`onemac keygen --drop {file}`, copy the file to every host (mode 0600), then `onemac reload` on every \
             host{absent}"
        ),
    ))
}

fn list(ids: &[SecretId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> SecretId {
        SecretId([n; 4])
    }

    fn peer<'a>(name: &'a str, last: u8, accepts: &[u8]) -> Peer<'a> {
        Peer {
            name,
            speaks: Speaks { last: Some(id(last)), accepts: accepts.iter().map(|&n| id(n)).collect() },
        }
    }

    #[test]
    fn whoever_would_not_be_heard_or_would_not_hear_is_named() {
        let living = [peer("a", 1, &[2, 1]), peer("b", 1, &[1]), peer("c", 2, &[2, 1]), peer("d", 1, &[])];
        let [one, two, both] = [&[id(1)][..], &[id(2)], &[id(2), id(1)]];
        assert!(cut_off(one, both, &living).is_empty());
        assert_eq!(cut_off(both, two, &living), ["a", "b", "d"]);
        assert_eq!(cut_off(both, one, &living), ["c"]);
        assert!(cut_off(both, two, &[peer("c", 2, &[2])]).is_empty());
        assert!(cut_off(one, two, &[]).is_empty());
        // Heard by way of others alone.
        let unknown = || Peer { name: "e", speaks: Speaks::default() };
        assert!(cut_off(one, both, &[unknown()]).is_empty());
        assert_eq!(cut_off(both, two, &[unknown()]), ["e"]);
    }

    #[test]
    fn each_stage_says_what_to_do_next() {
        let told = |ours: &[u8], living: &[Peer<'_>], dead: &[&str]| {
            let ours: Vec<_> = ours.iter().map(|&n| id(n)).collect();
            stage(&ours, living, dead, "key").map(|(what, advice)| format!("{what} -> {advice}"))
        };
        assert_eq!(told(&[1], &[peer("a", 1, &[1]), peer("b", 1, &[])], &["c"]), None);
        let says = |told: Option<String>, words: &[&str]| {
            let told = told.unwrap();
            words.iter().for_each(|word| assert!(told.contains(word), "{word}: {told}"));
        };
        // Only somebody else has it; only we have it.
        says(
            told(&[1], &[peer("a", 1, &[2, 1]), peer("b", 1, &[1])], &[]),
            &["copy the secret file of a to key here"],
        );
        says(
            told(&[2, 1], &[peer("a", 1, &[1]), peer("b", 2, &[2, 1])], &[]),
            &["02020202 is not accepted yet by a", "copy key of this host to a"],
        );
        says(told(&[2, 1], &[peer("a", 1, &[2, 1])], &[]), &["01010101 is still spoken by a"]);
        says(
            told(&[2, 1], &[peer("a", 2, &[2, 1]), peer("b", 2, &[2])], &["c"]),
            &["every living host speaks 02020202", "keygen --drop key", "copy it to c, not heard now"],
        );
        // We have dropped the old one, somebody has not.
        says(told(&[2], &[peer("a", 2, &[2, 1])], &[]), &["copy key of this host to a"]);
    }
}
