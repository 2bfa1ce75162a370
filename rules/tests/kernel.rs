//! Against the running kernel and the installed nft, in network namespaces of the tests' own. Needs root.

mod common;

use common::*;
use onemac_rules::{Wanted, netlink::Netfilter, ruleset};

/// The text and the netlink messages say the same: what nft loads from the text is to the last expression
/// what `install` makes, in the kernel's own representation and in nft's listing.
#[test]
fn text_and_netlink_say_the_same() {
    in_namespace(|| {
        for (name, wanted) in golden_cases() {
            agree(name, &wanted);
        }
    });
}

fn agree(name: &str, wanted: &Wanted) {
    let rules = ruleset(wanted);
    let mut netfilter = Netfilter::open().unwrap();

    nft_load(&rules.to_nft(), &[]).unwrap_or_else(|e| panic!("{name}: nft refuses the text: {e}"));
    let by_text = listing();
    // nft's syntax has whole seconds: the exact deadline is the one thing that the text can not say.
    let mut in_seconds = wanted.clone();
    if let Some(lease) = &mut in_seconds.lease {
        lease.deadline_unix_ns -= lease.deadline_unix_ns % 1_000_000_000;
    }
    let differences = netfilter.verify(&ruleset(&in_seconds)).unwrap();
    assert_eq!(differences, [], "{name}: nft made something else of the text");

    run("nft", &["flush", "ruleset"]);
    netfilter.install(&rules).unwrap();
    let by_netlink = listing();
    assert_eq!(by_text, by_netlink, "{name}");

    run("nft", &["flush", "ruleset"]);
    nft_load(&by_netlink, &[]).unwrap_or_else(|e| panic!("{name}: nft refuses its own listing: {e}"));
    assert_eq!(listing(), by_netlink, "{name}: the listing changes when it is loaded");
}
