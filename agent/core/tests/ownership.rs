//! The ownership table against the independent script's vectors, and its promises.
#![allow(clippy::unwrap_used, reason = "a test that can not go on ends")]

use std::collections::BTreeMap;

use onemac_core::ownership::{Candidate, Table, table};
use proptest::prelude::*;

fn hosts(text: &str) -> BTreeMap<String, Candidate> {
    let host = |h: &str| {
        let (name, weight) = h.split_once('=').unwrap();
        let candidate = Candidate {
            weight: weight.trim_end_matches('*').parse().unwrap(),
            eligible: !weight.ends_with('*'),
        };
        (name.to_string(), candidate)
    };
    text.split(';').map(host).collect()
}

fn owners(table: &Table) -> Vec<&str> {
    (0..table.slices()).map(|s| table.owner(s).unwrap_or("-")).collect()
}

#[test]
fn agrees_with_the_independent_script() {
    let lines: Vec<&str> =
        include_str!("vectors/ownership.txt").lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(lines.len(), 12);
    for line in lines {
        let f: Vec<&str> = line.split_whitespace().collect();
        let table = table(f[0], f[1], &hosts(f[3]), f[2].parse().unwrap());
        let owners = owners(&table);
        assert_eq!(owners[..16].join(","), f[4], "{line}");
        let digest = blake3::hash(owners.join(",").as_bytes()).to_hex();
        assert_eq!(&digest[..32], f[5], "{line}");
    }
}

fn count(table: &Table, host: &str) -> u32 {
    table.slices_of(host).count() as u32
}

fn moved_beyond(before: &Table, after: &Table, dead: &str) -> usize {
    (0..before.slices())
        .filter(|&s| before.owner(s) != after.owner(s) && before.owner(s) != Some(dead))
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_host_is_within_one_slice_of_its_share(
        weights in proptest::collection::vec((0u8..=100, any::<bool>()), 1..33),
        slices in (4u32..=12).prop_map(|n| 1 << n),
    ) {
        let hosts: BTreeMap<String, Candidate> = weights
            .iter()
            .enumerate()
            .map(|(i, &(weight, eligible))| (format!("h{i}"), Candidate { weight, eligible }))
            .collect();
        let total: u32 = hosts.values().filter(|c| c.eligible).map(|c| u32::from(c.weight)).sum();
        let table = table("c", "default", &hosts, slices);
        for (name, c) in &hosts {
            let exact = match c.eligible && total > 0 {
                true => f64::from(slices) * f64::from(c.weight) / f64::from(total),
                false => 0.0,
            };
            let got = f64::from(count(&table, name));
            prop_assert!((got - exact).abs() < 1.0, "{name} has {got} of {exact}");
        }
        let owned: u32 = hosts.keys().map(|h| count(&table, h)).sum();
        prop_assert_eq!(owned, if total > 0 { slices } else { 0 });
    }

    #[test]
    fn the_first_death_among_equals_moves_nothing_else_and_a_later_one_little(
        hosts in 2usize..=32, dead in 0usize..32, before in 0usize..16, cluster in "[a-z]{1,8}",
    ) {
        let mut all: BTreeMap<String, Candidate> =
            (0..hosts).map(|i| (format!("ns{i}"), Candidate { weight: 1, eligible: true })).collect();
        let dead = format!("ns{}", dead % hosts);
        let kill = |all: &mut BTreeMap<String, Candidate>, h: &str| {
            all.insert(h.into(), Candidate { weight: 1, eligible: false });
        };
        let whole = table(&cluster, "default", &all, 1024);
        let mut one_less = all.clone();
        kill(&mut one_less, &dead);
        prop_assert_eq!(moved_beyond(&whole, &table(&cluster, "default", &one_less, 1024), &dead), 0);

        for i in (0..before.min(hosts.saturating_sub(2))).map(|i| format!("ns{i}")).filter(|h| *h != dead) {
            kill(&mut all, &i);
        }
        let some = table(&cluster, "default", &all, 1024);
        kill(&mut all, &dead);
        let extra = moved_beyond(&some, &table(&cluster, "default", &all, 1024), &dead);
        prop_assert!(extra <= 1024 * 4 / 100, "{extra} slices moved besides the dead host's");
    }
}
