//! Programs that have their files in fixed places (`/etc/ufw`, `/run`): on a host of the lab they find directories of
//! that host's there. This machine's own stay as they are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::host::Host;
use crate::netns::Netns;

/// `ip netns exec` has given the shell a mount namespace of its own already, from which nothing gets out.
const MOUNT: &str =
    "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\"; shift 2; done; shift; exec \"$@\"";

/// Directories of one host, each in the place of one of the machine's.
#[derive(Debug)]
pub struct OwnFiles {
    netns: Netns,
    dir: PathBuf,
    places: Vec<String>,
}

impl OwnFiles {
    /// Empty directories in these places, which this machine must have.
    ///
    /// # Errors
    /// When they can not be made.
    pub fn new(host: &Host, places: &[&str]) -> Result<Self> {
        let places = places.iter().map(|&place| place.to_owned()).collect();
        let files = Self { netns: host.netns().clone(), dir: host.dir().join("files"), places };
        for place in &files.places {
            let dir = files.at(place);
            fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        }
        Ok(files)
    }

    /// Where that what the programs see at `place` really is.
    #[must_use]
    pub fn at(&self, place: &str) -> PathBuf {
        self.dir.join(place.trim_start_matches('/'))
    }

    /// Copies files of this machine into the directory that the programs see at `into`.
    ///
    /// # Errors
    /// When one is not there.
    pub fn copy(&self, files: &[&str], into: &str) -> Result<()> {
        for file in files {
            let name = file.rsplit('/').next().context("no name")?;
            fs::copy(file, self.at(into).join(name)).with_context(|| format!("could not copy {file}"))?;
        }
        Ok(())
    }

    /// A command that will run on the host with these files; the child's process id is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command("sh");
        command.args(["-ec", MOUNT, "sh"]);
        for place in &self.places {
            command.arg(self.at(place)).arg(place);
        }
        command.args(["--", program]);
        command
    }

    /// Runs a program on the host to its end and returns its standard output.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        command::finish(self.command(program).args(args))
    }
}
