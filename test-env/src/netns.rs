//! One network namespace: made, entered, configured, removed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::command;

/// A named network namespace, as `ip netns` knows it. It is not removed on drop: the lab's janitor
/// removes all namespaces of a lab together.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace and brings its loopback up.
    ///
    /// # Errors
    /// When the name is taken or the caller is not root.
    pub fn create(name: &str) -> Result<Self> {
        command::run("ip", &["netns", "add", name])?;
        let netns = Self { name: name.to_owned() };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the name; the namespace itself goes with its last process and socket.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn delete(&self) -> Result<()> {
        command::run("ip", &["netns", "del", &self.name]).map(drop)
    }

    /// Runs `ip` commands, one a line without the leading `ip`, in this namespace and in one process.
    ///
    /// # Errors
    /// At the first line that fails; the message has the whole batch and the number of the line.
    pub fn ip(&self, batch: &str) -> Result<String> {
        command::finish_with_input(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), batch)
    }

    /// A command that will run in this namespace, with a `/sys` that fits it. `ip netns exec` replaces
    /// itself by the program, so the process id of the child is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program in this namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        command::finish(self.command(program).args(args))
    }

    /// Moves the calling thread into this namespace, for good. Sockets that it opens from now on live
    /// there and stay there, whichever thread uses them.
    ///
    /// # Errors
    /// When the namespace is gone or the caller is not root.
    pub fn enter(&self) -> Result<()> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| format!("no namespace at {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("could not enter namespace {}", self.name))
    }

    /// Runs a closure on a thread of its own inside this namespace and returns what it returned.
    ///
    /// # Errors
    /// When the namespace can not be entered, or the closure fails or panics.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// Writes sysctls of this namespace, named with dots as for `sysctl -w`.
    ///
    /// # Errors
    /// At the first that the kernel does not know or does not take.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.within(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                fs::write(&path, value)
                    .with_context(|| format!("could not write {value} to {path} in {}", self.name))?;
            }
            Ok(())
        })
    }
}
