//! Renewals of the lease with real frames: what adds to it, what does not, and that nobody else is disturbed. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use common::{frame::*, wire::*, *};
use onemac_rules::{
    Token, Wanted,
    netlink::{Error, Netfilter, Renewed},
    ruleset,
};

/// A client of one of the host's slices.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// A host that accepts everything, for this long.
fn host(longest_lease: Duration) -> Wanted {
    Wanted { longest_lease, lease: None, services: vec![all(onemac_rules::Standing::Own, false)], ..both() }
}

fn with_lease(wanted: &Wanted, timeout: Duration) -> Wanted {
    Wanted { lease: Some(lease_for(timeout)), ..wanted.clone() }
}

fn query() -> Vec<u8> {
    for_cluster(ETH_IP, &ip4(CLIENT, VIP4, UDP, 0, &[0; 20]))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// What the agent sends, by somebody else: a frame with a token and a time.
fn renewal(token: Token, time: u64) -> Vec<u8> {
    let payload = [&token.bytes()[..], &time.to_ne_bytes(), &[0; 30]].concat();
    ethernet(DEVICE_MAC.0, PROBE_MAC, ETH_TEST, &payload)
}

/// The beginning of the quantum that this is in.
fn quantum(longest: Duration, time: u64) -> u64 {
    let bits = (longest.as_nanos() as u64 / 16).ilog2();
    time >> bits << bits
}

fn elements() -> usize {
    let text = run("nft", &["list", "set", "netdev", "onemac", "lease"]);
    text.split_once("elements = {").map_or(0, |(_, rest)| rest.matches("expires").count())
}

#[test]
fn a_renewal_is_no_transaction() {
    in_namespace(|| {
        let wanted = host(Duration::from_millis(800));
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&wanted)).unwrap();
        let mut wire = Wire::new(&wanted);
        assert!(!wire.passes_in(&query()), "without a lease");
        let before = netfilter.generation().unwrap();
        let (mut spent, mut renewals) = (Duration::ZERO, 0);
        let begun = Instant::now();
        // Longer than the kernel takes to sweep out what has expired.
        while begun.elapsed() < Duration::from_secs(5) {
            let started = Instant::now();
            let renewed = netfilter.renew(&with_lease(&wanted, wanted.longest_lease)).unwrap();
            spent += started.elapsed();
            renewals += 1;
            assert_eq!(renewed, Renewed::ByPackets, "renewal {renewals}");
            thread::sleep(Duration::from_millis(50));
        }
        println!("one renewal: {:?} on average of {renewals}", spent / renewals);
        assert_eq!(netfilter.generation().unwrap(), before, "somebody has committed");
        let lasting = with_lease(&wanted, wanted.longest_lease);
        assert_eq!(netfilter.verify(&ruleset(&lasting)).unwrap(), []);

        // However slow the machine is, one of many is quick enough.
        let passes = (0..50).any(|_| {
            netfilter.renew(&with_lease(&wanted, wanted.longest_lease)).unwrap();
            wire.passes_in(&query())
        });
        assert!(passes, "under the lease");
    });
}

/// A host with leases so long that nothing depends on how quick the machine is.
fn lasting(test: impl FnOnce(Wire, Netfilter, Wanted) + Send + 'static) {
    in_namespace(move || {
        let wanted = host(LONGEST);
        let mut netfilter = Netfilter::open().unwrap();
        netfilter.install(&ruleset(&wanted)).unwrap();
        let wire = Wire::new(&wanted);
        test(wire, netfilter, wanted);
    });
}

#[test]
fn only_the_agent_can_renew() {
    lasting(|mut wire, mut netfilter, wanted| {
        let time = quantum(LONGEST, now());
        let foreign = Token::new([0x77; 8]);
        assert!(!wire.passes_in(&renewal(wanted.token, time)) || netfilter.lease_left().unwrap().is_none());
        assert!(wire.passes_out(&renewal(foreign, time)), "another's frame of the same kind goes its way");
        assert_eq!(netfilter.lease_left().unwrap(), None, "by a wrong token, or from outside");
        assert!(!wire.passes_in(&query()));
        assert!(!wire.passes_out(&renewal(wanted.token, time)), "the agent's own frame leaves");
        assert!(netfilter.lease_left().unwrap().is_some());
        assert!(wire.passes_in(&query()));
    });
}

#[test]
fn a_frame_that_is_late_is_worth_nothing() {
    lasting(|mut wire, mut netfilter, wanted| {
        let length = 1 << (LONGEST.as_nanos() as u64 / 16).ilog2();
        let present = quantum(LONGEST, now());
        for time in [present - length, present - 2 * length, 0] {
            assert!(!wire.passes_out(&renewal(wanted.token, time)));
        }
        assert!(netfilter.lease_left().unwrap().is_some(), "it has reached the set");
        assert!(!wire.passes_in(&query()), "and counts for nothing");
    });
}

#[test]
fn a_lease_that_is_cut_short_is() {
    lasting(|mut wire, mut netfilter, wanted| {
        assert_eq!(netfilter.renew(&with_lease(&wanted, LONGEST)).unwrap(), Renewed::ByPackets);
        let long = elements();
        let half = with_lease(&wanted, LONGEST / 2);
        assert_eq!(netfilter.renew(&half).unwrap(), Renewed::ByCommit);
        assert!(elements() < long - long / 4, "of {long} quanta {} stand", elements());
        assert!(netfilter.lease_left().unwrap().unwrap() <= LONGEST / 2);
        assert_eq!(netfilter.verify(&ruleset(&half)).unwrap(), []);
        assert!(wire.passes_in(&query()));
        let longer = with_lease(&wanted, LONGEST);
        assert_eq!(netfilter.renew(&longer).unwrap(), Renewed::ByPackets);
        assert!(netfilter.lease_left().unwrap().unwrap() > LONGEST / 2);
        netfilter.change(&longer, &half).unwrap();
        assert!(
            netfilter.lease_left().unwrap().unwrap() <= LONGEST / 2,
            "a change carries exactly its lease"
        );
        assert_eq!(netfilter.verify(&ruleset(&half)).unwrap(), []);
    });
}

