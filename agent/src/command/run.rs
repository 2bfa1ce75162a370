//! `onemac run`, as far as it is a command.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use tracing_subscriber::EnvFilter;

use crate::daemon::{self, priority};
use crate::failure::{Failure, Result};
use crate::log::Log;

/// For so long the last lines of the log may hold up the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the agent until it ends.
pub fn run(config: &Path, host: Option<&str>, record: Option<&Path>, run_dir: &Path) -> Result<()> {
    // A journal that is restarted, or a pipe whose reader has gone, costs lines of the log and not the agent.
    // SAFETY: no thread exists yet, and to ignore SIGPIPE needs no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    // Before any thread, which inherits it: a starved one would hold up whoever shares a lock with it.
    let raised = priority::raise();
    let log = Log::to_stderr().map_err(|e| Failure::failed(format_args!("cannot start the log: {e}")))?;
    let _last_lines = LastLines(log.clone());
    start_log(&log);
    if let Err(error) = raised {
        tracing::info!("no real-time priority ({error}): on a busy machine the lease may run out");
    }
    runtime()?.block_on(daemon::run(config, host, record, run_dir, log))
}

fn start_log(log: &Log) {
    // chitchat warns of every dead seed in every round; who is alive is told by the core.
    let filter =
        EnvFilter::try_from_env("ONEMAC_LOG").unwrap_or_else(|_| EnvFilter::new("info,chitchat=error"));
    let writer = log.clone();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // systemd's journal has the time already.
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().init(),
        None => lines.init(),
    }
    // The usual hook writes to standard error itself, and would hold up the end for as long as nobody reads there.
    panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
}

/// Waits for the log, however the agent ends.
struct LastLines(Log);

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.finish(LAST_LINES);
    }
}

/// One thread is enough for all that an agent has to say; the rules have their own.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format_args!("cannot start the runtime: {e}")))
}
