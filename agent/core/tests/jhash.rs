//! Our copy of the kernel's hash against slices that a kernel computed (`vectors/jhash.txt`).
#![allow(clippy::unwrap_used, reason = "a test that can not go on ends")]

use onemac_core::jhash::slice_of;

fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

#[test]
fn agrees_with_the_kernel() {
    let lines: Vec<&str> =
        include_str!("vectors/jhash.txt").lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(lines.len(), 132);
    for line in lines {
        let f: Vec<&str> = line.split_whitespace().collect();
        let predicted = slice_of(f[2].parse().unwrap(), number(f[1]), number(f[0]));
        assert_eq!(predicted, number(f[3]), "{line}");
    }
}
