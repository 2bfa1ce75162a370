//! The two clocks of a host. The only place of the agent that reads either.

use nix::time::{ClockId, clock_gettime};
use onemac_core::time::Time;

/// The monotonic clock of the protocol: `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
pub fn now() -> Time {
    Time(nanoseconds(ClockId::CLOCK_BOOTTIME))
}

/// The wall clock, nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel that has the rules; a failure would be a broken libc.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
