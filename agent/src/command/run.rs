//! `onemac run`, as far as it is a command.

use std::io::IsTerminal;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use crate::daemon;
use crate::failure::{Failure, Result};

/// Runs the agent until it ends.
pub fn run(config: &Path, host: Option<&str>, record: Option<&Path>, run_dir: &Path) -> Result<()> {
    // chitchat warns of every dead seed in every round; who is alive is told by the core.
    let filter =
        EnvFilter::try_from_env("ONEMAC_LOG").unwrap_or_else(|_| EnvFilter::new("info,chitchat=error"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // systemd's journal has the time already.
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().init(),
        None => log.init(),
    }
    runtime()?.block_on(daemon::run(config, host, record, run_dir))
}

/// One thread is enough for all that an agent has to say; the rules have their own.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format_args!("can not start the runtime: {e}")))
}
