//! Waiting for a condition instead of for a time.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Pause between two looks. Short beside every timing under test, long beside one look.
const STEP: Duration = Duration::from_millis(25);

/// An error after which a condition can never come true; [`poll_until`] gives up at once.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl fmt::Display for Hopeless {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Looks again and again until the condition holds, and returns how long that took. A look that fails
/// counts as "not yet", unless its error is [`Hopeless`].
///
/// # Errors
/// When a look is hopeless, or when `limit` is over; the message says how the last look failed, if it did.
pub fn poll_until(limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let look = condition();
        if let Ok(true) = look {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit || matches!(&look, Err(error) if error.is::<Hopeless>()) {
            let last =
                look.err().map(|error| format!("; the last look failed: {error:#}")).unwrap_or_default();
            return Err(anyhow!("not within {:?}{last}", start.elapsed().min(limit)));
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

    #[test]
    fn does_not_wait_for_what_can_never_come() {
        let mut looks = 0;
        let look = || {
            looks += 1;
            Err(Hopeless("dead".to_owned()).into())
        };
        assert!(poll_until(Duration::from_secs(600), look).is_err());
        assert_eq!(looks, 1);
    }
}
