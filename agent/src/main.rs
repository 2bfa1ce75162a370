//! The `onemac` program: reads the command line, says what came of it.

use std::process::ExitCode;

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
            eprintln!("onemac: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
