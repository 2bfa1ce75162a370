//! Printed definitions read back; and no text, however odd, panics or costs more than its budget.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use onemac_definition::{
    Affinity, Backends, Check, CheckKind, Definition, Engine, Host, Link, MAX_TEXT_BYTES, MacAddr, Method,
    Mode, Partition, PortRange, Protocol, Scheduler, Server, Service, Timing, Track, Word, parse,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn word<W: Word>() -> impl Strategy<Value = W> {
    select(W::ALL)
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn address() -> impl Strategy<Value = IpAddr> {
    // Outside of every range that has a meaning of its own.
    let v4 = (0x0b00_0000_u32..0x7f00_0000).prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let v6 = any::<u64>()
        .prop_map(|low| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(low))));
    prop_oneof![v4, v6]
}

/// Members: names and addresses unique, one family, weights not all zero.
fn hosts() -> impl Strategy<Value = Vec<Host>> {
    let host = ("[!-~&&[^/:@%\"\\\\*]]{1,15}", 1..=u16::MAX, 0..=100_u8);
    (btree_map("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,20})?", host, 1..9), any::<bool>()).prop_map(
        |(hosts, v4)| {
            let mut hosts: Vec<Host> = hosts
                .into_iter()
                .enumerate()
                .map(|(i, (name, (interface, port, weight)))| {
                    let i = u16::try_from(i).unwrap();
                    let ip = if v4 {
                        IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(i + 1).unwrap()))
                    } else {
                        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, i + 1))
                    };
                    let reserved =
                        ["lo", ".", "..", "all", "default", "onemac0"].contains(&interface.as_str());
                    let interface = if reserved { "eth0".to_owned() } else { interface };
                    Host { name, gossip: SocketAddr::new(ip, port), interface, weight }
                })
                .collect();
            hosts[0].weight = hosts[0].weight.max(1);
            hosts
        },
    )
}

fn check(needs_port: bool) -> impl Strategy<Value = Check> {
    let kind = prop_oneof![
        Just(CheckKind::Tcp),
        ("/[!-~]{0,30}", option::of("[a-zA-Z0-9._-]{1,40}"), option::of(100..600_u16))
            .prop_map(|(path, host, status)| CheckKind::Http { path, host, status }),
        "[a-zA-Z0-9_-]{1,63}(\\.[a-zA-Z0-9_-]{1,63}){0,2}\\.?".prop_map(|query| CheckKind::Dns { query }),
        Just(CheckKind::Dns { query: ".".to_owned() }),
    ];
    (kind, option::of(1..=u16::MAX), 100..3_600_000_u64, 10..3_600_000_u64, 1..=100_u8, 1..=100_u8).prop_map(
        move |(kind, port, interval, timeout, fall, rise)| Check {
            kind,
            port: if needs_port { Some(port.unwrap_or(1)) } else { port },
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout.min(interval)),
            fall,
            rise,
        },
    )
}

fn backends(vips: Vec<IpAddr>) -> impl Strategy<Value = Backends> {
    let servers = btree_map(address(), (option::of(1..=u16::MAX), any::<u16>()), 1..6);
    (
        word::<Method>(),
        word::<Engine>(),
        word::<Scheduler>(),
        option::of((1..=86_400_u64).prop_map(Duration::from_secs)),
        servers,
        option::of(check(false)),
    )
        .prop_filter_map(
            "no usable server",
            move |(method, engine, scheduler, persistence, servers, check)| {
                let usable = |address: &IpAddr| {
                    !vips.contains(address) && vips.iter().any(|vip| vip.is_ipv4() == address.is_ipv4())
                };
                let mut servers: Vec<Server> = servers
                    .into_iter()
                    .filter(|(address, _)| usable(address))
                    .map(|(address, (port, weight))| Server { address, port, weight })
                    .collect();
                servers.first_mut()?.weight |= 1;
                Some(Backends { method, engine, scheduler, persistence, servers, check })
            },
        )
}

