//! Ctrl-C: remove the lab, then go.

use std::thread;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

/// From now on SIGINT and SIGTERM remove the lab of that prefix and end the program. To be called before
/// any other thread is started: threads inherit which signals are held back.
pub fn clean_up_on_ctrl_c(prefix: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let prefix = prefix.to_owned();
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\ndemo: {signal}: removing the lab");
        if let Err(error) = onemac_test_env::remove(&prefix) {
            eprintln!("demo: {error:#}");
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
