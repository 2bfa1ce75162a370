//! Instants and the durations of the protocol. The core never reads a clock; it is told the time.

use core::ops::{Add, Sub};
use core::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant on one host's monotonic clock, in nanoseconds since an origin of the caller's choice.
///
/// The daemon uses `CLOCK_BOOTTIME`, which goes on through a suspend: a host that slept must notice.
/// Instants of different hosts are not comparable and are never sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The instant `ms` milliseconds after the origin.
    pub const fn from_millis(ms: u64) -> Self {
        Time(ms * 1_000_000)
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The durations that the protocol runs by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between two heartbeats of a host.
    pub heartbeat: Duration,
    /// For how long a kernel accepts after the last heartbeat that its agent sent.
    pub lease: Duration,
}

impl Timing {
    /// What a peer waits beyond the lease before it holds a silent host for gone.
    ///
    /// 20 ms cover the granularity of the kernel's timers (a set element lives up to one jiffy too long,
    /// 10 ms at HZ=100) and the reading of the clocks around them; a sixteenth of the lease covers two
    /// clocks that run at rates up to 6 % apart, two orders beyond what NTP slews (500 ppm).
    pub fn margin(&self) -> Duration {
        Duration::from_millis(20) + self.lease / 16
    }

    /// Silence after which a host counts as gone: the lease and the margin.
    pub fn expiry(&self) -> Duration {
        self.lease + self.margin()
    }

    /// Silence that means something. A peer that has been silent for so long does not bound our lease any more: it is dead
    /// or out of reach. And whoever has heard nothing at all for so long is deaf. Long enough to lose two words in a row,
    /// with a lease of five heartbeats; short enough that our lease, or the others', can still be renewed.
    pub fn silence(&self) -> Duration {
        self.lease / 2
    }

    /// A gap between two steps of one's own beyond which a host has been stopped or starved, and must
    /// start over as a newcomer: by then its lease has run out and the others may have divided its share.
    pub fn stall(&self) -> Duration {
        self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_of_the_default_and_the_fast_timing() {
        let ms = Duration::from_millis;
        let t = Timing { heartbeat: ms(100), lease: ms(800) };
        assert_eq!((t.margin(), t.expiry()), (ms(70), ms(870)));
        let fast = Timing { heartbeat: ms(50), lease: ms(250) };
        assert_eq!(fast.expiry(), Duration::from_micros(285_625));
    }

    #[test]
    fn instants_saturate_instead_of_wrapping() {
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(5) - Duration::from_secs(1), Time(0));
        assert_eq!(Time(u64::MAX) + Duration::from_secs(1), Time(u64::MAX));
    }
}
