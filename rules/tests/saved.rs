//! What `nft list ruleset` shows is saved to the boot file by operators, our tables with it. At the next boot that file
//! is loaded before there is an agent, and perhaps before there is the device. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use common::{fate::CLIENT4, frame::*, wire::*, *};
use onemac_rules::{Lease, Wanted, netlink::Netfilter, ruleset};

const FIREWALL: &str =
    "table inet host {\n\tchain in {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n";

/// The listing of a host that relays, with a firewall of its own.
fn saved(lease: Option<Lease>) -> String {
    in_namespace(move || {
        let all = EACH.iter().enumerate().map(|(n, standing)| (n as u32, *standing)).collect();
        let services = vec![onemac_rules::Service { slices: all, ..everything() }];
        let wanted = Wanted { services, elsewhere: elsewhere(), lease, ..both() };
        Netfilter::open().unwrap().install(&ruleset(&wanted)).unwrap();
        nft_load(FIREWALL, &[]).unwrap();
        run("nft", &["list", "ruleset"])
    })
}

fn is_loaded(name: &str) -> bool {
    run("nft", &["list", "tables"]).lines().any(|line| line.ends_with(name))
}

/// Whether chains may stand on devices that are not there: Linux 6.18 allows it, 6.1 and 6.12 do not. Upstream: 6.16.
fn devices_may_come_later() -> bool {
    let release = run("uname", &["-r"]);
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

#[test]
fn a_saved_ruleset_loads_where_the_device_is_and_accepts_nothing() {
    // The lease is over by the time of the next boot, by both clocks.
    let over = Lease { timeout: std::time::Duration::from_millis(1), deadline_unix_ns: 1 };
    let text = saved(Some(over));
    in_namespace(move || {
        nft_load(&text, &[]).unwrap();
        assert!(is_loaded("netdev onemac") && is_loaded("inet onemac") && is_loaded("inet host"));
        // All slices own but the lease: what comes for a shared address stays out.
        let wanted = both();
        let mut wire = Wire::new(&wanted);
        for n in 0..64 {
            let client = std::net::Ipv4Addr::new(198, 51, 100, n);
            let packet = ip4(client, VIP4, UDP, 0, &udp(5000, 53, &[]));
            assert!(!wire.passes_in(&for_cluster(ETH_IP, &packet)), "{client}");
        }
        let other = ip4(CLIENT4, "192.0.2.200".parse().unwrap(), UDP, 0, &udp(5000, 53, &[]));
        let own = ethernet(DEVICE_MAC.0, PROBE_MAC, ETH_IP, &other);
        assert!(wire.passes_in(&own), "the host's own traffic");
    });
}

/// Nothing but the places of the chains names the device. Kernels before 6.16 want it there for those; docs/ruleset.md
/// says what to do about that.
#[test]
fn a_saved_ruleset_loads_without_the_device() {
    let text = saved(None);
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        match nft_load(&text, &[]) {
            Ok(_) => assert!(is_loaded("inet host") && is_loaded("netdev onemac")),
            Err(error) => {
                assert!(!devices_may_come_later(), "{error}");
                let at_fault = error.lines().filter(|line| line.contains("Error: "));
                at_fault.for_each(|line| assert!(line.contains("Could not process rule"), "{line}"));
            }
        }
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
