//! The agent's memory stays where it is: a page that has to come back from a slow disk could cost the lease.

use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::warnings::Warnings;

/// Locks all memory, present and future.
///
/// What is there now, the program itself above all, is read in at once. What comes later is locked when it is first
/// used: threads' stacks would otherwise take two MiB each.
pub fn lock(warnings: &Warnings) {
    if let Err(why) = try_to_lock() {
        warnings.raise(
            "memory",
            format!(
                "the agent's memory is not locked ({why}): on a machine short of memory the lease may run out"
            ),
            "start the agent as root, or set LimitMEMLOCK=infinity in its unit (ulimit -l unlimited)",
        );
    }
}

fn try_to_lock() -> Result<(), String> {
    // Only allowed to root; with a limit, some later allocation would fail, which is worse than a slow page.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| e.to_string())?.0;
    if limit != RLIM_INFINITY {
        return Err(format!("its limit is {} KiB", limit / 1024));
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::MCL_FUTURE | on_fault))
        .map_err(|error| format!("mlockall: {error}"))
}
