//! The `onemac` program: reads the command line, says what came of it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use onemac::cli::Cli;
use onemac::command;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A reader that has seen enough (`onemac slices | head`) ends us quietly, as it does other tools.
    // SAFETY: called before any thread exists; the default action of SIGPIPE needs no handler.
    unsafe {
        let _ = nix::sys::signal::signal(nix::sys::signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl);
    }
    match command::execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format!("onemac: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

/// Prints to standard error, and goes on after a second if nobody reads there.
fn say(text: String) {
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{text}");
        said.send(())
    });
    let _ = heard.recv_timeout(Duration::from_secs(1));
}
