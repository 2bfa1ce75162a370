//! The program under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// Where the program under test is: `$ONEMAC_BIN`, else `onemac` in the build directory that this
/// program came from.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("ONEMAC_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside(&std::env::current_exe()?).context("this program is in no build directory")?,
    };
    ensure!(
        path.is_file(),
        "no {}: build it (cargo build -p onemac) or name another in ONEMAC_BIN",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// `target/debug/deps/test-1234` and `target/debug/onemac-demo` both give `target/debug/onemac`.
fn beside(program: &Path) -> Option<PathBuf> {
    let dir = program.parent()?;
    let dir = if dir.ends_with("deps") { dir.parent()? } else { dir };
    Some(dir.join("onemac"))
}

/// One running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub process: Process,
    /// Stopped by SIGSTOP: runs, but does not live.
    pub paused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_build_directory() {
        for program in ["/t/debug/deps/shares-0123", "/t/debug/onemac-demo"] {
            assert_eq!(beside(Path::new(program)), Some(PathBuf::from("/t/debug/onemac")));
        }
    }
}
