//! The agent's ear for its operator: HTTP with JSON on a Unix socket in the run directory.
//!
//! `curl --unix-socket /run/onemac/control.sock http://localhost/status` works as well as `onemac status`.

pub mod client;
pub mod model;
pub mod server;

use std::path::{Path, PathBuf};

/// Where an agent puts its run-time files unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/onemac";

/// The control socket in a run directory.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}