/// Services whose port ranges are cut from one sorted set, so that none overlap.
fn services(vips: Vec<IpAddr>) -> impl Strategy<Value = Vec<Service>> {
    let protocols = btree_set(word::<Protocol>(), 1..3);
    let words = (word::<Mode>(), word::<Track>());
    let one = (protocols, words, option::of(check(true)), option::of(backends(vips)));
    let names = btree_map("[a-z0-9-]{1,32}", one, 0..5);
    (names, btree_set(1..=u16::MAX, 20), any::<bool>()).prop_map(|(names, ports, with_default)| {
        let ports: Vec<u16> = ports.into_iter().collect();
        let mut ranges = ports.chunks(2).map(|pair| PortRange { first: pair[0], last: pair[pair.len() - 1] });
        let mut services: Vec<Service> = names
            .into_iter()
            .filter(|(name, _)| name != "default")
            .map(|(name, (protocols, (mode, track), check, backends))| Service {
                name,
                ports: ranges.by_ref().take(2).collect(),
                protocols: protocols.into_iter().collect(),
                mode,
                track,
                check,
                backends,
            })
            .collect();
        if with_default && let Some(last) = services.last_mut() {
            last.name = "default".to_owned();
            last.ports.clear();
            last.protocols.clear();
        }
        services
    })
}

fn mac(link: Link) -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(move |mut octets| {
        match link {
            Link::Unicast => octets[0] = octets[0] & 0xfe | 2,
            Link::Multicast => octets[0] = octets[0] & 0x7f & !0x30 | 3,
            Link::Igmp => octets[..4].copy_from_slice(&[1, 0, 0x5e, 0x7f]),
        }
        MacAddr::new(octets)
    })
}

fn timing() -> impl Strategy<Value = Timing> {
    (10..=10_000_u64)
        .prop_flat_map(|heartbeat| {
            (Just(Duration::from_millis(heartbeat)), millis(heartbeat * 5..=60_000), millis(0..=86_400_000))
        })
        .prop_map(|(heartbeat, lease, drain_timeout)| Timing { heartbeat, lease, drain_timeout })
}

fn definition() -> impl Strategy<Value = Definition> {
    let vips =
        btree_set(address(), 1..6).prop_map(|vips: BTreeSet<IpAddr>| vips.into_iter().collect::<Vec<_>>());
    (vips, word::<Link>())
        .prop_flat_map(|(vips, link)| (Just(vips.clone()), Just(link), mac(link), services(vips)))
        .prop_flat_map(|(vips, link, mac, services)| {
            (
                ("[a-z0-9-]{1,32}", "\\PC{0,40}[^\\pC\\pZ]"),
                (4..=12_u32).prop_map(|power| 1 << power),
                (word::<Affinity>(), word::<Partition>()),
                timing(),
                hosts(),
            )
                .prop_map(move |(names, slices, words, timing, hosts)| Definition {
                    cluster: names.0,
                    secret_file: names.1.into(),
                    vips: vips.clone(),
                    mac,
                    link,
                    slices,
                    affinity: words.0,
                    partition: words.1,
                    timing,
                    hosts,
                    services: services.clone(),
                })
        })
        .prop_filter("a VIP that is a host's address", |definition| {
            !definition.hosts.iter().any(|host| definition.vips.contains(&host.gossip.ip()))
        })
}

/// The contract's example, as ground for mutations.
const CONTRACT: &str = include_str!("contract.yaml");

proptest! {
    #[test]
    fn what_is_printed_reads_back(definition in definition()) {
        let text = definition.to_yaml();
        match parse("printed", &text) {
            Ok(read) => prop_assert_eq!(read, definition),
            Err(problems) => prop_assert!(false, "{}\n{}", problems, text),
        }
    }

    #[test]
    fn any_text_gives_a_definition_or_problems(text in "\\PC{0,300}|[ -~\n\t]{0,300}") {
        well_told(&text);
    }

    #[test]
    fn yaml_like_soup_gives_a_definition_or_problems(
        tokens in vec(select(vec![
            "cluster", "vips", "hosts", "services", "timing", ": ", "- ", "\n", "\n  ", "\n    ", "[", "]",
            "{", "}", ", ", "&a ", "*a", "!!str ", "\"", "'", "|", ">", "? ", "~", "192.0.2.1", "::1", "#",
            "<<", "---\n", "...\n", "\t", "\u{feff}", "\r\n", "%YAML 1.2\n", "1024", "100ms",
        ]), 0..60)
    ) {
        well_told(&tokens.concat());
    }

    #[test]
    fn a_spoilt_definition_gives_a_definition_or_problems(
        cuts in vec((any::<prop::sample::Index>(), 0..20_usize, "[ -~\n\t\u{fc}]{0,8}"), 1..4)
    ) {
        let mut text: Vec<char> = CONTRACT.chars().collect();
        for (at, length, patch) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, patch.chars());
        }
        well_told(&text.into_iter().collect::<String>());
    }
}

