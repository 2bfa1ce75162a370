//! A program that runs in a namespace beside the test: known by its process id, its output in a file,
//! killed when the handle goes.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::poll_until;

/// A running program. Dropping the handle kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`. Unless `outlives` is set, the kernel kills
    /// the program when the thread that started it ends, so start long-lived ones from a thread that
    /// stays.
    ///
    /// # Errors
    /// When the log can not be opened or the program not be started.
    pub fn start(command: Command, what: &str, log: &Path, outlives: bool) -> Result<Self> {
        let out = open_log(log)?;
        Self::start_to(command, what, log, out.into(), outlives)
    }

    /// As [`Self::start`], with both outputs to `out`, whose reader writes the log.
    ///
    /// # Errors
    /// When the program can not be started.
    pub fn start_to(
        mut command: Command,
        what: &str,
        log: &Path,
        out: OwnedFd,
        outlives: bool,
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        // A group of its own: Ctrl-C in the terminal is for the lab, which then ends its programs.
        command.process_group(0);
        if !outlives {
            // SAFETY: prctl is a plain system call, safe between fork and exec.
            unsafe {
                command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
            }
        }
        let child = command.spawn().with_context(|| format!("could not start {what}: {command:?}"))?;
        Ok(Self { child, what: what.to_owned(), log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        // A pid fits an i32 on Linux; std only widens it.
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("could not send {signal} to {}", self.what))
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`; the message holds the end of its log.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let waited = poll_until(limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        });
        match status {
            Some(status) => Ok(status),
            None => {
                bail!("{} did not end ({:?}); its log ends:\n{}", self.what, waited.err(), self.log_tail(20))
            }
        }
    }

    /// Ends it at once, as a crash would, and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of its output.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The exit code as a shell shows it: 128 and the signal for a program that a signal ended.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The last lines of a text file; a note in brackets when it can not be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("could not open the log {}", path.display()))
}
