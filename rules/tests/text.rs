//! The text form: golden files, and nft's own opinion of it.

mod common;

use std::{fs, path::PathBuf};

use common::*;
use onemac_rules::ruleset;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.nft"))
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
