//! A network namespace of its own for a test, and the wanted states that the tests share.

#![allow(dead_code)]
#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

pub mod fate;
pub mod frame;
pub mod lab;
pub mod wire;

use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sched::{CloneFlags, unshare};
use onemac_rules::{Lease, MacAddr, Protocol, Service, Standing, Token, Wanted};

/// Name of the service device in the namespace.
pub const DEVICE: &str = "eth0";

/// Its own address.
pub const DEVICE_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// The shared address.
pub const CLUSTER_MAC: MacAddr = MacAddr([0x02, 0xbf, 192, 0, 2, 53]);

/// Runs the test in a thread with a new network namespace that has [`DEVICE`]. It goes with the thread.
///
/// Fails without root: these tests have nothing to say then, and saying nothing would look like success.
pub fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let result = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a network namespace of its own for the test: run the tests as root");
        run("ip", &["link", "add", DEVICE, "type", "veth", "peer", "name", "far"]);
        run("ip", &["link", "set", DEVICE, "up"]);
        test()
    })
    .join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a program in the namespace of the thread; returns what it wrote, fails if it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"))
}

/// The same, for programs that may fail.
pub fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// Loads a text with `nft -f`; further options stand before it.
pub fn nft_load(text: &str, options: &[&str]) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(options)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).map_err(|e| e.to_string())?;
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(format!("{}\n{said}{}\n{text}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// `nft list ruleset` without what differs from one moment to the next: how long elements still live.
pub fn listing() -> String {
    let text = run("nft", &["list", "ruleset"]);
    let mut words = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        let mut kept = String::new();
        while let Some(at) = rest.find(" expires ") {
            kept.push_str(&rest[..at]);
            rest = rest[at + 9..].trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        }
        kept.push_str(rest);
        words.push(kept);
    }
    words.join("\n")
}

/// A host with these addresses that owns every third slice and holds a long lease.
pub fn wanted(vips: &[&str]) -> Wanted {
    Wanted {
        device: DEVICE.into(),
        device_mac: DEVICE_MAC,
        shared: "onemac0".into(),
        second_mask: false,
        cluster_mac: CLUSTER_MAC,
        vips: vips.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect(),
        slices: 64,
        seed: 0x5eed_0dec,
        services: vec![everything().owning((0..64).step_by(3))],
        elsewhere: BTreeSet::new(),
        inside: Default::default(),
        gossip: Some(SocketAddr::from(([192, 0, 2, 11], 7946))),
        lease: Some(lease()),
        longest_lease: LONGEST,
        token: token(),
    }
}

/// The same host with other services, for a change that leaves the running lease alone.
pub fn serving(wanted: &Wanted, services: impl Into<Vec<Service>>) -> Wanted {
    Wanted { services: services.into(), lease: None, ..wanted.clone() }
}

/// The service that takes everything, its connections followed, without a slice.
pub fn everything() -> Service {
    Service::everything("default", true)
}

/// A service that takes everything, all its slices in one standing.
pub fn all(standing: Standing, tracked: bool) -> Service {
    let slices = (0..64).map(|n| (n, standing)).collect();
    Service { slices, ..Service::everything("default", tracked) }
}

/// A nameserver and a web server, and what is left: with a slice in each standing, each from another on.
pub fn services() -> Vec<Service> {
    let slices = |first: u32| (0..).zip(EACH).map(|(n, standing)| ((first + n) % 16, standing)).collect();
    vec![
        Service {
            ports: Some(vec![(Protocol::Udp, 53)]),
            slices: slices(0),
            ..Service::everything("dns", false)
        },
        Service {
            ports: Some(vec![(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 443)]),
            slices: slices(5),
            ..Service::everything("web", true)
        },
        Service { slices: slices(10), ..everything() },
    ]
}

/// Another host.
pub const PEER: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x99]);

