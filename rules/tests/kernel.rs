//! Against the running kernel and the installed nft, in network namespaces of the tests' own. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::*;
use nix::{errno::Errno, libc};
use onemac_rules::{
    Lease, Service, Standing, Wanted,
    netlink::{Error, Netfilter},
    ruleset, sysctl,
};
use proptest::prelude::*;

/// The text and the netlink messages say the same: what nft loads from the text is to the last expression
/// what `install` makes, in the kernel's own representation and in nft's listing.
#[test]
fn text_and_netlink_say_the_same() {
    for (name, mut wanted) in golden_cases() {
        // Not to run out before it is listed, however busy the machine is.
        wanted.lease = wanted.lease.map(|_| lease());
        wanted.longest_lease = LONGEST;
        in_namespace(move || {
            if wanted.second_mask {
                run("ip", &["link", "add", &wanted.shared, "type", "veth", "peer", "name", "behind"]);
            }
            agree(name, &wanted);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_wanted_loads_and_says_the_same(wanted in any_wanted()) {
        in_namespace(move || {
            if wanted.device != DEVICE {
                run("ip", &["link", "set", DEVICE, "down"]);
                run("ip", &["link", "set", DEVICE, "name", &wanted.device]);
            }
            agree("a random case", &wanted);
        });
    }

    /// Whatever was there before: one transaction, and then what is wanted. None if nothing differs that is
    /// installed: an untracked cluster has no list of connections, and fewer standings.
    #[test]
    fn one_follows_the_other(former in any_wanted(), wanted in any_wanted(), kept in any::<[bool; 7]>()) {
        in_namespace(move || {
            // Not all is different.
            let keep = |n: usize| kept[n];
            let wanted = Wanted {
                device: DEVICE.into(),
                device_mac: if keep(0) { former.device_mac } else { wanted.device_mac },
                second_mask: false,
                cluster_mac: if keep(1) { former.cluster_mac } else { wanted.cluster_mac },
                vips: if keep(2) { former.vips.clone() } else { wanted.vips },
                slices: if keep(3) { former.slices } else { wanted.slices },
                seed: if keep(4) { former.seed } else { wanted.seed },
                services: if keep(5) { former.services.clone() } else { wanted.services },
                elsewhere: if keep(6) { former.elsewhere.clone() } else { wanted.elsewhere },
                inside: wanted.inside,
                lease: wanted.lease,
                ..former.clone()
            };
            let former = Wanted { device: DEVICE.into(), ..former };
            let mut netfilter = Netfilter::open().unwrap();
            netfilter.install(&ruleset(&former)).unwrap();
            let before = netfilter.generation().unwrap();
            netfilter.install(&ruleset(&wanted)).unwrap();
            // A lease starts over each time.
            let differs = wanted.lease.is_some() || ruleset(&former) != ruleset(&wanted);
            let transactions = netfilter.generation().unwrap() - before;
            assert_eq!(transactions, u32::from(differs), "transactions");
            assert_eq!(netfilter.verify(&ruleset(&wanted)).unwrap(), []);
            assert!(!netfilter.disturbed().unwrap());
        });
    }
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let vip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        Just(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    let client = (
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)],
        any::<u16>(),
    );
    let lease = (any::<u32>(), any::<u64>()).prop_map(|(ms, deadline_unix_ns)| Lease {
        // Long enough to be listed, short enough for nft 1.0.6 to print.
        timeout: Duration::from_millis(60_000 + u64::from(ms)),
        // Years of four digits.
        deadline_unix_ns: deadline_unix_ns % 10_000_000_000_000_000_000,
    });
    (
        prop::sample::select(vec!["eth0", "br-lan.7", "x", "enp0s31f6np0v99"]),
        any::<([u8; 6], [u8; 6], u32)>(),
        prop::collection::vec(vip, 1..5),
        (4u32..=12).prop_map(|power| 1 << power),
        (any::<u64>(), any::<bool>(), 0usize..3),
        (
            prop::option::of(lease),
            prop::collection::btree_set(client, 0..20),
            prop::collection::btree_set(1u32..50, 0..5),
        ),
    )
        .prop_map(
            |(
                device,
                (device_mac, cluster_mac, seed),
                vips,
                slices,
                (which, tracked, more),
                (lease, elsewhere, inside),
            )| Wanted {
                inside,
                gossip: elsewhere.first().map(|&end| SocketAddr::from(end)),
                device: device.into(),
                device_mac: device_mac.into(),
                shared: "onemac0".into(),
                second_mask: false,
                cluster_mac: cluster_mac.into(),
                vips,
                slices,
                seed,
                services: services()
                    .into_iter()
                    .skip(more)
                    .map(|service| Service {
                        slices: (0..slices)
                            .map(|n| (n, EACH[which.rotate_left(n) as usize % EACH.len()]))
                            .collect(),
                        tracked: tracked && (which & 1 == 0 || service.name != "web"),
                        datagrams_tracked: which & 6 == 6 && service.name != "web",
                        ..service
                    })
                    .collect(),
                elsewhere,
                lease,
                longest_lease: Duration::from_secs(1 << 23),
                token: token(),
            },
        )
}

fn agree(name: &str, wanted: &Wanted) {
    let rules = ruleset(wanted);
    let mut netfilter = Netfilter::open().unwrap();
    nft_load(&rules.to_nft(), &[]).unwrap_or_else(|e| panic!("{name}: nft refuses the text: {e}"));
    let by_text = listing();
    let differences = netfilter.verify(&rules).unwrap();
    assert_eq!(differences, [], "{name}: nft made something else of the text");

    run("nft", &["flush", "ruleset"]);
    netfilter.install(&rules).unwrap();
    let by_netlink = listing();
    assert_eq!(by_text, by_netlink, "{name}");

    run("nft", &["flush", "ruleset"]);
    nft_load(&by_netlink, &[]).unwrap_or_else(|e| panic!("{name}: nft refuses its own listing: {e}"));
    assert_eq!(listing(), by_netlink, "{name}: the listing changes when it is loaded");
}

/// Neighbours by name: another table of the family, the same name in other families.
#[test]
fn foreign_tables_are_untouched() {
    in_namespace(|| {
        let foreign = "table netdev onemac2 {\n\tset owned {\n\t\ttype mark\n\t\telements = { 0x00000001 }\n\t}\n\n\
                       \tchain ingress {\n\t\ttype filter hook ingress device \"eth0\" priority filter; policy accept;\n\
                       \t\tcounter packets 0 bytes 0\n\t}\n}\n\
                       table ip6 onemac {\n\tchain ingress {\n\t\taccept\n\t}\n}\n\
                       table ip onemac {\n\tset owned {\n\t\ttype ipv4_addr\n\t}\n}\n";
        nft_load(foreign, &[]).unwrap();
        let before = run("nft", &["list", "ruleset"]);

        let mut netfilter = Netfilter::open().unwrap();
        assert!(!netfilter.exists().unwrap());
        assert!(!netfilter.remove().unwrap(), "there was nothing of ours");
        netfilter.install(&ruleset(&both())).unwrap();
        netfilter.install(&ruleset(&Wanted { seed: 1, ..both() })).unwrap();
        let other = Wanted { seed: 1, ..both() };
        let to =
            Wanted { services: vec![other.services[0].owning([1])], elsewhere: elsewhere(), ..other.clone() };
        netfilter.change(&other, &to).unwrap();
        netfilter.drop_lease().unwrap();
        assert!(netfilter.exists().unwrap());
        assert!(
            run("nft", &["list", "ruleset"]).starts_with(before.trim_end()),
            "install changed foreign tables"
        );
        assert!(netfilter.remove().unwrap());
        assert!(!netfilter.exists().unwrap());
        assert_eq!(run("nft", &["list", "ruleset"]), before, "remove changed foreign tables");
    });
}

/// The kernel rounds to its ticks.
#[test]
fn a_lease_of_any_length_can_be_installed() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        for ms in [249, 250, 251, 333, 1001, 59_999] {
            let longest_lease = Duration::from_millis(ms);
            netfilter.install(&ruleset(&Wanted { longest_lease, lease: None, ..both() })).unwrap();
        }
    });
}

