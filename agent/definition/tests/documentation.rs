//! docs/configuration.md against the code: its files are read, its errors are the real ones.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::Path;

use onemac_definition::parse;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    fs::read_to_string(path).unwrap()
}

/// The fenced blocks that open with exactly this line.
fn blocks(page: &str, opening: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let block: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            if line == format!("```{opening}") {
                blocks.push(block);
            }
        }
    }
    blocks
}

#[test]
fn the_page_s_definitions_are_right() {
    let definitions = blocks(&page(), "yaml");
    assert!(definitions.len() >= 2);
    for text in definitions {
        let definition = parse("docs", &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(definition.not_yet(), []);
    }
}

#[test]
fn the_page_s_errors_are_what_is_printed() {
    let page = page();
    let (broken, told) = (blocks(&page, "yaml broken"), blocks(&page, "text"));
    assert_eq!((broken.len(), told.len()), (1, 1));
    assert_eq!(format!("{}\n", parse("cluster.yaml", &broken[0]).unwrap_err()), told[0]);
}
