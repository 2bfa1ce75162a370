//! What is read back is compared with what is wanted: every kind of tampering is seen and named. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::time::Duration;

use common::*;
use onemac_rules::{
    Service, Standing, Token, Wanted,
    netlink::{Difference, Netfilter},
    ruleset,
};

/// Each kind of tampering, and the one difference that tells of it.
#[test]
fn verification_sees_each_kind_of_tampering() {
    in_namespace(|| {
        let rules = ruleset(&both());
        let mut netfilter = Netfilter::open().unwrap();
        let table = "table netdev onemac";
        let rule_3 = rules.tables[0].chain("ingress").unwrap().rules[2].to_nft();
        let cases: Vec<(String, String, Option<&str>, Option<&str>)> = vec![
            (delete_rule(2), format!("{table}, chain ingress, rule 3"), Some(&rule_3), None),
            (
                "insert rule netdev onemac leased accept".into(),
                format!("{table}, chain leased, rule 1"),
                None,
                Some("immediate reg 0 accept"),
            ),
            (
                "add rule netdev onemac egress counter".into(),
                format!("{table}, chain egress, rule 5"),
                None,
                Some("counter"),
            ),
            (
                "delete element netdev onemac slices { 4 }; add element netdev onemac slices { 4 : goto leased }"
                    .into(),
                format!("{table}, set slices"),
                Some("elements { 4 : drop }"),
                Some("elements { 4 : goto leased }"),
            ),
            (
                "delete element netdev onemac slices { 4 }; add element netdev onemac slices { 64 : drop }; \
                 delete element netdev onemac slices { 64 }; add element netdev onemac slices { 4 : accept }"
                    .into(),
                format!("{table}, set slices"),
                Some("elements { 4 : drop }"),
                Some("elements { 4 : accept }"),
            ),
            (
                "delete element netdev onemac slices { 3, 4 }".into(),
                format!("{table}, set slices"),
                Some("elements { 3 : goto leased, 4 : drop }"),
                None,
            ),
            (
                "flush set netdev onemac vips6".into(),
                format!("{table}, set vips6"),
                Some("elements { 2001:db8::53 }"),
                None,
            ),
            (
                "add element netdev onemac lease { 4007750400 timeout 1h }".into(),
                format!("{table}, set lease"),
                None,
                Some("elements { 4007750400 }"),
            ),
            (
                "add chain netdev onemac other".into(),
                format!("{table}, chain other"),
                None,
                Some("chain other"),
            ),
            (
                "add set netdev onemac other { type mark; }".into(),
                format!("{table}, set other"),
                None,
                Some("set other"),
            ),
            ("delete table netdev onemac".into(), table.into(), Some("table netdev onemac"), None),
            (
                "delete table inet onemac".into(),
                "table inet onemac".into(),
                Some("table inet onemac"),
                None,
            ),
            (
                "flush chain inet onemac connections".into(),
                "table inet onemac, chain connections, rule 1".into(),
                Some("meta mark 0x6f6e656d goto known comment \"from a slice on the move\""),
                None,
            ),
            (
                "delete element netdev onemac slices { 5 }; add element netdev onemac slices { 5 : goto moving }"
                    .into(),
                format!("{table}, set slices"),
                Some("elements { 5 : drop }"),
                Some("elements { 5 : goto moving }"),
            ),
            (
                "add element netdev onemac relays { 5 : 02:00:00:00:00:05 }".into(),
                format!("{table}, set relays"),
                None,
                Some("elements { 5 : 0x020000000005 }"),
            ),
        ];
        for (command, place, wanted, found) in cases {
            netfilter.install(&rules).unwrap();
            let command = match command.strip_prefix("delete rule number ") {
                Some(number) => {
                    format!(
                        "delete rule netdev onemac ingress handle {}",
                        rule_handle(number.parse().unwrap())
                    )
                }
                None => command,
            };
            run("nft", &[&command]);
            let expected =
                Difference { place, wanted: wanted.map(str::to_owned), found: found.map(str::to_owned) };
            assert_eq!(netfilter.verify(&rules).unwrap(), [expected], "after `nft {command}`");
        }
    });
}

fn delete_rule(number: usize) -> String {
    format!("delete rule number {number}")
}

/// The handle of a rule of the ingress chain, counted from zero.
fn rule_handle(number: usize) -> String {
    let text = run("nft", &["-a", "list", "chain", "netdev", "onemac", "ingress"]);
    let handles: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("chain ingress"))
        .filter_map(|line| line.split_once("# handle ").map(|(_, handle)| handle.trim()))
        .collect();
    handles[number].to_owned()
}

/// A flushed chain loses all its rules, and each is named with its number.
#[test]
fn verification_names_every_rule_of_a_flushed_chain() {
    in_namespace(|| {
        let rules = ruleset(&both());
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&rules).unwrap();
        run("nft", &["flush", "chain", "netdev", "onemac", "vip4"]);
        let differences = netfilter.verify(&rules).unwrap();
        let chain = rules.tables[0].chain("vip4").unwrap();
        assert_eq!(differences.len(), chain.rules.len());
        for (number, (difference, rule)) in (1..).zip(differences.iter().zip(&chain.rules)) {
            assert_eq!(difference.place, format!("table netdev onemac, chain vip4, rule {number}"));
            assert_eq!(difference.wanted, Some(rule.to_nft()));
        }
    });
}

/// A parameter that was changed in place: another seed, device, size.
#[test]
fn verification_compares_to_the_last_parameter() {
    in_namespace(|| {
        run("ip", &["link", "set", "far", "up"]);
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&both())).unwrap();
        let with = |n, standing| {
            let mut service = both().services[0].clone();
            service.slices.insert(n, standing);
            Wanted { services: vec![service], ..both() }
        };
        for other in [
            Wanted { seed: 1, ..both() },
            Wanted { device: "far".into(), ..both() },
            Wanted { slices: 128, ..both() },
            Wanted { device_mac: [2, 0, 0, 0, 0, 9].into(), ..both() },
            Wanted { cluster_mac: [2, 0, 0, 0, 0, 9].into(), ..both() },
            Wanted { vips: wanted(&["192.0.2.54", "2001:db8::53"]).vips, ..both() },
            Wanted { vips: wanted(&["192.0.2.53"]).vips, ..both() },
            with(0, Standing::Foreign),
            with(0, Standing::Shared),
            with(1, Standing::Relaying(PEER)),
            Wanted { services: vec![Service { tracked: false, ..both().services[0].clone() }], ..both() },
            Wanted { gossip: None, ..both() },
            Wanted { gossip: Some("192.0.2.11:7947".parse().unwrap()), ..both() },
            Wanted { gossip: Some("[2001:db8::11]:7946".parse().unwrap()), ..both() },
            Wanted { lease: None, ..both() },
            // Ends earlier.
            Wanted { lease: Some(lease_for(Duration::from_secs(600))), ..both() },
            Wanted { longest_lease: LONGEST / 2, ..both() },
            Wanted { token: Token::new([1; 8]), ..both() },
        ] {
            let differences = netfilter.verify(&ruleset(&other)).unwrap();
            assert_ne!(differences, [], "not seen: {other:?}");
        }
        assert_eq!(netfilter.verify(&ruleset(&both())).unwrap(), []);
    });
}