/// An earlier run's table of that name, whatever is in it, is replaced.
#[test]
fn install_replaces_what_an_earlier_run_left() {
    in_namespace(|| {
        let left = "table netdev onemac {\n\tset owned {\n\t\ttype ipv4_addr\n\t}\n\tchain old {\n\t\tdrop\n\t}\n\
                    \tchain ingress {\n\t\ttype filter hook ingress device \"far\" priority -7; policy drop;\n\
                    \t\tgoto old\n\t}\n}\n";
        nft_load(left, &[]).unwrap();
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&both())).unwrap();
        assert_eq!(netfilter.verify(&ruleset(&both())).unwrap(), []);
    });
}

/// A cluster without an IPv4 address, and back: the table for ARP comes and goes.
#[test]
fn a_table_that_is_not_wanted_any_more_goes() {
    in_namespace(|| {
        let without_v4 = wanted(&["2001:db8::53"]);
        let mut netfilter = Netfilter::open().unwrap();
        for (wanted, tables) in [
            (both(), "table netdev onemac\ntable inet onemac\ntable arp onemac\n"),
            (without_v4, "table netdev onemac\ntable inet onemac\n"),
            (both(), "table netdev onemac\ntable inet onemac\ntable arp onemac\n"),
        ] {
            let before = netfilter.generation().unwrap();
            netfilter.install(&ruleset(&wanted)).unwrap();
            assert_eq!(netfilter.generation().unwrap(), before + 1, "not at once");
            assert_eq!(run("nft", &["list", "tables"]), tables);
        }
    });
}

