//! Runs the system's own tools (`ip`, `bridge`, `nft`) and turns their failures into errors that say
//! what was typed.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it can not be started, or ends with another status than 0; the message holds the command line
/// and what it said on standard error.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    finish(&mut command)
}

/// As [`run`], for a command that is already put together.
pub(crate) fn finish(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start {command:?}"))?;
    judge(command, &output)
}

/// As [`finish`], with `input` on standard input.
pub(crate) fn finish_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {command:?}"))?;
    // The programs given input here read all of it before they write much, so no deadlock on full pipes.
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    judge(command, &output).with_context(|| format!("its input was:\n{input}"))
}

fn judge(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
