//! The agent runs before ordinary programs: it has little to do, but its kernel serves only as long as it
//! does that in time. Sixteen agents beside four busy loops lost leases and counted each other dead at
//! ordinary priority, and neither with this (`test-env/bench/crowd`).

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};

/// The lowest priority of the real-time policies: above everything ordinary, below everything else.
const PRIORITY: i32 = 1;

/// An agent that computes for so long without a pause has gone wrong; the kernel ends it (SIGXCPU), and
/// the lease its serving. In microseconds.
const RUNAWAY_US: u64 = 10_000_000;

/// Asks for round-robin real-time scheduling of this and all later threads. An agent does without it if it must.
pub fn raise() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameters are initialised and live through the call, which keeps no pointer to them.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) } != 0;
    if refused {
        return Err(std::io::Error::last_os_error());
    }
    // Without this limit it is a runaway agent that does not end, and its lease ends all the same.
    let _ = setrlimit(Resource::RLIMIT_RTTIME, RUNAWAY_US, RUNAWAY_US);
    Ok(())
}