/// One slice in each standing, from slice 0 on.
pub const EACH: [Standing; 8] = [
    Standing::Own,
    Standing::Shared,
    Standing::Heir,
    Standing::Taking,
    Standing::Moving,
    Standing::Relaying(PEER),
    Standing::Incoming,
    Standing::Foreign,
];

/// Connections of both IP versions that live on another host.
pub fn elsewhere() -> BTreeSet<(IpAddr, u16)> {
    let clients = ["198.51.100.7", "198.51.100.8", "2001:db8:1::7"];
    clients.iter().flat_map(|a| [(a.parse().unwrap(), 4000), (a.parse().unwrap(), 61_001)]).collect()
}

/// The longest lease of [`wanted`].
pub const LONGEST: Duration = Duration::from_secs(3600);

/// A lease that outlives any test.
pub fn lease() -> Lease {
    lease_for(LONGEST)
}

/// A lease from now on.
pub fn lease_for(timeout: Duration) -> Lease {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Lease { timeout, deadline_unix_ns: (now + timeout).as_nanos() as u64 }
}

/// What the host knows its own frames by.
pub fn token() -> Token {
    Token::new(0xf123_4567_89ab_cdefu64.to_be_bytes())
}

/// A lease whose text is always the same, until the end of 2096.
fn kept_lease() -> Lease {
    Lease { timeout: LONGEST, deadline_unix_ns: 4_007_750_399_123_456_789 }
}

/// The cases whose text is kept in tests/golden.
pub fn golden_cases() -> Vec<(&'static str, Wanted)> {
    let many: Vec<String> = (1..=24)
        .map(|n| format!("198.51.100.{n}"))
        .chain((1..=8).map(|n| format!("2001:db8:0:{n}::53")))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        (
            "v4",
            Wanted {
                lease: None,
                services: vec![Service::everything("default", false)],
                ..wanted(&["192.0.2.53"])
            },
        ),
        // Few slices: this one is shown in docs/ruleset.md.
        (
            "v4-v6",
            Wanted {
                second_mask: true,
                slices: 16,
                services: vec![Service {
                    slices: [
                        (1, Standing::Own),
                        (6, Standing::Own),
                        (11, Standing::Own),
                        (12, Standing::Moving),
                    ]
                    .into(),
                    ..everything()
                }],
                lease: Some(Lease { timeout: Duration::from_millis(800), ..kept_lease() }),
                longest_lease: Duration::from_millis(800),
                ..wanted(&["192.0.2.53", "2001:db8::53"])
            },
        ),
        (
            "v6",
            Wanted {
                lease: Some(kept_lease()),
                gossip: Some("[2001:db8::11]:7946".parse().unwrap()),
                ..wanted(&["2001:db8::53"])
            },
        ),
        (
            "services",
            Wanted {
                slices: 16,
                services: services(),
                elsewhere: elsewhere(),
                lease: Some(kept_lease()),
                ..wanted(&["192.0.2.53", "2001:db8::53"])
            },
        ),
        // One that conntrack sees whole, one not at all, and the others.
        (
            "track",
            Wanted {
                lease: Some(kept_lease()),
                slices: 16,
                services: vec![
                    Service {
                        ports: Some(vec![(Protocol::Udp, 53)]),
                        datagrams_tracked: true,
                        ..Service::everything("dns", false)
                    },
                    Service {
                        ports: Some(vec![(Protocol::Tcp, 25), (Protocol::Udp, 500)]),
                        ..Service::everything("mail", false)
                    },
                    everything(),
                ],
                ..wanted(&["192.0.2.53", "2001:db8::53"])
            },
        ),
        (
            "32-vips",
            Wanted {
                lease: Some(kept_lease()),
                slices: 1024,
                services: vec![everything().owning((0..1024).step_by(4))],
                ..wanted(&many)
            },
        ),
    ]
}

/// One shared address of each family.
pub fn both() -> Wanted {
    wanted(&["192.0.2.53", "2001:db8::53"])
}