/// A wall clock that is set back by less than the lease: the times that come again expire before they are over.
#[test]
fn what_would_expire_before_its_time_is_made_anew() {
    lasting(|_, mut netfilter, wanted| {
        let lease = lease_for(LONGEST);
        let early = onemac_rules::Lease { timeout: LONGEST / 4, ..lease };
        netfilter.install(&ruleset(&Wanted { lease: Some(early), ..wanted.clone() })).unwrap();
        for (renewed, count) in [(Renewed::ByCommit, 1), (Renewed::ByPackets, 3)] {
            for _ in 0..count {
                assert_eq!(
                    netfilter.renew(&Wanted { lease: Some(lease), ..wanted.clone() }).unwrap(),
                    renewed
                );
            }
        }
        assert!(netfilter.lease_left().unwrap().unwrap() > LONGEST / 2);
    });
}

/// Whatever keeps frames from their end, the kernel accepts after a renewal or the agent hears of it.
#[test]
fn a_renewal_is_read_back() {
    lasting(|mut wire, mut netfilter, wanted| {
        let renewed = |netfilter: &mut Netfilter| netfilter.renew(&with_lease(&wanted, LONGEST));
        assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByPackets);
        let obstacles = [
            ("somebody empties the set", "flush set netdev onemac lease"),
            ("our rule is gone", "flush chain netdev onemac egress; flush set netdev onemac lease"),
            (
                "somebody drops what is not IP",
                "flush set netdev onemac lease; add table netdev strict; add chain netdev strict out \
                 { type filter hook egress device eth0 priority 0; }; \
                 add rule netdev strict out meta protocol != { ip, ip6, arp } drop",
            ),
        ];
        for (what, command) in obstacles {
            run("nft", &[command]);
            assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByCommit, "{what}");
            assert!(netfilter.lease_left().unwrap().is_some(), "{what}");
            assert!(wire.passes_in(&query()), "{what}");
        }
        run("nft", &["delete table netdev strict"]);
        netfilter.install(&ruleset(&with_lease(&wanted, LONGEST))).unwrap();
        assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByPackets);

        // No room: what somebody put there, and what has expired and was not yet swept out.
        run("nft", &["flush set netdev onemac lease"]);
        let many = (0..64).map(|n| format!("{} timeout 1h", n * 1000)).collect::<Vec<_>>().join(", ");
        run("nft", &[&format!("add element netdev onemac lease {{ {many} }}")]);
        assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByCommit, "the set is full");
        assert!(wire.passes_in(&query()));
        assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByPackets);

        netfilter.drop_lease().unwrap();
        run("ip", &["link", "set", DEVICE, "down"]);
        let error = renewed(&mut netfilter).unwrap_err();
        assert!(matches!(&error, Error::DeviceDown { device } if device == DEVICE), "{error:?}");
        run("ip", &["link", "set", DEVICE, "up"]);
        assert_eq!(renewed(&mut netfilter).unwrap(), Renewed::ByPackets);

        run("nft", &["flush", "ruleset"]);
        assert!(matches!(renewed(&mut netfilter).unwrap_err(), Error::Rejected { .. }));
    });
}

/// The other end may be gone, and the device may be a bridge.
#[test]
fn a_renewal_needs_no_carrier_and_works_on_a_bridge() {
    in_namespace(|| {
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run("ip", &["link", "set", "br0", "up"]);
        run("ip", &["link", "set", "far", "down"]);
        for device in [DEVICE, "br0"] {
            let wanted = Wanted { device: device.into(), ..host(LONGEST) };
            let mut netfilter = Netfilter::open().unwrap();
            netfilter.install(&ruleset(&wanted)).unwrap();
            let renewed = netfilter.renew(&with_lease(&wanted, LONGEST)).unwrap();
            assert_eq!(renewed, Renewed::ByPackets, "{device}");
            netfilter.remove().unwrap();
        }
    });
}

/// Others' transactions, however long, do not keep the agent from renewing.
#[test]
fn a_renewal_waits_for_nobody_elses_transaction() {
    lasting(|_, mut netfilter, wanted| {
        let elements: Vec<String> = (0..100_000u32).map(|n| Ipv4Addr::from(n).to_string()).collect();
        let text = format!(
            "table ip big\ndelete table ip big\ntable ip big {{ set s {{ type ipv4_addr; elements = {{ {} }}; }}; }}\n",
            elements.join(", ")
        );
        netfilter.renew(&with_lease(&wanted, LONGEST)).unwrap();
        let loading = thread::spawn(move || nft_load(&text, &[]).unwrap());
        let mut renewals = 0;
        while !loading.is_finished() {
            assert_eq!(netfilter.renew(&with_lease(&wanted, LONGEST)).unwrap(), Renewed::ByPackets);
            renewals += 1;
        }
        loading.join().unwrap();
        println!("{renewals} renewals beside one transaction");
        assert!(renewals > 10);
    });
}
