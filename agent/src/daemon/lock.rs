//! One agent a network namespace: two would fight over the same device and the same rules.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::failure::{Failure, Result};

/// Nobody but root can make anything in its parent, so nobody else can be here first.
const DIRECTORY: &str = "/run/onemac-lock";

/// Held by the agent for as long as it lives; the kernel lets go of it when the process ends, however it
/// ends. The file is named after the network namespace, to which belongs what the agent makes.
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Lock {
    /// Takes the lock, or says that an agent has it.
    pub fn take() -> Result<Self> {
        Self::take_in(Path::new(DIRECTORY))
    }

    fn take_in(directory: &Path) -> Result<Self> {
        let cannot = |e: io::Error| {
            Failure::failed(format_args!(
                "cannot take the agent's lock in {}: {e}; run onemac as root",
                directory.display()
            ))
        };
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(e)),
            _ => {}
        }
        let found = fs::symlink_metadata(directory).map_err(cannot)?;
        let me = nix::unistd::geteuid().as_raw();
        if !found.is_dir() || (found.uid() != 0 && found.uid() != me) || found.mode() & 0o022 != 0 {
            return Err(Failure::failed(format_args!(
                "{} is not a directory that only root can write to: remove it and start the agent again",
                directory.display()
            )));
        }
        let namespace = fs::metadata("/proc/self/ns/net").map_err(cannot)?.ino();
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(format!("netns-{namespace}")))
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Failure::failed(
                "another onemac agent runs on this host (in this network namespace): stop it first; \
                 `onemac status` asks it, with --run-dir if it has another one",
            )),
            Err(TryLockError::Error(e)) => Err(cannot(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_held_by_one_and_refuses_a_directory_that_others_can_write_to() {
        let directory = std::env::temp_dir().join(format!("onemac-lock-{}", std::process::id()));
        let held = Lock::take_in(&directory).unwrap();
        let refused = Lock::take_in(&directory).err().unwrap().to_string();
        assert!(refused.contains("another onemac agent"), "{refused}");
        drop(held);
        drop(Lock::take_in(&directory).unwrap());
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Lock::take_in(&directory).err().unwrap().to_string();
        assert!(refused.contains("only root"), "{refused}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
