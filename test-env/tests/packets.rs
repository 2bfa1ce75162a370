//! Packets that are not a plain query: echo requests, fragments, ICMP errors about a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::{
    Capture, Frame, Lab, Netns, Plan, addr, ask_udp, client_v4, client_v6, fetch_tcp, frames, neighbour_v4,
    neighbour_v6, ping_all,
};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9000;

fn vip_for(client: IpAddr) -> IpAddr {
    if client.is_ipv4() { addr::VIP4.into() } else { addr::VIP6.into() }
}

/// Which host owns a client, by the agents.
fn owner(lab: &Lab, client: IpAddr) -> Result<String> {
    let told = lab.host(1).onemac(&["owner", &client.to_string(), "--json"])?;
    ensure!(told.code == 0, "{told:?}");
    let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
    told["owner"].as_str().map(str::to_owned).with_context(|| format!("no owner of {client}: {told}"))
}

#[test]
fn a_ping_has_one_reply() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(4))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let from_afar: (&Netns, Vec<IpAddr>, Vec<IpAddr>) = (lab.clients(), client_v4(100), client_v6(100));
    let on_the_lan = (
        lab.neighbour(),
        neighbour_v4(50).into_iter().map(IpAddr::from).collect(),
        neighbour_v6(50).into_iter().map(IpAddr::from).collect(),
    );
    for (netns, v4, v6) in [from_afar, on_the_lan] {
        for askers in [v4, v6] {
            let tally = ping_all(netns, &askers, vip_for(askers[0]), PATIENCE)?;
            let wrong: Vec<_> = tally.iter().filter(|(_, replies)| **replies != 1).collect();
            ensure!(wrong.is_empty(), "not one reply: {wrong:?}");
        }
    }
    Ok(())
}

#[test]
fn a_datagram_in_fragments_reaches_one_host_whole() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(4))?;
    let _servers = lab.hosts().iter().map(|host| host.start_server(PORT)).collect::<Result<Vec<_>>>()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let mut served = BTreeSet::new();
    for client in client_v4(12).into_iter().chain(client_v6(12)) {
        let server = SocketAddr::new(vip_for(client), PORT);
        let small = ask_udp(lab.clients(), client, server, 100, PATIENCE)?;
        for length in [1472, 1473, 5000, 20_000] {
            let (who, seen) = ask_udp(lab.clients(), client, server, length, PATIENCE)?;
            assert_eq!((who.as_str(), seen), (small.0.as_str(), length), "{client} sending {length} bytes");
        }
        served.insert(small.0);
    }
    assert!(served.len() > 1, "one host served all: {served:?}");
    // Every host must have dropped the others' fragments before putting anything together.
    for host in lab.hosts() {
        let counters = host.netns().run("nstat", &["-asz", "IpReasmFails", "Ip6ReasmFails"])?;
        for line in counters.lines().filter(|line| line.contains("ReasmFails")) {
            assert_eq!(line.split_whitespace().nth(1), Some("0"), "{}: {line}", host.name());
        }
    }
    Ok(())
}

/// Behind the rules: the clients of such errors, as raw bytes.
const HEARD: &str = "table inet heard {
    set four { typeof @th,192,32; size 1024; flags dynamic; }
    set six { typeof @th,256,128; size 1024; flags dynamic; }
    chain behind {
        type filter hook prerouting priority -290; policy accept;
        icmp type destination-unreachable icmp code 4 add @four { @th,192,32 }
        icmpv6 type packet-too-big add @six { @th,256,128 }
    }
}";

/// An address as nft lists raw bytes.
fn as_number(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:#x}", u32::from(v4)),
        IpAddr::V6(v6) => format!("{:#x}", u128::from(v6)),
    }
}

/// ICMP errors that say a packet was too big, by the client that the refused packet was for.
fn too_big(frames: &[Frame]) -> BTreeMap<IpAddr, usize> {
    let mut seen = BTreeMap::new();
    for frame in frames.iter().filter(|frame| !frame.outgoing) {
        let Some((kind, message)) = frames::icmp(&frame.data) else { continue };
        let client = match frames::addresses(&frame.data) {
            // Type 3, code 4; the quoted header's destination stands 8 + 16 bytes on.
            Some((IpAddr::V4(_), _)) if kind == 3 && message.get(1) == Some(&4) => {
                message.get(24..28).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from)
            }
            // Packet too big; the quoted header's destination stands 8 + 24 bytes on.
            Some((IpAddr::V6(_), _)) if kind == 2 => {
                message.get(32..48).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from)
            }
            _ => None,
        };
        if let Some(client) = client {
            *seen.entry(client).or_default() += 1;
        }
    }
    seen
}

#[test]
fn a_router_that_says_too_big_is_heard_by_the_host_with_the_connection_alone() -> Result<()> {
    let mut plan = Plan::hosts(4);
    plan.narrow_mtu = Some(1300);
    let lab = Lab::build(&plan)?;
    let _servers = lab.hosts().iter().map(|host| host.start_server(PORT)).collect::<Result<Vec<_>>>()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // The far router's own addresses belong to some host too; clients of other hosts are the test.
    let strangers = [owner(&lab, "203.0.113.2".parse()?)?, owner(&lab, "2001:db8:0:2::2".parse()?)?];
    let mut clients = Vec::new();
    for (all, stranger) in [(client_v4(40), &strangers[0]), (client_v6(40), &strangers[1])] {
        let before = clients.len();
        for client in all {
            let owner = owner(&lab, client)?;
            if owner != *stranger && clients.len() < before + 8 {
                clients.push((client, owner));
            }
        }
        ensure!(clients.len() == before + 8, "too few clients of other hosts");
    }

    let cards =
        lab.hosts().iter().map(|host| Capture::start(host.netns(), "eth0")).collect::<Result<Vec<_>>>()?;
    lab.hosts().iter().try_for_each(|host| host.netns().run("nft", &[HEARD]).map(drop))?;
    for (client, owner) in &clients {
        let server = SocketAddr::new(vip_for(*client), PORT);
        let who = fetch_tcp(lab.clients(), *client, server, 300_000, PATIENCE)
            .with_context(|| format!("300,000 bytes through the narrow link to {client}"))?;
        assert_eq!(who, *owner);
        let route = lab.host_named(owner)?.netns().run("ip", &["route", "get", &client.to_string()])?;
        assert!(route.contains("mtu 1300"), "{owner} has not learned the path's MTU to {client}: {route}");
    }
    let stop = |taps: Vec<Capture>| taps.into_iter().map(Capture::stop).collect::<Result<Vec<_>>>();
    for (host, card) in lab.hosts().iter().zip(&stop(cards)?) {
        let card = too_big(card);
        let heard = host.netns().run("nft", &["list", "table", "inet", "heard"])?;
        for (client, owner) in &clients {
            assert!(
                card.contains_key(client),
                "the error about {client} did not even reach {}'s card",
                host.name()
            );
            assert_eq!(
                heard.contains(&as_number(*client)),
                *owner == host.name(),
                "{} and the error about {client} of {owner}",
                host.name()
            );
        }
    }
    Ok(())
}
