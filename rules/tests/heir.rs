//! The heir of a dead host's slices, while a third host still has connections of them: real connections, and
//! the list of those that live elsewhere in the kernel. Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use common::{lab::*, *};
use nix::errno::Errno;
use onemac_rules::{
    ELSEWHERE_MAX, Standing, Wanted,
    netlink::{Difference, Error, Netfilter},
    ruleset,
};
use socket2::SockRef;

/// Longer than any busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: [fn(u8) -> IpAddr; 2] = [client4, client6];

/// Opens a connection in the client's namespace; the host that serves it.
fn open(lab: &Lab, from: SocketAddr) -> (TcpStream, u8) {
    lab.client.run(move || {
        let mut stream = connect(from).unwrap_or_else(|e| panic!("{from}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut host = [0];
        stream.read_exact(&mut host).unwrap_or_else(|e| panic!("{from}: {e}"));
        (stream, host[0])
    })
}

fn any_port(from: IpAddr) -> SocketAddr {
    SocketAddr::new(from, 0)
}

/// One byte there and back.
fn ping(stream: &mut TcpStream) {
    stream.write_all(&[1]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

/// How many segments a host has dropped because their connections live elsewhere.
fn left_alone(host: &Host) -> u64 {
    let text = host.netns.run(|| run("nft", &["list", "chain", "inet", "onemac", "known"]));
    let line = text.lines().find(|line| line.contains("lives elsewhere")).unwrap();
    line.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

/// A's connections, of which B has been told of some: of these it is silent, to the others it says that they are
/// over. Those that it was told of go on at A.
#[test]
fn what_lives_elsewhere_hears_nothing_and_the_dead_hosts_clients_get_a_reset() {
    for client in CLIENTS {
        let mut lab = Lab::new(true);
        let (mut listed, at) = open(&lab, any_port(client(1)));
        assert_eq!(at, 0xa);
        // The same address: it is the port that tells.
        let (mut orphaned, at) = open(&lab, any_port(client(1)));
        assert_eq!(at, 0xa);
        // The same port: it is the address that tells.
        let (mut namesake, at) = open(&lab, SocketAddr::new(client(2), listed.local_addr().unwrap().port()));
        assert_eq!(at, 0xa);
        lab.a.becomes(Standing::Foreign);
        lab.b.becomes_with(Standing::Heir, &[listed.local_addr().unwrap()]);

        for stream in [&mut orphaned, &mut namesake] {
            stream.write_all(&[1]).unwrap();
            let error = stream.read(&mut [0]).expect_err("nobody is there to answer");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        }
        assert_eq!(left_alone(&lab.b), 0);

        listed.write_all(&[1]).unwrap();
        wait_until(|| left_alone(&lab.b) > 0);
        assert!(listed.take_error().unwrap().is_none());
        lab.a.becomes(Standing::Moving);
        // Sent again, to the host that knows it.
        listed.read_exact(&mut [0]).unwrap();
        ping(&mut listed);
    }
}

/// Whoever is on the list may open another connection from the same port, and that one is the heir's own.
#[test]
fn a_new_connection_from_a_listed_port_is_served() {
    for client in CLIENTS {
        let mut lab = Lab::new(true);
        let (old, at) = open(&lab, any_port(client(1)));
        assert_eq!(at, 0xa);
        let port = old.local_addr().unwrap();
        lab.a.becomes(Standing::Foreign);
        lab.b.becomes_with(Standing::Heir, &[port]);
        // Nothing is left of it at the client.
        SockRef::from(&old).set_linger(Some(Duration::ZERO)).unwrap();
        drop(old);
        wait_until(|| left_alone(&lab.b) > 0);

        let before = left_alone(&lab.b);
        let (mut new, at) = open(&lab, port);
        assert_eq!(at, 0xb);
        for (standing, elsewhere) in [
            (Standing::Heir, &[port][..]),
            (Standing::Shared, &[]),
            (Standing::Heir, &[port]),
            (Standing::Own, &[]),
        ] {
            lab.b.becomes_with(standing, elsewhere);
            ping(&mut new);
        }
        assert_eq!(left_alone(&lab.b), before, "segments of its own connection");
    }
}

fn both() -> Wanted {
    wanted(&["192.0.2.53", "2001:db8::53"])
}

/// A host with all slices in one standing, that knows these connections of others.
fn with(standing: Standing, elsewhere: BTreeSet<(IpAddr, u16)>) -> Wanted {
    Wanted { services: vec![all(standing, true)], elsewhere, lease: None, ..both() }
}

fn many4(range: std::ops::Range<u32>) -> BTreeSet<(IpAddr, u16)> {
    range.map(|n| (Ipv4Addr::from(0x0a00_0000 | n).into(), n as u16)).collect()
}

fn many6(range: std::ops::Range<u32>) -> BTreeSet<(IpAddr, u16)> {
    let address = |n: u32| Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(n));
    range.map(|n| (address(n).into(), n as u16)).collect()
}

/// The standing and its connections come and go together, in one transaction, however many they are.
#[test]
fn standing_and_connections_change_at_once() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let shared = with(Standing::Shared, BTreeSet::new());
        netfilter.install(&ruleset(&Wanted { lease: both().lease, ..shared.clone() })).unwrap();
        let max = ELSEWHERE_MAX as u32;
        let full = |first: u32| &many4(first..first + max) | &many6(first..first + max);
        let steps = [
            with(Standing::Heir, many6(0..20_000)),
            // Some stay, some go, some come.
            with(Standing::Heir, &many6(10_000..30_000) | &many4(0..5)),
            with(Standing::Own, BTreeSet::new()),
            with(Standing::Heir, full(0)),
            // All go, and as many others come.
            with(Standing::Heir, full(max)),
            with(Standing::Shared, BTreeSet::new()),
        ];
        let mut from = shared;
        for to in steps {
            let before = netfilter.generation().unwrap();
            netfilter.change(&from, &to).unwrap();
            assert_eq!(netfilter.generation().unwrap(), before + 1, "not one transaction");
            let found = netfilter.standings().unwrap().unwrap();
            assert_eq!(found.services["default"], to.services[0].slices);
            assert!(found.elsewhere == to.elsewhere, "{} others", found.elsewhere.len());
            let to = Wanted { lease: both().lease, ..to };
            assert_eq!(netfilter.verify(&ruleset(&to)).unwrap(), []);
            from = to;
        }
        let before = netfilter.generation().unwrap();
        netfilter.change(&from, &Wanted { lease: None, ..from.clone() }).unwrap();
        assert_eq!(netfilter.generation().unwrap(), before, "there was nothing to do");
    });
}

/// One too many, and nothing of the change is done. So with one that is gone already.
#[test]
fn a_list_that_the_kernel_refuses_changes_nothing() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let from = Wanted { lease: both().lease, ..with(Standing::Shared, many4(0..1)) };
        netfilter.install(&ruleset(&from)).unwrap();
        run("nft", &["delete element netdev onemac elsewhere4 { 10.0.0.0 . 0 }"]);
        for (elsewhere, errno, verb) in [
            (&many6(0..ELSEWHERE_MAX as u32 + 1) | &from.elsewhere, Errno::ENFILE, "add elements to"),
            (BTreeSet::new(), Errno::ENOENT, "remove elements from"),
        ] {
            let error = netfilter.change(&from, &with(Standing::Heir, elsewhere)).unwrap_err();
            let Error::Rejected { what, errno: found, .. } = &error else { panic!("{error:?}") };
            assert!(what.starts_with(&format!("{verb} set netdev onemac elsewhere")), "{what}");
            assert_eq!(*found, errno, "{what}");
            let before = Wanted { elsewhere: BTreeSet::new(), ..from.clone() };
            assert_eq!(netfilter.verify(&ruleset(&before)).unwrap(), []);
        }
    });
}

