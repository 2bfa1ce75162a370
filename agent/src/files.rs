//! Small files of the run directory.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces a file, whole or not at all: a reader, or an agent that starts after this one has died in the middle, never
/// finds half of it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    // What a full disk has cut off would keep it full.
    fs::write(&new, bytes).and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}
