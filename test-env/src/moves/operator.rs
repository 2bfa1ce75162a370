//! Carries moves out, and waits until the cluster has followed.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Change, Model, Move};
use crate::agent::binary;
use crate::definition::Definition;
use crate::host::Host;
use crate::lab::{Lab, owned_slices};
use crate::tcp::{Crowd, Dice};

/// Within this a move is done. Generous: other work may hold both processors.
const PATIENCE: Duration = Duration::from_secs(60);
/// What [`Change::MoreVips`] adds.
const MORE_VIPS: [&str; 2] = ["192.0.2.54", "2001:db8:0:1::54"];

/// A move that was carried out.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Which.
    pub what: Move,
    /// The host at which it was typed, where it matters.
    pub typed_at: u8,
    /// When it began.
    pub from: Instant,
    /// When all hosts had followed.
    pub to: Instant,
}

impl Done {
    /// How long it took until all hosts had followed.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.to - self.from
    }
}

/// Who types.
#[derive(Debug)]
pub struct Operator<'a> {
    lab: &'a Lab,
    model: Model,
    dice: Dice,
    definition: Definition,
    vips: Vec<IpAddr>,
    /// Two files of the program; a host runs one of them.
    programs: [PathBuf; 2],
    /// Which of them.
    runs: Vec<usize>,
}

