//! The text form: golden files, and nft's own opinion of it.

mod common;

use std::{fs, path::PathBuf};

use common::*;
use onemac_rules::ruleset;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.nft"))
}

/// docs/ruleset.md shows one of the golden texts between its `nft` fences, whole.
#[test]
fn the_documentation_shows_the_text_of_today() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/ruleset.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("```nft\n").unwrap();
    let (shown, after) = rest.split_once("```\n").unwrap();
    let (_, wanted) = golden_cases().into_iter().find(|(name, _)| *name == "v4-v6").unwrap();
    let text = ruleset(&wanted).to_nft();
    if std::env::var_os("ONEMAC_GOLDEN").is_some_and(|v| v == "write") {
        fs::write(&path, format!("{before}```nft\n{text}```\n{after}")).unwrap();
    } else {
        assert_eq!(shown, text, "docs/ruleset.md shows another text");
    }
}

/// Every sysctl is explained there, too.
#[test]
fn the_documentation_names_every_sysctl() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/ruleset.md");
    let page = fs::read_to_string(path).unwrap();
    for (v4, v6) in [(true, true), (true, false)] {
        for setting in onemac_rules::sysctl::wanted("DEVICE", "onemac0", v4, v6, true) {
            let row = format!("`{}` | {} |", setting.path.replace("DEVICE", "*device*"), setting.value);
            assert!(page.contains(&row), "docs/ruleset.md has no row {row}");
        }
    }
}

/// `ONEMAC_GOLDEN=write cargo test -p onemac-rules --test text` rewrites the files.
#[test]
fn the_text_is_as_kept() {
    for (name, wanted) in golden_cases() {
        let text = ruleset(&wanted).to_nft();
        let path = golden(name);
        if std::env::var_os("ONEMAC_GOLDEN").is_some_and(|v| v == "write") {
            fs::write(&path, &text).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, kept, "{} is not what `ruleset` prints now", path.display());
    }
}
