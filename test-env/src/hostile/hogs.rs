//! Programs that take all the processor time they get, at every priority below the agent's.

use std::process::Command;

use anyhow::Result;

use crate::lab::Lab;
use crate::process::Process;

/// What each of them makes of itself: ordinary programs from the humblest to the greediest, batch and idle ones. The
/// agent has the lowest real-time priority, so these are all that stand below it.
const KINDS: &[&str] = &[
    "renice -n 19 -p $$",
    "renice -n 0 -p $$",
    "renice -n -20 -p $$",
    "renice -n 0 -p $$ && chrt --batch --pid 0 $$",
    "chrt --idle --pid 0 $$",
];

/// Some of each kind. Dropping it ends them.
#[derive(Debug)]
pub struct Hogs {
    _hogs: Vec<Process>,
}

impl Hogs {
    /// Starts as many of each kind as there are processors.
    ///
    /// # Errors
    /// When a program cannot be started.
    pub fn start(lab: &Lab) -> Result<Self> {
        let processors = std::thread::available_parallelism()?.get();
        let start = |kind: &&str| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{kind} && while :; do :; done")]);
            Process::start(command, "a hog", &lab.dir().join("hogs.log"), false)
        };
        let kinds = KINDS.iter().flat_map(|kind| std::iter::repeat_n(kind, processors));
        Ok(Self { _hogs: kinds.map(start).collect::<Result<_>>()? })
    }
}
