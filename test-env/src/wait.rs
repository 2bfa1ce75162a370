//! Waiting for a condition instead of for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Pause between two looks. Short beside every timing under test, long beside one look.
const STEP: Duration = Duration::from_millis(25);

/// Looks again and again until the condition holds, and returns how long that took. A look that fails
/// counts as "not yet".
///
/// # Errors
/// When `limit` is over; the message says how the last look failed, if it did.
pub fn poll_until(limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let look = condition();
        if let Ok(true) = look {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit {
            let last =
                look.err().map(|error| format!("; the last look failed: {error:#}")).unwrap_or_default();
            return Err(anyhow!("not within {limit:?}{last}"));
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        poll_until(Duration::from_secs(60), || {
            looks += 1;
            Ok(looks == 3)
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn gives_up_and_says_how_the_last_look_failed() {
        let error = poll_until(Duration::ZERO, || Err(anyhow!("no such thing"))).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }
}
