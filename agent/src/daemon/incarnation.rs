//! A number for every life of an agent, greater than those before.
//!
//! The wall clock in milliseconds, or one more than the last one used where the clock went back. The run
//! directory does not survive a boot; if the clock is wrong after one, the peers' memory corrects us.

use std::fs;
use std::path::Path;

use crate::clock;
use crate::failure::{Failure, Result};
use crate::files;

/// Picks and remembers the next incarnation.
pub fn next(run_dir: &Path) -> Result<u64> {
    let file = run_dir.join("incarnation");
    let last: u64 = fs::read_to_string(&file).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    let next = (clock::unix_ns() / 1_000_000).max(last.saturating_add(1));
    files::replace(&file, format!("{next}\n").as_bytes())
        .map_err(|e| Failure::failed(format_args!("cannot write {}: {e}", file.display())))?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    #[test]
    fn grows_even_if_the_clock_does_not() {
        let dir = std::env::temp_dir().join(format!("onemac-incarnation-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let future = u64::MAX / 2;
        std::fs::write(dir.join("incarnation"), future.to_string()).unwrap();
        assert_eq!(super::next(&dir).unwrap(), future + 1);
        assert_eq!(super::next(&dir).unwrap(), future + 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