/// The largest cluster: all 4,096 slices, 32 addresses; and then far more than fits into the default send
/// buffer (208 KiB), or into one page of libnftnl's own batches (128 KiB).
#[test]
fn large_transactions_are_one_transaction() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let (_, base) = golden_cases().pop().unwrap();
        let largest = Wanted { slices: 4096, services: vec![everything().owning(0..4096)], ..base };
        let relayed = (0..4096).map(|n| (n, Standing::Relaying(PEER)));
        let relayed = Service { slices: relayed.collect(), ..everything() };
        let relayed = Wanted { services: vec![relayed], ..largest.clone() };
        let nothing = serving(&largest, [everything()]);
        let held = |netfilter: &mut Netfilter| netfilter.standings().unwrap().unwrap().services;
        netfilter.install(&ruleset(&largest)).unwrap();
        assert_eq!(held(&mut netfilter)["default"], largest.services[0].slices);
        netfilter.change(&largest, &relayed).unwrap();
        assert_eq!(held(&mut netfilter)["default"], relayed.services[0].slices);
        netfilter.change(&relayed, &nothing).unwrap();
        assert_eq!(held(&mut netfilter)["default"], [].into());
        netfilter.change(&nothing, &largest).unwrap();
        assert_eq!(netfilter.verify(&ruleset(&largest)).unwrap(), []);
        run("nft", &["list", "ruleset"]);

        let started = Instant::now();
        for _ in 0..100 {
            netfilter.renew(&Wanted { lease: Some(lease()), ..largest.clone() }).unwrap();
        }
        println!("one renewal beside 4,096 slices: {:?} on average", started.elapsed() / 100);

        let before = netfilter.generation().unwrap();
        let vips = (0..20_000u128).map(|n| IpAddr::V6(Ipv6Addr::from((0x2001_0db8 << 96) | n))).collect();
        let beyond = Wanted { vips, ..largest };
        netfilter.install(&ruleset(&beyond)).unwrap();
        assert_eq!(netfilter.verify(&ruleset(&beyond)).unwrap(), []);
        assert_eq!(netfilter.generation().unwrap(), before + 1, "more than one transaction");
    });
}

/// Normal running: slices come and go and the lease is renewed, while others use nftables too.
#[test]
fn changes_hold_while_others_commit() {
    in_namespace(|| {
        let mut wanted = both();
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&wanted)).unwrap();
        assert!(!netfilter.disturbed().unwrap());

        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            // Also when a change fails: the scope waits for the thread.
            let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
            // A thread inherits the namespace of the one that starts it.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    run("nft", &["add table ip foreign; add chain ip foreign c; delete table ip foreign"]);
                }
            });
            let started = Instant::now();
            for n in 0..300u64 {
                let slice = (n % 64) as u32;
                let mut to = wanted.clone();
                to.services[0].slices.insert(slice, EACH[n as usize % EACH.len()]);
                to.elsewhere =
                    elsewhere().into_iter().filter(|(_, port)| u64::from(*port) % 3 == n % 3).collect();
                to.lease = Some(lease());
                netfilter.change(&wanted, &to).unwrap_or_else(|e| panic!("change {n}: {e}"));
                wanted = to;
                if n % 30 == 0 {
                    // What others do is no difference, however often they do it; not to know is none either.
                    match netfilter.verify(&ruleset(&wanted)) {
                        Ok(differences) => assert_eq!(differences, []),
                        Err(Error::Unsteady { .. }) => {}
                        Err(error) => panic!("verification {n}: {error}"),
                    }
                    netfilter.install(&ruleset(&wanted)).unwrap_or_else(|e| panic!("install {n}: {e}"));
                    netfilter.renew(&wanted).unwrap_or_else(|e| panic!("renewal {n}: {e}"));
                }
            }
            println!("one change: {:?} on average", started.elapsed() / 300);
            // Let the other one be seen, however busy the machine is.
            let patience = Instant::now() + Duration::from_secs(60);
            while !netfilter.disturbed().unwrap() {
                assert!(Instant::now() < patience, "nobody else seems to commit");
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(netfilter.verify(&ruleset(&wanted)).unwrap(), []);
        assert!(!netfilter.disturbed().unwrap(), "verification takes note of what others did");
        netfilter.renew(&wanted).unwrap();
        assert!(!netfilter.disturbed().unwrap(), "our own commits do not disturb");
        run("nft", &["flush", "ruleset"]);
        assert!(netfilter.disturbed().unwrap());
    });
}

