//! The shipped systemd unit, as far as systemd-analyze can judge it without a running systemd. What it does on a
//! machine that boots, stops and crashes is tried by `test-env/booted`.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

use std::path::PathBuf;
use std::process::Command;

/// The unit, with this program for the one that is not installed here, in a directory of its own.
fn unit(name: &str) -> PathBuf {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/systemd/onemac.service");
    let text = std::fs::read_to_string(shipped).unwrap();
    let installed = "/usr/sbin/onemac";
    assert!(text.contains(installed));
    let directory = std::env::temp_dir().join(format!("onemac-unit-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("onemac.service");
    std::fs::write(&file, text.replace(installed, env!("CARGO_BIN_EXE_onemac"))).unwrap();
    file
}

fn analyze(name: &str, arguments: &[&str]) -> String {
    let file = unit(name);
    let output = Command::new("systemd-analyze").args(arguments).arg(&file).output().unwrap();
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    let said = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    assert!(output.status.success(), "systemd-analyze {arguments:?}: {said}");
    said
}

#[test]
fn systemd_takes_every_line_of_it() {
    assert_eq!(analyze("verify", &["verify", "--man=no"]).trim(), "");
}

/// What an agent that somebody has taken over could still do: 10 is everything, 3.0 is the most that is allowed.
#[test]
fn its_exposure_is_small() {
    analyze("security", &["security", "--no-pager", "--offline=true", "--threshold=30"]);
}
