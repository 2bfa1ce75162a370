//! True time, and the clocks of the hosts.

use std::time::Duration;

use onemac_core::time::Time;

/// True time in nanoseconds since the world began. No host can read it.
pub type At = u64;

/// A millisecond of true time.
pub const MS: At = 1_000_000;

/// A duration in true time.
pub fn nanos(d: Duration) -> At {
    d.as_nanos() as At
}

/// A host's clock: it began somewhere, and runs fast or slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed when the world began.
    pub origin: u64,
    /// How much faster than true time it runs, in millionths.
    pub fast_ppm: i64,
}

impl Clock {
    /// What the clock shows.
    pub fn read(&self, at: At) -> Time {
        let rate = u128::from((1_000_000 + self.fast_ppm).unsigned_abs());
        Time(self.origin + (u128::from(at) * rate / 1_000_000) as u64)
    }

    /// How long something lasts that this clock measures.
    pub fn lasts(&self, d: Duration) -> At {
        self.when(Time(self.origin + nanos(d)))
    }

    /// The first moment at which the clock shows `time` or more.
    pub fn when(&self, time: Time) -> At {
        let rate = u128::from((1_000_000 + self.fast_ppm).unsigned_abs());
        let passed = u128::from(time.0.saturating_sub(self.origin));
        (passed * 1_000_000).div_ceil(rate) as At
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_says_it_will_and_not_before() {
        for fast_ppm in [-30_000, -1, 0, 17, 30_000] {
            let clock = Clock { origin: 12_345, fast_ppm };
            for at in [0, 1, MS, 3_333_333_333, 77 * MS + 1] {
                let shown = clock.read(at);
                let when = clock.when(shown);
                assert!(when <= at && clock.read(when) >= shown);
                assert!(when == 0 || clock.read(when - 1) < shown);
            }
        }
    }
}
