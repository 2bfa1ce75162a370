//! The table of broken definitions: `broken/NNN-name.yaml` must give exactly `broken/NNN-name.txt`.
//!
//! `ONEMAC_BLESS=1 cargo test -p onemac-definition --test broken` rewrites the expectations. Read
//! every changed one by eye: it is what somebody gets to see at three in the morning.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken")
}

/// The file names with that extension, sorted, without the extension.
fn stems(extension: &str) -> Vec<String> {
    let mut stems: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    stems.sort();
    stems
}

fn messages(stem: &str) -> String {
    let name = format!("{stem}.yaml");
    let text = fs::read_to_string(folder().join(&name)).unwrap();
    match onemac_definition::parse(&name, &text) {
        Ok(definition) => panic!("{name} was accepted:\n{}", definition.to_yaml()),
        Err(problems) => format!("{problems}\n"),
    }
}

#[test]
fn every_broken_definition_gives_its_message() {
    let bless = std::env::var_os("ONEMAC_BLESS").is_some();
    let mut wrong = Vec::new();
    for stem in stems("yaml") {
        let got = messages(&stem);
        let golden = folder().join(format!("{stem}.txt"));
        if bless {
            fs::write(&golden, &got).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            wrong.push(format!("--- {stem}: expected\n{expected}--- got\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_is_whole() {
    let broken = stems("yaml");
    assert_eq!(broken, stems("txt"), "a .yaml without .txt, or the other way round");
    assert!(broken.len() >= 70, "{} broken definitions", broken.len());
}

#[test]
fn problems_stand_in_the_order_of_the_file_and_point_into_it() {
    for stem in stems("yaml") {
        let text = fs::read_to_string(folder().join(format!("{stem}.yaml"))).unwrap();
        let problems = onemac_definition::parse(&stem, &text).unwrap_err();
        let places: Vec<(usize, usize)> = problems.iter().map(|p| (p.line, p.column)).collect();
        assert!(places.is_sorted(), "{stem}: {places:?}");
        for (line, column) in places {
            let width = text.lines().nth(line - 1).map_or(0, |line| line.chars().count());
            assert!(column <= width + 1, "{stem}: {line}:{column} is outside of the file");
        }
    }
}
