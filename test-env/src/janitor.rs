//! Removes a lab whatever happens to the run: normal end, panic, Ctrl-C, SIGKILL.
//!
//! A small shell waits at the other end of a pipe. When the pipe closes, and the kernel closes it
//! however this process ends, the shell removes the lab's processes, namespaces and directory.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use anyhow::{Context, Result};

use crate::command;

const REMOVE: &str = include_str!("remove.sh");

/// The waiting shell of one lab.
#[derive(Debug)]
pub(crate) struct Janitor {
    child: Child,
}

impl Janitor {
    /// Puts the shell in place, before the first namespace is made.
    ///
    /// `lock`, where another run could have the same prefix, is held until all is removed, so that the
    /// shell never removes what the next run of that name has made.
    pub(crate) fn hire(prefix: &str, dir: &Path, lock: Option<File>) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", REMOVE, "onemac-lab-janitor", prefix])
            .arg(dir)
            .arg("wait")
            .process_group(0)
            .stdin(Stdio::piped())
            // It prints nothing; what it inherits is the lock.
            .stdout(lock.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            .spawn()
            .context("could not start sh, which is to clean up after the lab")?;
        Ok(Self { child })
    }

    /// Lets the lab stand when this process ends.
    pub(crate) fn dismiss(&mut self) -> Result<()> {
        let mut input = self.child.stdin.take().context("the janitor was dismissed before")?;
        input.write_all(b"keep\n")?;
        drop(input);
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing more can be done here about a shell that is gone; the next run finds the left-overs.
        let _ = self.child.wait();
    }
}

/// Makes sure that no other run uses this prefix. The empty lock file stays.
///
/// # Errors
/// When one does.
pub(crate) fn lock(prefix: &str) -> Result<File> {
    let path = directory(prefix).with_extension("lock");
    let file = File::create(&path).with_context(|| format!("could not make {}", path.display()))?;
    file.try_lock().with_context(|| format!("another lab named {prefix} is running or being removed"))?;
    Ok(file)
}

/// Removes every namespace whose name starts with `prefix`, the processes in them, and the directory
/// of that lab.
///
/// # Errors
/// When the shell can not be started.
pub fn remove(prefix: &str) -> Result<()> {
    let dir = directory(prefix);
    command::finish(Command::new("sh").args(["-c", REMOVE, "onemac-lab-remove", prefix]).arg(dir)).map(drop)
}

/// Where the lab of that prefix keeps its files.
pub(crate) fn directory(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(format!("onemac-lab-{}", prefix.trim_end_matches('-')))
}

/// Removes what runs left whose process is gone, once per process. A lab that was told to stay has no
/// number in its prefix and is not touched.
pub(crate) fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for prefix in dead_prefixes() {
            // A left-over that resists harms nobody: names are unique per run.
            let _ = remove(&prefix);
        }
    });
}

fn dead_prefixes() -> Vec<String> {
    let namespaces = names_in(Path::new("/run/netns"));
    let directories = names_in(&std::env::temp_dir());
    let mut prefixes: Vec<String> = namespaces
        .iter()
        .map(String::as_str)
        .chain(directories.iter().filter_map(|name| name.strip_prefix("onemac-lab-")))
        .filter_map(numbered_prefix)
        .filter(|(pid, _)| !Path::new(&format!("/proc/{pid}")).exists())
        .map(|(_, prefix)| prefix)
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

fn names_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default()
}

/// `om<pid>-<n>-h1` gives the pid and `om<pid>-<n>-`.
fn numbered_prefix(name: &str) -> Option<(u32, String)> {
    let mut parts = name.strip_prefix("om")?.splitn(3, '-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    Some((pid, format!("om{pid}-{number}-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names_and_no_others() {
        assert_eq!(numbered_prefix("om12-3-h1"), Some((12, "om12-3-".to_owned())));
        assert_eq!(numbered_prefix("om12-3"), Some((12, "om12-3-".to_owned())));
        for other in ["om-demo-h1", "omega", "om12", "om12-x-h1", "web12-3-h1"] {
            assert_eq!(numbered_prefix(other), None, "{other}");
        }
    }
}