/// What is of no use is left out: of another IP version than the shared addresses, and where nothing is tracked.
#[test]
fn what_can_not_be_listed_is_left_out() {
    in_namespace(|| {
        let untracked = |wanted: Wanted| Wanted { services: vec![all(Standing::Heir, false)], ..wanted };
        let v4 = |wanted: Wanted| Wanted { vips: common::wanted(&["192.0.2.53"]).vips, ..wanted };
        let is_v4 = |(address, _): &(IpAddr, u16)| address.is_ipv4();
        for (of, kept) in [
            (v4 as fn(Wanted) -> Wanted, elsewhere().into_iter().filter(is_v4).collect()),
            (untracked, BTreeSet::new()),
        ] {
            let mut netfilter = Netfilter::open().unwrap();
            let (empty, listed) =
                (of(with(Standing::Heir, BTreeSet::new())), of(with(Standing::Heir, elsewhere())));
            netfilter.install(&ruleset(&empty)).unwrap();
            netfilter.change(&empty, &listed).unwrap();
            assert_eq!(netfilter.standings().unwrap().unwrap().elsewhere, kept);
            assert_eq!(netfilter.verify(&ruleset(&listed)).unwrap(), []);
            netfilter.change(&listed, &empty).unwrap();
            assert_eq!(netfilter.verify(&ruleset(&empty)).unwrap(), []);
        }
    });
}

/// What somebody else did to the list is seen, and mended where it stands.
#[test]
fn the_list_is_verified_and_mended_in_place() {
    in_namespace(|| {
        let mut netfilter = Netfilter::open().unwrap();
        let rules = ruleset(&Wanted { lease: both().lease, ..with(Standing::Heir, elsewhere()) });
        let handles = || {
            let text = run("nft", &["-a", "-t", "list", "table", "netdev", "onemac"]);
            let of_heir = |line: &&str| line.contains("elsewhere") || line.contains("chain heir");
            let handles = text.lines().filter(|line| line.contains("# handle")).filter(of_heir);
            handles.map(str::to_owned).collect::<Vec<_>>()
        };
        netfilter.install(&rules).unwrap();
        let as_made = handles();
        assert_eq!(as_made.len(), 5, "two sets, a chain, two rules: {as_made:?}");
        let set = |name: &str| format!("table netdev onemac, set {name}");
        for (command, place, wanted, found) in [
            (
                "add element netdev onemac elsewhere4 { 198.51.100.9 . 4000 }",
                set("elsewhere4"),
                None,
                Some("elements { 198.51.100.9 . 4000 }"),
            ),
            (
                "delete element netdev onemac elsewhere4 { 198.51.100.8 . 61001 }",
                set("elsewhere4"),
                Some("elements { 198.51.100.8 . 61001 }"),
                None,
            ),
            (
                "add element netdev onemac elsewhere6 { 2001:db8:1::7 . 1 }",
                set("elsewhere6"),
                None,
                Some("elements { 2001:db8:1::7 . 1 }"),
            ),
            (
                "flush set netdev onemac elsewhere6",
                set("elsewhere6"),
                Some("elements { 2001:db8:1::7 . 4000, 2001:db8:1::7 . 61001 }"),
                None,
            ),
        ] {
            run("nft", &[command]);
            let expected =
                Difference { place, wanted: wanted.map(str::to_owned), found: found.map(str::to_owned) };
            assert_eq!(netfilter.verify(&rules).unwrap(), [expected], "after `nft {command}`");
            let before = netfilter.generation().unwrap();
            netfilter.install(&rules).unwrap();
            assert_eq!(netfilter.generation().unwrap(), before + 1);
            assert_eq!(handles(), as_made, "made anew");
        }
    });
}
