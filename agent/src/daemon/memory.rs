//! The agent's memory stays where it is: a page that has to come back from a slow disk could cost the lease.

use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

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
    // With a limit some later allocation would fail, which is worse than a slow page.
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|e| e.to_string())?.0;
    if limit != RLIM_INFINITY && !is_above_limits() {
        return Err(format!("its limit is {} KiB", limit / 1024));
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::MCL_FUTURE | on_fault))
        .map_err(|error| format!("mlockall: {error}"))
}

/// Whether this process has CAP_IPC_LOCK.
fn is_above_limits() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    capabilities.is_some_and(|all| all & CAP_IPC_LOCK != 0)
}
