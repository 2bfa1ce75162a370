//! The secret changes in a running cluster: no number is lost, no connection breaks, no client changes hosts; and a
//! host that missed it is told as such.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use onemac_test_env::numbered::{self, Clients};
use onemac_test_env::tcp::{Crowd, Load};
use onemac_test_env::{Ended, Host, Lab, Plan, owned_slices, run};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_millis(500);
/// A number from each client twenty times a second.
const NUMBERS: numbered::Load = numbered::Load { v4: 50, v6: 50, every: Duration::from_millis(50) };

/// The machine may stand still for a second or two.
fn patient(hosts: u8) -> Plan {
    Plan::hosts(hosts).lease("3s")
}

fn secret_of(host: &Host) -> Result<String> {
    fs::read_to_string(host.dir().join("secret.key")).context("no secret")
}

/// `onemac keygen` with this option on a host's secret, as its operator types it.
fn keygen(host: &Host, option: &str) -> Result<String> {
    let file = host.dir().join("secret.key").display().to_string();
    run(&host.program()?.display().to_string(), &["keygen", option, &file])
}

/// Copies the secret of one host to another.
fn copy(from: &Host, to: &Host) -> Result<()> {
    to.write_secret(secret_of(from)?.trim_end(), 0o600)
}

fn reload(host: &Host) -> Result<Ended> {
    let ended = host.onemac(&["reload"])?;
    ensure!(ended.code == 0, "reload on {}: {}{}", host.name(), ended.stdout, ended.stderr);
    Ok(ended)
}

fn ensure_refused(host: &Host, words: &[&str]) -> Result<()> {
    let ended = host.onemac(&["reload"])?;
    ensure!(ended.code == 2, "reload on {} was not refused: {ended:?}", host.name());
    for word in words {
        ensure!(ended.stderr.contains(word), "it does not say {word:?}: {}", ended.stderr);
    }
    Ok(())
}

/// The names of the secrets that a host accepts.
fn accepts(host: &Host) -> Result<Vec<String>> {
    let status = host.status()?;
    Ok(status["secrets"].as_array().context("no secrets")?.iter().map(text).collect())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn warnings(host: &Host) -> Result<String> {
    Ok(host.status()?["warnings"].to_string())
}

/// Waits until each of these hosts warns of this.
fn wait_warned<'a>(lab: &Lab, hosts: impl IntoIterator<Item = &'a Host>, words: &[&str]) -> Result<()> {
    for host in hosts {
        lab.wait_until(&format!("{} says {words:?}", host.name()), PATIENCE, || {
            let told = warnings(host)?;
            Ok(words.iter().all(|word| told.contains(word)))
        })?;
    }
    Ok(())
}

/// Waits until no host warns of a change that is under way.
fn wait_done(lab: &Lab, hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let what = format!("{} says no more of a change", host.name());
        lab.wait_until(&what, PATIENCE, || Ok(!warnings(host)?.contains("secret")))?;
    }
    Ok(())
}

/// Who owns which slice, and which life of each host it is.
fn owners(lab: &Lab) -> Result<(Value, BTreeMap<String, u64>)> {
    let slices = lab.host(1).onemac(&["slices", "--json"])?;
    let lives = lab.hosts().iter().map(|host| Ok((host.name(), host.incarnation()?)));
    Ok((serde_json::from_str(&slices.stdout)?, lives.collect::<Result<_>>()?))
}

/// In which slice these clients are.
fn slices(lab: &Lab, host: &Host) -> Result<Vec<(Value, Value)>> {
    let clients = ["198.18.0.1", "198.18.0.77", "198.18.3.9", "2001:db8:100::1", "2001:db8:100::42"];
    let slice = |client: &&str| {
        let ended = host.onemac(&["owner", client, "--json"])?;
        let said: Value =
            serde_json::from_str(&ended.stdout).with_context(|| format!("{}: {ended:?}", lab.prefix()))?;
        Ok((said["slice"].clone(), said["owner"].clone()))
    };
    clients.iter().map(slice).collect()
}