/// Does it when it goes out of scope, however that comes.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// A change of which one part cannot be done is not done at all, and says which part.
#[test]
fn a_refused_change_changes_nothing() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let without = Wanted { lease: None, ..both() };
        netfilter.install(&ruleset(&without)).unwrap();
        let to = Wanted { services: vec![everything().owning([1, 64])], elsewhere: elsewhere(), ..both() };
        let error = netfilter.change(&without, &to).unwrap_err();
        let Error::Rejected { what, errno, .. } = &error else { panic!("{error:?}") };
        assert_eq!((what.as_str(), *errno), ("remove elements from set netdev onemac slices", Errno::ENOENT));
        assert_eq!(netfilter.verify(&ruleset(&without)).unwrap(), [], "{error}");

        run("nft", &["flush", "ruleset"]);
        let error = netfilter.renew(&both()).unwrap_err();
        assert!(matches!(error, Error::Rejected { errno: Errno::ENOENT, .. }), "{error:?}");
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

/// The kernel ends the lease by itself; a later renewal starts it again, expired leftovers or not.
#[test]
fn a_lease_ends_by_itself_and_can_be_renewed() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let without = Wanted { lease: None, longest_lease: Duration::from_millis(400), ..both() };
        netfilter.install(&ruleset(&without)).unwrap();
        assert_eq!(netfilter.lease_left().unwrap(), None);
        for _ in 0..3 {
            netfilter
                .renew(&Wanted { lease: Some(lease_for(without.longest_lease)), ..without.clone() })
                .unwrap();
            let left = netfilter.lease_left().unwrap().expect("a lease that was just renewed");
            assert!(left <= without.longest_lease, "{left:?}");
            let patience = Instant::now() + Duration::from_secs(60);
            while netfilter.lease_left().unwrap().is_some() {
                assert!(Instant::now() < patience, "the lease does not end");
                thread::sleep(Duration::from_millis(5));
            }
        }
        netfilter
            .renew(&Wanted { lease: Some(lease_for(without.longest_lease)), ..without.clone() })
            .unwrap();
        netfilter.drop_lease().unwrap();
        assert_eq!(netfilter.lease_left().unwrap(), None);
        assert_eq!(netfilter.verify(&ruleset(&without)).unwrap(), []);
    });
}

/// Without the device nothing is made, and the message says which is missing.
#[test]
fn a_missing_device_is_named() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        // Without a lease no rule of it needs the device's index: newer kernels would take the chains.
        let absent = Wanted { device: "eth7".into(), lease: None, ..both() };
        let error = netfilter.install(&ruleset(&absent)).unwrap_err();
        assert!(matches!(&error, Error::NoDevice { device } if device == "eth7"), "{error:?}");
        assert!(error.to_string().contains("eth7"), "{error}");
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

/// Without the privilege nothing is made, and the message says what is needed.
#[test]
fn a_missing_privilege_is_named() {
    in_namespace(|| {
        // The raw system call concerns this thread only; with the user go its capabilities.
        // SAFETY: takes numbers, touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        let mut netfilter = Netfilter::open().unwrap();
        for error in [
            netfilter.install(&ruleset(&both())).unwrap_err(),
            netfilter.renew(&both()).unwrap_err(),
            netfilter.exists().unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotPermitted { .. }), "{error:?}");
            assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        }
    });
}

/// Every sysctl of the table exists for a macvlan device on this kernel, and holds what is written.
#[test]
fn the_sysctls_exist() {
    in_namespace(|| {
        run("ip", &["link", "add", "onemac0", "link", DEVICE, "type", "macvlan", "mode", "private"]);
        // Brings conntrack.
        Netfilter::open().unwrap().install(&ruleset(&both())).unwrap();
        let mut seen = BTreeSet::new();
        for (v4, v6) in [(true, false), (false, true), (true, true)] {
            for setting in sysctl::wanted(DEVICE, "onemac0", v4, v6, true) {
                let path = format!("/proc/sys/{}", setting.path);
                std::fs::write(&path, setting.value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
                assert_eq!(
                    std::fs::read_to_string(&path).unwrap().trim(),
                    setting.value.to_string(),
                    "{path}"
                );
                if let Some(all) = &setting.combined_with {
                    assert!(std::path::Path::new("/proc/sys").join(all).exists(), "{all}");
                }
                seen.insert(setting.path);
            }
        }
        assert!(seen.len() > 10, "{seen:?}");
    });
}