/// A line pasted twice is a repeated key, name, address or port, and told as such.
#[test]
fn a_repeated_line_is_told() {
    for i in 0..CONTRACT.lines().count() {
        let mut lines: Vec<&str> = CONTRACT.lines().collect();
        lines.insert(i, lines[i]);
        assert!(parse("f", &lines.join("\n")).is_err(), "{}", lines[i]);
    }
}

/// Parses and checks that each problem points into the file and that its text is fit for a terminal.
fn well_told(text: &str) {
    let Err(problems) = parse("f", text) else { return };
    assert!(problems.len() > 0);
    let mut last = (0, 0);
    for problem in &problems {
        assert!((problem.line, problem.column) >= last, "{problems}");
        last = (problem.line, problem.column);
        assert!(problem.line >= 1 && problem.column >= 1, "{problem}");
        assert!(problem.line <= text.matches(['\n', '\r']).count() + 1, "{problem}\n{text:?}");
    }
    for problem in &problems {
        assert!(problem.sentence().chars().count() < 600, "{}", problem.sentence());
    }
    let told = problems.to_string();
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
}

/// Inputs made to cost much. The bounds are on what is counted, not on the clock: the text's size, the
/// nodes with aliases written out, the nesting. Without them each of these takes minutes or the stack.
#[test]
fn bombs_end_at_their_budget() {
    let mut bombs: BTreeMap<&str, String> = BTreeMap::new();
    let levels = |last: char| -> String {
        ('b'..=last)
            .map(|c| format!("{c}: &{c} [{}]\n", vec![format!("*{}", char::from(c as u8 - 1)); 10].join(",")))
            .collect()
    };
    bombs.insert("aliases", format!("a: &a [x,x,x,x,x,x,x,x,x,x]\n{}", levels('z')));
    bombs.insert("flow nesting", "[".repeat(500_000));
    bombs.insert("mapping nesting", "{a: ".repeat(200_000));
    bombs.insert("block nesting", "- ".repeat(500_000));
    bombs.insert("stairs", (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect());
    bombs.insert(
        "nested anchors",
        (0..30).map(|i| format!("{}- &a{i}\n", " ".repeat(i))).collect::<String>()
            + &" ".repeat(40)
            + "["
            + &"x,".repeat(50_000)
            + "]",
    );
    bombs.insert(
        "alias chain",
        "a:\n- &a0 x\n".to_owned()
            + &(1..20_000).map(|i| format!("- &a{i} [*a{}]\n", i - 1)).collect::<String>(),
    );
    bombs.insert("too large", "#".repeat(MAX_TEXT_BYTES + 1));
    bombs.insert("too many values", format!("vips: [{}]", "x,".repeat(200_000)));
    for (name, text) in bombs {
        let problems = parse("bomb", &text).unwrap_err();
        let told = problems.to_string();
        assert!(
            ["at most", "reasonable size", "nested 32 deep"].iter().any(|budget| told.contains(budget)),
            "{name}: {told:.300}"
        );
        assert_eq!(problems.len(), 1, "{name}: nothing is read past a spent budget");
    }
}

/// The largest texts that are within every budget are read to their end.
#[test]
fn large_and_wrong_is_told_in_full() {
    let keys: String = (0..30_000).map(|i| format!("key{i}: x\n")).collect();
    assert_eq!(
        parse("f", &keys).unwrap_err().len(),
        30_000 + 4,
        "every unknown key, and four that are missing"
    );
    let long = format!("cluster: {}\n", "x".repeat(1_000_000));
    assert!(parse("f", &long).unwrap_err().to_string().len() < 2_000, "values and lines are cut");
}