#[test]
fn nobody_notices() -> Result<()> {
    let lab = Lab::build(&patient(4))?;
    lab.start_responders()?;
    lab.start_echoes()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // Machines that have not met yet lose the first packets between them.
    let started = Instant::now();
    let first = Clients::start(lab.clients(), NUMBERS)?;
    lab.wait_until("every client is served", PATIENCE, || Ok(first.all_answered_since(started)))?;
    first.stop()?;
    let crowd = Crowd::open_with(lab.clients(), Load { addresses: 50, ..Load::of(100) })?;
    let clients = Clients::start(lab.clients(), NUMBERS)?;
    sleep(CALM);

    let before = owners(&lab)?;
    let places = slices(&lab, lab.host(1))?;
    let old = accepts(lab.host(1))?;
    ensure!(old.len() == 1, "{old:?}");

    // The new one is added on one host, and comes to the others one after the other.
    let said = keygen(lab.host(1), "--add")?;
    ensure!(said.contains("onemac reload") && said.contains("--drop"), "{said}");
    let mut both = Vec::new();
    for (number, host) in (1..).zip(lab.hosts()) {
        if number > 1 {
            copy(lab.host(1), host)?;
        }
        match number % 2 {
            0 => host.signal_agent(Signal::SIGHUP)?,
            _ => drop(reload(host)?),
        }
        lab.wait_until("both are accepted", PATIENCE, || Ok(accepts(host)?.len() == 2))?;
        both = accepts(host)?;
        ensure!(both[1] == old[0] && said.contains(&both[0]), "{both:?} {old:?} {said}");
        if number < 4 {
            let missing = (number + 1..=4).map(|n| format!("h{n}")).collect::<Vec<_>>().join(", ");
            wait_warned(&lab, [lab.host(1)], &[&format!("{} is not accepted yet by {missing}", both[0])])?;
            wait_warned(&lab, [lab.host(4)], &["copy the secret file of h1"])?;
        }
        sleep(CALM);
    }
    let new = &both[0];
    wait_warned(&lab, lab.hosts(), &[&format!("every living host speaks {new}"), "keygen --drop"])?;
    let heard = lab.host(2).status()?["hosts"][2]["secret"].clone();
    ensure!(heard == new.as_str(), "h3 is heard by {heard} and not by {new}");

    // The old one goes the same way.
    keygen(lab.host(3), "--drop")?;
    for number in [3, 1, 4, 2] {
        if number != 3 {
            copy(lab.host(3), lab.host(number))?;
        }
        reload(lab.host(number))?;
        sleep(CALM);
    }
    wait_done(&lab, lab.hosts())?;
    for host in lab.hosts() {
        ensure!(accepts(host)? == [new.as_str()], "{} accepts {:?}", host.name(), accepts(host)?);
        ensure!(slices(&lab, host)? == places, "clients have changed slices at {}", host.name());
    }
    ensure!(owners(&lab)? == before, "slices have moved, or a host has begun anew");
    lab.wait_settled()?;

    let report = crowd.close()?;
    ensure!(report.lost() == 0 && report.alive == 0 && report.sent == report.answered, "{report}");
    let tally = clients.stop()?;
    tally.ensure_never_twice("a change of the secret")?;
    // One of ten thousand is forgiven: seen once in some twenty runs, with another lab beside it. Where it was lost is not known.
    ensure!(tally.lost() * 10_000 <= tally.sent(), "{} of {} numbers were lost", tally.lost(), tally.sent());
    Ok(())
}

