//! Definitions that are right: the contract's example, the shipped examples, and what YAML allows.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onemac_definition::{
    Affinity, Backends, Check, CheckKind, Definition, Engine, Host, Link, Method, Mode, Partition, PortRange,
    Protocol, Scheduler, Server, Service, Timing, Track, parse,
};

const SMALL: &str = "\
cluster: ns-ams
secret_file: secret.key
vips: [192.0.2.53]
hosts:
  - { name: ns1, gossip: \"192.0.2.11:7946\", interface: eth0 }
";

fn accept(text: &str) -> Definition {
    parse("test.yaml", text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn check(kind: CheckKind, port: Option<u16>) -> Check {
    Check { kind, port, interval: ms(1000), timeout: ms(500), fall: 3, rise: 2 }
}

/// The example of the contract, letter by letter.
#[test]
fn the_contract_s_example_has_its_value() {
    let dns = Service {
        name: "dns".into(),
        ports: vec![PortRange::one(53)],
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        mode: Mode::Shared,
        track: Track::Auto,
        check: Some(check(CheckKind::Dns { query: "example.org".into() }, None)),
        backends: None,
    };
    let web = Service {
        name: "web".into(),
        ports: vec![PortRange::one(80), PortRange::one(443)],
        protocols: vec![Protocol::Tcp],
        mode: Mode::Shared,
        track: Track::Auto,
        check: Some(check(CheckKind::Http { path: "/healthz".into(), host: None, status: None }, Some(80))),
        backends: None,
    };
    let mail = Service {
        name: "mail".into(),
        ports: vec![PortRange::one(25)],
        protocols: vec![Protocol::Tcp],
        mode: Mode::Shared,
        track: Track::Auto,
        check: None,
        backends: Some(Backends {
            method: Method::Direct,
            engine: Engine::Auto,
            scheduler: Scheduler::Mh,
            persistence: Some(Duration::from_secs(300)),
            servers: vec![
                Server { address: ip("192.0.2.21"), port: None, weight: 2 },
                Server { address: ip("192.0.2.22"), port: Some(2525), weight: 1 },
            ],
            check: Some(check(CheckKind::Tcp, None)),
        }),
    };
    let expected = Definition {
        cluster: "ns-ams".into(),
        secret_file: "secret.key".into(),
        vips: vec![ip("192.0.2.53"), ip("2001:db8::53")],
        mac: "02:bf:c0:00:02:35".parse().unwrap(),
        link: Link::Unicast,
        slices: 1024,
        affinity: Affinity::Client,
        partition: Partition::Serve,
        timing: Timing { heartbeat: ms(100), lease: ms(800), drain_timeout: ms(600_000) },
        hosts: vec![Host {
            name: "ns1".into(),
            gossip: "192.0.2.11:7946".parse().unwrap(),
            interface: "eth0".into(),
            weight: 1,
        }],
        services: vec![dns, web, mail],
    };
    assert_eq!(accept(include_str!("contract.yaml")), expected);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let explicit = "\
cluster: ns-ams
secret_file: secret.key
vips: [192.0.2.53]
mac: auto
link: unicast
slices: 1024
affinity: client
partition: serve
timing: { heartbeat: 100ms, lease: 800ms, drain_timeout: 10m }
hosts:
  - { name: ns1, gossip: \"192.0.2.11:7946\", interface: eth0, weight: 1 }
services: []
";
    assert_eq!(accept(SMALL), accept(explicit));
}

fn examples(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn the_examples_run_today() {
    let files = examples(".");
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let definition = accept(&fs::read_to_string(&file).unwrap());
        assert_eq!(definition.not_yet(), [], "{}", file.display());
        assert_eq!(accept(&definition.to_yaml()), definition, "{}", file.display());
    }
}

#[test]
fn the_later_examples_are_accepted_and_say_that_they_do_not_run() {
    let files = examples("later");
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# Not yet: `onemac run`"), "{}", file.display());
        let definition = accept(&text);
        assert!(!definition.not_yet().is_empty(), "{} runs: move it up", file.display());
        assert_eq!(accept(&definition.to_yaml()), definition, "{}", file.display());
    }
}

#[test]
fn not_yet_names_every_key_that_asks_for_something_to_come() {
    let text = "\
cluster: all
secret_file: secret.key
vips: [192.0.2.53]
link: igmp
affinity: client-port
partition: majority
timing: { drain_timeout: 5m }
hosts: [{ name: ns1, gossip: \"192.0.2.11:7946\", interface: eth0 }]
services:
  - { name: plain, ports: [1] }
  - { name: one, ports: [2], mode: single, check: { type: tcp } }
  - name: far
    ports: [3]
    backends: { method: tunnel, servers: [{ address: 192.0.2.21 }, { address: 192.0.2.22, port: 4 }] }
  - { name: near, ports: [5], backends: { method: nat, servers: [{ address: 192.0.2.21, port: 6 }] } }
";
    let not_yet = accept(text).not_yet();
    let keys: Vec<&str> = not_yet.iter().map(|not_yet| not_yet.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "link",
            "affinity",
            "services[1].mode",
            "services[1].check",
            "services[2].backends",
            "services[3].backends",
            "services[2].backends.servers[1].port",
        ]
    );
    assert!(not_yet.iter().all(|not_yet| not_yet.why.contains("; ")), "each says what to do instead");
    assert_eq!(
        not_yet[0].to_string(),
        "`link`: the link modes multicast and igmp are not built yet; use `unicast`"
    );
    assert_eq!(accept(&SMALL.replace("hosts:", "link: multicast\nhosts:")).not_yet()[0].key, "link");
    assert_eq!(accept(&SMALL.replace("hosts:", "affinity: network\nhosts:")).not_yet()[0].key, "affinity");
}

#[test]
fn a_leading_bom_and_crlf_and_comments_change_nothing() {
    let expected = accept(SMALL);
    assert_eq!(accept(&format!("\u{feff}{SMALL}")), expected);
    assert_eq!(accept(&SMALL.replace('\n', "\r\n")), expected);
    assert_eq!(accept(&format!("---\n{SMALL}...\n")), expected);
    let comments = "# one line of many\n".repeat(500);
    assert_eq!(accept(&format!("{comments}{}", SMALL.replace('\n', &format!("\n{comments}")))), expected);
}

#[test]
fn positions_hold_with_a_bom_crlf_and_wide_characters() {
    for (text, place) in [
        ("\u{feff}klusta: x\n", (1, 1)),
        ("# ü\r\nlink: unicast\r\nmac: nö\r\n", (3, 6)),
        ("secret_file: \"ключ\"\nlink: \"ü\"\n", (2, 7)),
    ] {
        let problems = parse("f", text).unwrap_err();
        let places: Vec<(usize, usize)> = problems.iter().map(|p| (p.line, p.column)).collect();
        assert!(places.contains(&place), "{places:?} of {text:?}");
    }
}

#[test]
fn addresses_of_both_families_need_quotes_only_where_yaml_does() {
    for vips in [
        "[192.0.2.53, 2001:db8::53]",
        "[\"192.0.2.53\", '2001:db8::53']",
        "\n  - 192.0.2.53\n  - 2001:db8::53",
        "\n- \"192.0.2.53\"\n- 2001:0DB8:0:0::53",
    ] {
        let text = SMALL.replace("[192.0.2.53]", vips);
        assert_eq!(accept(&text).vips, [ip("192.0.2.53"), ip("2001:db8::53")], "{vips}");
    }
}

#[test]
fn words_that_yaml_takes_for_other_types_stay_words() {
    let text = SMALL.replace("ns-ams", "no").replace("ns1", "007").replace("eth0", "off");
    let definition = accept(&text);
    assert_eq!(definition.cluster, "no");
    assert_eq!(definition.hosts[0].name, "007");
    assert_eq!(definition.hosts[0].interface, "off");
    assert_eq!(accept(&definition.to_yaml()), definition);
}

#[test]
fn an_alias_stands_for_what_it_repeats() {
    let text = "\
cluster: x
secret_file: secret.key
vips: [192.0.2.53]
hosts:
  - { name: a, gossip: \"192.0.2.1:1\", interface: &wire bond0 }
  - { name: b, gossip: \"192.0.2.2:1\", interface: *wire }
";
    assert_eq!(accept(text).hosts[1].interface, "bond0");
}

#[test]
fn a_real_server_may_be_a_cluster_host_and_a_gossip_net_may_be_loopback() {
    let text = "\
cluster: x
secret_file: /etc/onemac/secret.key
vips: [\"2001:db8::53\"]
hosts:
  - { name: a, gossip: \"127.0.0.1:1\", interface: veth0 }
  - { name: b, gossip: \"127.0.0.1:2\", interface: veth1, weight: 0 }
services:
  - { name: s, ports: [1, 100-200], backends: { method: nat, servers: [{ address: 2001:db8::1 }, { address: 2001:db8::1, port: 5 }] } }
  - { name: t, ports: [1, 150], protocols: [udp] }
  - { name: default, mode: off, check: { type: tcp, port: 22, interval: 200ms } }
";
    let definition = accept(text);
    assert_eq!(definition.mac.to_string(), "02:bf:00:00:00:53", "from the IPv6 VIP");
    assert_eq!(definition.services[2].check.as_ref().unwrap().timeout, ms(200), "never above the interval");
    assert_eq!(definition.host("A").unwrap().name, "a");
    assert_eq!(definition.host("c"), None);
}

#[test]
fn limits_are_inclusive() {
    let timing = |heartbeat: &str, lease: &str, drain: &str| {
        SMALL.replace(
            "hosts:",
            &format!("timing: {{ heartbeat: {heartbeat}, lease: {lease}, drain_timeout: {drain} }}\nhosts:"),
        )
    };
    accept(&timing("10ms", "50ms", "0s"));
    accept(&timing("10s", "60s", "24h"));
    assert!(parse("f", &timing("10ms", "49ms", "0s")).is_err());
    for slices in [16, 4096] {
        assert_eq!(accept(&SMALL.replace("hosts:", &format!("slices: {slices}\nhosts:"))).slices, slices);
    }
    let many: String = (1..=64)
        .map(|i| {
            format!(
                "  - {{ name: n{i}, gossip: \"192.0.2.{}:7946\", interface: eth0, weight: 100 }}\n",
                100 + i
            )
        })
        .collect();
    let head = SMALL.split("  - {").next().unwrap();
    assert_eq!(accept(&format!("{head}{many}")).hosts.len(), 64);
}

/// The printed text is what hosts compare: a key that is not used must not make two versions differ.
#[test]
fn track_is_printed_only_where_it_says_something() {
    let printed = |line: &str| {
        let text = format!("{SMALL}services:\n  - name: dns\n    ports: [53]\n{line}");
        let definition = parse("track.yaml", &text).unwrap();
        (definition.services[0].track, definition.to_yaml())
    };
    let without = printed("");
    assert!(!without.1.contains("track"), "{}", without.1);
    assert_eq!(printed("    track: auto\n"), without);
    for (word, track) in [("always", Track::Always), ("never", Track::Never)] {
        let (read, text) = printed(&format!("    track: {word}\n"));
        assert_eq!(read, track);
        assert!(text.contains(&format!("    track: {word}\n")), "{text}");
    }
}
