//! What must be absent from the core: clocks, sockets, files, threads, randomness, netlink, tokio.
//!
//! `no_std` keeps std out of the crate itself; the allow-list below keeps it from coming back through a
//! dependency that wraps it.
#![allow(clippy::unwrap_used, reason = "a test that can not go on ends")]

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that the core may stand on, directly or through others. Build-time helpers included.
const ALLOWED: &[&str] = &[
    "arrayref",
    "arrayvec",
    "blake3",
    "cc",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "find-msvc-tools",
    "onemac-core",
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "shlex",
    "syn",
    "unicode-ident",
    "libc",
];

#[test]
fn the_core_stands_on_nothing_that_reaches_a_clock_or_a_socket() {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "onemac-core",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let found: BTreeSet<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(found.contains("blake3"), "cargo tree said nothing useful: {text}");
    let strangers: Vec<_> = found.iter().filter(|name| !ALLOWED.contains(name)).collect();
    assert!(strangers.is_empty(), "new in the core's dependencies: {strangers:?}");
}

#[test]
fn the_core_is_no_std_and_asks_for_no_std_features() {
    let lib = include_str!("../src/lib.rs");
    assert!(lib.contains("\n#![no_std]\n") && lib.contains("\n#![forbid(unsafe_code)]\n"));
    for (file, text) in sources() {
        let tests = file.ends_with("tests.rs");
        assert!(tests || !text.contains("extern crate std"), "{file} brings std back");
    }
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    assert!(!dependencies.contains("\"std\""), "a dependency of the core is asked for its std feature");
}

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &std::path::Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else {
                found.push((entry.display().to_string(), std::fs::read_to_string(&entry).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 8);
    found
}