#[test]
fn what_would_cut_a_host_off_is_refused_and_changes_nothing() -> Result<()> {
    // Within a lease an agent that is killed must have been started and heard again.
    let lab = Lab::build(&Plan::hosts(3).lease("10s"))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let (first, second, third) = (lab.host(1), lab.host(2), lab.host(3));
    let plain = secret_of(first)?;
    let before = owners(&lab)?;

    // Bad files, named with their lines.
    let other = "ab".repeat(32);
    for (wrong, words) in [
        ("xyz".to_owned(), &["secret.key", "line 1", "64 hex digits"][..]),
        (format!("{plain}{other}"), &["line 2", "second secret", "seed", "keygen --add"]),
        (format!("{plain}{plain}"), &["lines 1 and 2", "same secret"]),
        // Another secret alone is another seed.
        (other.clone(), &["seed", "nothing was changed"]),
    ] {
        first.write_secret(&wrong, 0o600)?;
        ensure_refused(first, words)?;
    }
    first.write_secret(plain.trim(), 0o644)?;
    ensure_refused(first, &["chmod 600"])?;
    first.write_secret(plain.trim(), 0o600)?;
    ensure!(reload(first)?.stdout.contains("has not changed"));

    // Too early: the others have not got the new one.
    keygen(first, "--add")?;
    ensure!(keygen(first, "--add").is_err(), "a third secret was added");
    reload(first)?;
    keygen(first, "--drop")?;
    ensure_refused(first, &["cut h2, h3 off", "nothing was changed"])?;
    let restart = first.onemac(&["restart"])?;
    ensure!(restart.code == 1 && restart.stderr.contains("goes on"), "{restart:?}");
    ensure!(accepts(first)?.len() == 2, "{:?}", accepts(first)?);
    let new = accepts(first)?[0].clone();

    // Begun on two hosts, as happens at night: they still hear each other by the old one, and each says so.
    keygen(second, "--add")?;
    reload(second)?;
    wait_warned(&lab, [first], &[&format!("{new} is not accepted yet by h2, h3")])?;
    keygen(second, "--drop")?;
    ensure_refused(second, &["cut h1, h3 off"])?;

    // A program that is started anew, and one that crashes, in the middle of it.
    let alone = secret_of(first)?;
    first.write_secret(&format!("{alone}{plain}"), 0o600)?;
    copy(first, second)?;
    copy(first, third)?;
    reload(first)?;
    let restarted = second.onemac(&["restart"])?;
    ensure!(restarted.code == 0 && restarted.stdout.contains("same life"), "{restarted:?}");
    third.kill_agent();
    third.start_agent()?;
    lab.wait_settled()?;
    wait_warned(&lab, lab.hosts(), &[&format!("every living host speaks {new}")])?;
    for host in lab.hosts() {
        host.write_secret(alone.trim_end(), 0o600)?;
        reload(host)?;
    }
    wait_done(&lab, lab.hosts())?;
    second.kill_agent();
    second.start_agent()?;
    lab.wait_settled()?;
    ensure!(owners(&lab)? == before, "slices have moved, or a host has begun anew");
    Ok(())
}

#[test]
fn a_host_that_missed_it_is_a_stranger_until_it_has_the_file() -> Result<()> {
    let lab = Lab::build(&patient(4))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let (late, old) = (lab.host(4), secret_of(lab.host(4))?);
    let status = late.stop_agent()?;
    ensure!(status.success(), "{status}: {}", late.agent_log(20));
    lab.wait_settled()?;
    let others = &lab.hosts()[..3];
    keygen(lab.host(1), "--add")?;
    for host in others {
        if host.name() != "h1" {
            copy(lab.host(1), host)?;
        }
        reload(host)?;
    }
    wait_warned(&lab, others, &["every living host speaks", "copy it to h4, not heard now"])?;
    // As long as both are accepted, one with the old file can join and hears all.
    late.start_agent()?;
    lab.wait_settled()?;
    wait_warned(&lab, others, &["is not accepted yet by h4"])?;
    keygen(lab.host(1), "--drop")?;
    ensure_refused(lab.host(1), &["cut h4 off"])?;
    ensure!(late.stop_agent()?.success());
    lab.wait_settled()?;
    for host in others {
        if host.name() != "h1" {
            copy(lab.host(1), host)?;
        }
        reload(host)?;
    }
    wait_done(&lab, others)?;

    late.start_agent()?;
    wait_warned(&lab, [late], &["not with our secret", "accepts nothing"])?;
    wait_warned(&lab, others, &["datagrams from h4 fail authentication", "secret"])?;
    ensure!(owned_slices(&late.status()?)? == 0);
    let served: u64 = others.iter().map(|host| owned_slices(&host.status()?)).sum::<Result<u64>>()?;
    ensure!(served == 1024, "the rest serve {served} slices");
    // The wrong seed is not taken for the right secret.
    let new = secret_of(lab.host(1))?;
    let seedless = new.lines().last().context("an empty file")?.to_owned();
    late.write_secret(&seedless, 0o600)?;
    ensure_refused(late, &["seed"])?;
    ensure!(late.stop_agent()?.success());
    late.start_agent()?;
    wait_warned(&lab, [late], &["another cluster definition", "accepts nothing"])?;
    ensure!(owned_slices(&late.status()?)? == 0);
    ensure!(late.stop_agent()?.success());
    late.write_secret(old.trim(), 0o600)?;
    late.start_agent()?;
    wait_warned(&lab, [late], &["not with our secret"])?;
    copy(lab.host(1), late)?;
    reload(late)?;
    lab.wait_settled()?;
    Ok(())
}
