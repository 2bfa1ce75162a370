//! Too little memory: the agents share a cgroup of a small limit with programs that want more than that, or programs
//! write more than the whole machine has.
//!
//! Swap is used if the machine has it; none is made. Without it, only what can be read again from a file (programs
//! among it) is taken from the agents, and the whole machine is left alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::process::Process;

/// For four agents and the eaters together.
const LIMIT: u64 = 128 << 20;
/// What is read again and again.
const FILE: u64 = 1 << 30;
/// By one process of those that write more than the machine has.
const WRITTEN_BY_EACH: u64 = 128 << 20;
/// An emulated machine takes long to write that much.
const SWAPS_WITHIN: Duration = Duration::from_secs(300);
/// Bytes in what the kernel counts.
const PAGE: u64 = 4096;

/// A cgroup under pressure. Dropping it ends the eaters, lets the agents out and removes the group.
#[derive(Debug)]
pub struct Pressure {
    eaters: Vec<Process>,
    group: PathBuf,
    /// What was done, in words.
    pub what: String,
}

impl Pressure {
    /// Puts all agents of a lab under pressure.
    ///
    /// # Errors
    /// When this machine has no memory cgroups, or they cannot be changed.
    pub fn start(lab: &Lab) -> Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = root.join(format!("{}memory", lab.prefix()));
        if !v1.is_dir() {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&group).with_context(|| format!("no memory cgroup at {}", group.display()))?;
        let swap = has_swap()?;
        let mut pressure = Self { eaters: Vec::new(), group, what: String::new() };
        let limit = if v1.is_dir() { "memory.limit_in_bytes" } else { "memory.max" };
        pressure.write(limit, LIMIT)?;
        if v1.is_dir() {
            // What the agents have already comes with them: their own memory and the files that they map.
            let _ = pressure.write("memory.move_charge_at_immigrate", 3);
        }
        for pid in lab.hosts().iter().filter_map(|host| host.agent_pid()) {
            pressure.join(pid)?;
        }
        let file = lab.dir().join("eaten");
        File::create(&file)?.set_len(FILE)?;
        let read = format!("while :; do cat {} >/dev/null; done", file.display());
        // dd's buffer is memory of its own, written again and again. More than fits only where it can be swapped out.
        let own = if swap { LIMIT } else { LIMIT / 4 };
        let write = format!("while :; do dd if=/dev/zero of=/dev/null bs={own} count=50 2>/dev/null; done");
        for script in [&read, &write] {
            let mut command = Command::new("sh");
            // They join before they eat.
            let join = format!("echo $$ > {}/cgroup.procs", pressure.group.display());
            command.args(["-c", &format!("{join} && {script}")]);
            let log = lab.dir().join("eaters.log");
            pressure.eaters.push(Process::start(command, "an eater of memory", &log, false)?);
        }
        pressure.what = format!(
            "{} MiB of memory for all agents, a reader of a file of {} MiB and a writer of {} MiB of its own; {}",
            LIMIT >> 20,
            FILE >> 20,
            own >> 20,
            if swap { "the machine's swap is used" } else { "the machine has no swap" }
        );
        Ok(pressure)
    }

    fn join(&self, pid: Pid) -> Result<()> {
        self.write("cgroup.procs", pid)
    }

    fn write(&self, file: &str, value: impl ToString) -> Result<()> {
        let path = self.group.join(file);
        fs::write(&path, value.to_string()).with_context(|| format!("could not write {}", path.display()))
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.eaters.clear();
        let root = self.group.parent().unwrap_or(&self.group);
        let left = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines() {
            let _ = fs::write(root.join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("{} stays: {error}", self.group.display());
        }
    }
}

/// A machine that swaps, with everything on it. Dropping it ends the writers.
#[derive(Debug)]
pub struct Swapping {
    _writers: Vec<Process>,
    written: u64,
    before: Swapped,
}

impl Swapping {
    /// Writers of half as much more memory than the machine has, again and again; returns when it swaps.
    ///
    /// # Errors
    /// When the machine has not swap enough for that, or does not swap all the same.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (memory, swap) = (meminfo("MemTotal")?, meminfo("SwapFree")?);
        let wanted = memory + memory / 2;
        ensure!(swap >= memory, "{} MiB of swap for {} MiB of memory", swap >> 20, memory >> 20);
        let before = Swapped::now()?;
        let writers = (0..wanted / WRITTEN_BY_EACH).map(|_| {
            let mut command = Command::new("sh");
            // The first to be killed, should that memory run out too; and ordinary, whoever starts them.
            command.args([
                "-c",
                &format!(
                    "echo 1000 >/proc/self/oom_score_adj; exec nice -n 20 \
                     dd if=/dev/zero of=/dev/null bs={WRITTEN_BY_EACH} 2>/dev/null"
                ),
            ]);
            Process::start(command, "a writer of memory", &lab.dir().join("writers.log"), false)
        });
        let swapping = Self { _writers: writers.collect::<Result<_>>()?, written: wanted, before };
        lab.wait_until("the machine swaps", SWAPS_WITHIN, || {
            Ok((Swapped::now()?.out - swapping.before.out) * PAGE >= memory / 8)
        })?;
        Ok(swapping)
    }

    /// What was done so far, in words.
    ///
    /// # Errors
    /// When the kernel does not say what it swaps.
    pub fn what(&self) -> Result<String> {
        let now = Swapped::now()?;
        Ok(format!(
            "{} MiB written again and again, of {} MiB that the machine has; {} MiB swapped out, {} MiB in",
            self.written >> 20,
            meminfo("MemTotal")? >> 20,
            ((now.out - self.before.out) * PAGE) >> 20,
            ((now.back - self.before.back) * PAGE) >> 20
        ))
    }
}

/// What the kernel has swapped since it started, in pages.
#[derive(Debug)]
struct Swapped {
    out: u64,
    back: u64,
}

impl Swapped {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/vmstat").context("no /proc/vmstat")?;
        let count = |name| number_after(&text, name);
        Ok(Self { out: count("pswpout ")?, back: count("pswpin ")? })
    }
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("no /proc/meminfo")?;
    Ok(number_after(&text, &format!("{name}:"))? << 10)
}

fn number_after(text: &str, name: &str) -> Result<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let number = rest.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{name} {number}"))
}

fn has_swap() -> Result<bool> {
    let swaps = fs::read_to_string("/proc/swaps").context("no /proc/swaps")?;
    ensure!(!swaps.is_empty(), "/proc/swaps is empty");
    Ok(swaps.lines().count() > 1)
}