impl<'a> Operator<'a> {
    /// Gives every host a program of its own, which can be replaced. The agents are to be started after this.
    ///
    /// An upgrade puts the program named by `ONEMAC_NEXT_BIN` in place, or another copy of the same.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn prepare(lab: &'a Lab, seed: u64) -> Result<Self> {
        let first = binary()?;
        let next = std::env::var_os("ONEMAC_NEXT_BIN").map_or_else(|| first.clone(), PathBuf::from);
        let programs = ["one", "two"].map(|name| lab.dir().join(format!("onemac-{name}")));
        for (from, to) in [first, next].iter().zip(&programs) {
            fs::copy(from, to).with_context(|| format!("could not copy {}", from.display()))?;
        }
        for host in lab.hosts() {
            host.install_program(&programs[0])?;
        }
        let definition = lab.definition().clone();
        let hosts = u8::try_from(lab.hosts().len())?;
        let (model, dice) = (Model::new(hosts), Dice::new(seed));
        let (vips, runs) = (definition.vips.clone(), vec![0; hosts.into()]);
        Ok(Self { lab, model, dice, definition, vips, programs, runs })
    }

    /// What may be done next.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Carries a move out, and waits until all hosts have followed. The crowd is needed where a host leaves: its
    /// connections are renewed, since those on a host that is gone can not live.
    ///
    /// # Errors
    /// When the move is not possible now, the program refuses it, or the hosts do not follow.
    pub fn make(&mut self, what: Move, crowd: Option<&Crowd>) -> Result<Done> {
        ensure!(self.model.allows(what), "{what} is not possible now");
        // Anybody may be asked.
        let living = self.model.living();
        let typed_at = *self.dice.pick(&living).context("no host lives")?;
        let from = Instant::now();
        let executed = match what {
            Move::Restart(host) | Move::Upgrade(host) => Some((host, self.execution(host)?)),
            _ => None,
        };
        self.carry_out(what, typed_at, crowd)
            .and_then(|()| match executed {
                Some((host, former)) => self.wait_executed(host, &former),
                None => Ok(()),
            })
            .and_then(|()| {
                self.model.make(what);
                self.wait_followed(what)
            })
            .with_context(|| format!("{what}, typed at h{typed_at}"))?;
        Ok(Done { what, typed_at, from, to: Instant::now() })
    }

    fn carry_out(&mut self, what: Move, typed_at: u8, crowd: Option<&Crowd>) -> Result<()> {
        let host = |number: u8| self.lab.host(number.into());
        let asked = host(typed_at);
        match what {
            Move::Drain(number) => type_in(asked, &["drain", "--host", &host(number).name()]),
            Move::Resume(number) => type_in(asked, &["resume", "--host", &host(number).name()]),
            Move::Weight(number, weight) => {
                type_in(asked, &["weight", &host(number).name(), &weight.to_string()])
            }
            Move::Leave(number) => self.leave(number, crowd),
            Move::Join(number) => self.join(number),
            Move::Reload(change) => {
                self.change(change);
                self.reload()
            }
            Move::Restart(number) => type_in(host(number), &["restart"]),
            Move::Upgrade(number) => {
                let runs = &mut self.runs[usize::from(number) - 1];
                *runs = 1 - *runs;
                let program = &self.programs[*runs];
                host(number).install_program(program)?;
                type_in(host(number), &["restart"])
            }
            Move::Crash(number) => {
                host(number).kill_agent();
                host(number).start_agent()
            }
        }
    }

    fn leave(&self, number: u8, crowd: Option<&Crowd>) -> Result<()> {
        let host = self.lab.host(number.into());
        let drain = ["drain", "--host", &host.name()];
        type_in(host, &drain)?;
        self.wait_agreed("the others have taken over", |status| owns_nothing(status, host))?;
        if let Some(crowd) = crowd {
            crowd.renew(number)?;
        }
        type_in(host, &[drain.as_slice(), &["--wait"]].concat())?;
        let status = host.stop_agent()?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", host.agent_log(20));
        Ok(())
    }

    fn join(&self, number: u8) -> Result<()> {
        let host = self.lab.host(number.into());
        host.write_definition(&self.definition)?;
        host.start_agent()?;
        self.lab.wait_until("the newcomer is heard", PATIENCE, || {
            Ok(matches!(host.status()?["state"].as_str(), Some("serving" | "draining")))
        })?;
        // Whether it left drained for good is for the agent to say.
        if host.status()?["state"] == "draining" {
            type_in(host, &["resume", "--host", &host.name()])?;
        }
        Ok(())
    }

    /// Writes the change into the definition.
    fn change(&mut self, change: Change) {
        let name = |number: u8| format!("h{number}");
        match change {
            Change::Weight(number, weight) => {
                for member in &mut self.definition.hosts {
                    if member.name == name(number) {
                        member.weight = weight;
                    }
                }
            }
            Change::MoreVips(more) => {
                let added = MORE_VIPS.iter().filter_map(|vip| vip.parse().ok()).filter(|_| more);
                self.definition.vips = self.vips.iter().copied().chain(added).collect();
            }
            Change::Remove(number) => self.definition.hosts.retain(|member| member.name != name(number)),
            Change::Add(number) => {
                let all = &self.lab.definition().hosts;
                self.definition
                    .hosts
                    .extend(all.iter().filter(|member| member.name == name(number)).cloned());
            }
        }
    }

    /// Everybody gets the file before anybody is told to read it.
    fn reload(&self) -> Result<()> {
        for host in self.lab.hosts() {
            host.write_definition(&self.definition)?;
        }
        let living = self.model.living();
        living.iter().try_for_each(|number| type_in(self.lab.host((*number).into()), &["reload"]))
    }

    fn wait_followed(&self, what: Move) -> Result<()> {
        let lab = self.lab;
        let host = |number: u8| lab.host(number.into());
        self.wait_agreed("the cluster agrees", |status| Ok(self.shows(status, what)))?;
        if let Move::Reload(Change::MoreVips(more)) = what {
            for number in self.model.living() {
                lab.wait_until("the host has the addresses", PATIENCE, || {
                    let shown = host(number).netns().run("ip", &["-o", "addr", "show", "dev", "onemac0"])?;
                    let has = |vip: &&str| shown.contains(&format!(" {vip}/"));
                    Ok(MORE_VIPS.iter().all(|vip| has(vip) == more))
                })?;
            }
        }
        Ok(())
    }

    /// What every execution of a program has of its own: where the kernel has put it.
    fn execution(&self, number: u8) -> Result<String> {
        let pid = self.lab.host(number.into()).agent_pid().context("no agent")?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        Ok(maps.lines().next().unwrap_or_default().to_owned())
    }

    /// Waits until the agent has executed its program anew, and that is the one that is there now.
    fn wait_executed(&self, number: u8, former: &str) -> Result<()> {
        let host = self.lab.host(number.into());
        let program = fs::canonicalize(host.program()?)?;
        let executed = || {
            ensure!(self.execution(number)? != former, "it has not been executed");
            let pid = host.agent_pid().context("no agent")?;
            Ok(fs::read_link(format!("/proc/{pid}/exe"))? == program)
        };
        self.lab.wait_until("the agent executes its program", PATIENCE, executed).map(drop)
    }

    /// Whether a host's status shows what the model says of every host.
    fn shows(&self, status: &Value, what: Move) -> bool {
        let hosts: Vec<&Value> = status["hosts"].as_array().into_iter().flatten().collect();
        let defined: Vec<String> = self.model.defined().iter().map(|number| format!("h{number}")).collect();
        let told: BTreeSet<&str> = hosts.iter().filter_map(|host| host["name"].as_str()).collect();
        let may_serve = self.model.may_serve();
        defined.iter().map(String::as_str).collect::<BTreeSet<_>>() == told
            && hosts.iter().all(|host| {
                let Some(number) = host["name"].as_str().and_then(|name| name[1..].parse().ok()) else {
                    return false;
                };
                let changed = match what {
                    Move::Weight(changed, weight) if changed == number => host["weight"] == weight,
                    Move::Reload(Change::Weight(changed, _)) if changed == number => {
                        self.model.weight(number).is_none_or(|weight| host["weight"] == weight)
                    }
                    Move::Drain(changed) | Move::Leave(changed) if changed == number => slices(host) == 0,
                    _ => true,
                };
                changed && (!may_serve.contains(&number) || slices(host) > 0)
            })
    }

    /// Waits until all living agents are of one view, own every slice once between them, and the status of each
    /// shows what is awaited.
    fn wait_agreed(&self, what: &str, shows: impl Fn(&Value) -> Result<bool>) -> Result<Duration> {
        self.lab.wait_until(what, PATIENCE, || {
            let mut views = BTreeSet::new();
            let mut owned = 0;
            let living: Vec<&Host> = self.lab.hosts().iter().filter(|host| host.agent_is_living()).collect();
            let names: BTreeSet<String> = living.iter().map(|host| host.name()).collect();
            for host in &living {
                let status = host.status()?;
                let name = host.name();
                ensure!(status["view"]["agreed"] == true, "{name} is not agreed: view {}", status["view"]);
                let alive = status["hosts"].as_array().into_iter().flatten();
                let alive: BTreeSet<String> = alive
                    .filter(|host| host["alive"] == true)
                    .filter_map(|host| host["name"].as_str().map(str::to_owned))
                    .collect();
                ensure!(alive == names, "{name} believes {alive:?} alive, not {names:?}");
                ensure!(shows(&status)?, "{name} does not show it: {status}");
                views.insert(status["view"]["id"].to_string());
                owned += owned_slices(&status)?;
            }
            let all = u64::from(self.definition.slices);
            ensure!(views.len() == 1 && owned == all, "views {views:?}; {owned} slices of {all} are owned");
            Ok(true)
        })
    }
}

fn owns_nothing(status: &Value, host: &Host) -> Result<bool> {
    let name = host.name();
    let mut hosts = status["hosts"].as_array().into_iter().flatten();
    let told = hosts.find(|told| told["name"] == name.as_str());
    Ok(slices(told.with_context(|| format!("no {name} in the status"))?) == 0)
}

/// Slices of all services of a host, by a status.
fn slices(host: &Value) -> u64 {
    host["slices"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

fn type_in(host: &Host, arguments: &[&str]) -> Result<()> {
    let ended = host.onemac(arguments)?;
    ensure!(
        ended.code == 0,
        "onemac {} on {} ended with {}: {}{}",
        arguments.join(" "),
        host.name(),
        ended.code,
        ended.stdout,
        ended.stderr
    );
    Ok(())
}
