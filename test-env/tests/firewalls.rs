//! Firewalls of the host: with the rules that they load, and the ports open that docs/firewalls.md names, every client
//! is answered once, also after a move of slices.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::{
    Host, Lab, Netns, Plan, Server, addr, client_v4, fetch_tcp, neighbour_v4, neighbour_v6,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Closed but for the service, on the service device; with the reverse path checked as strictly as nft can.
const NFT: &str = "table inet firewall {
    chain reverse_path {
        type filter hook prerouting priority raw; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        fib saddr . mark . iif oif missing counter drop
    }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iif lo accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
        iifname \"eth0\" meta l4proto { icmp, ipv6-icmp } accept
        iifname \"eth0\" udp dport 53 accept
        iifname \"eth0\" tcp dport 53 accept
        iifname \"eth0\" ip saddr 192.0.2.0/24 udp dport 7946 accept
    }
}";

/// As firewalld 1.3 makes it (`firewall-cmd --zone=public --add-service=dns --add-port=7946/udp`), with eth0 in the zone
/// public and the default zone drop, which is where every other device is.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_ZONES {
        iifname \"eth0\" goto filter_IN_public
        goto filter_IN_drop
    }
    chain filter_IN_public {
        tcp dport 53 accept
        udp dport 53 accept
        udp dport 7946 accept
        meta l4proto { icmp, ipv6-icmp } accept
        reject with icmpx admin-prohibited
    }
    chain filter_IN_drop {
        icmpv6 type nd-neighbor-solicit accept
        drop
    }
}";

/// As ufw 0.36 makes it for `ufw allow in on eth0 to any port 53` and one for gossip.
const UFW4: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type destination-unreachable -j ACCEPT
-A ufw-before-input -p icmp --icmp-type time-exceeded -j ACCEPT
-A ufw-before-input -p icmp --icmp-type parameter-problem -j ACCEPT
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -j DROP
-A ufw-user-input -i eth0 -p tcp --dport 53 -j ACCEPT
-A ufw-user-input -i eth0 -p udp --dport 53 -j ACCEPT
-A ufw-user-input -i eth0 -p udp --dport 7946 -j ACCEPT
COMMIT
";

const UFW6: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m rt --rt-type 0 -j DROP
-A INPUT -p icmpv6 --icmpv6-type router-advertisement -m hl --hl-eq 255 -j ACCEPT
-A INPUT -p icmpv6 --icmpv6-type neighbor-solicitation -m hl --hl-eq 255 -j ACCEPT
-A INPUT -p icmpv6 --icmpv6-type neighbor-advertisement -m hl --hl-eq 255 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmpv6 --icmpv6-type echo-request -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -i eth0 -p tcp --dport 53 -j ACCEPT
-A INPUT -i eth0 -p udp --dport 53 -j ACCEPT
COMMIT
";

/// What the raw table of many a hardened host begins with.
const RPFILTER: &str = "*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -m rpfilter --invert -j DROP
COMMIT
";

fn restore(host: &Host, program: &str, text: &str) -> Result<()> {
    let file = host.dir().join(program);
    std::fs::write(&file, text)?;
    host.netns().run(program, &["--noflush", &file.display().to_string()]).map(drop)
}

fn ensure_all_served(lab: &Lab, when: &str, hosts: usize) -> Result<()> {
    for machine in [lab.router(), lab.neighbour()] {
        machine.ip("neigh flush all")?;
    }
    let far = Prober::new(lab.clients(), 40, 40);
    let near: Vec<IpAddr> = neighbour_v4(20)
        .into_iter()
        .map(IpAddr::from)
        .chain(neighbour_v6(20).into_iter().map(IpAddr::from))
        .collect();
    let near = Prober::at(lab.neighbour(), near);
    for (prober, who) in [(&far, "clients"), (&near, "machines on the LAN")] {
        let udp = prober.udp()?;
        udp.ensure_once(&format!("{when}: {who} by UDP"))?;
        ensure!(udp.shares().len() == hosts, "{when}: {:?}", udp.shares());
        prober.tcp()?.ensure_once(&format!("{when}: {who} by TCP"))?;
    }
    Ok(())
}

/// All hosts have the firewall; every client is answered once, before and after a move.
fn ensure_works_behind(furnish: impl Fn(&Host) -> Result<()>) -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    lab.hosts().iter().try_for_each(furnish)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    ensure_all_served(&lab, "at the start", 3)?;
    let drain = lab.host(1).onemac(&["drain"])?;
    ensure!(drain.code == 0, "{drain:?}");
    lab.wait_settled()?;
    ensure_all_served(&lab, "after the move", 2)
}

#[test]
fn behind_a_closed_nft_firewall_with_a_strict_reverse_path() -> Result<()> {
    ensure_works_behind(|host| host.netns().run("nft", &[NFT]).map(drop))
}

#[test]
fn behind_firewalld() -> Result<()> {
    ensure_works_behind(|host| host.netns().run("nft", &[FIREWALLD]).map(drop))
}

#[test]
fn behind_ufw_and_the_rpfilter_match() -> Result<()> {
    ensure_works_behind(|host| {
        restore(host, "iptables-restore", UFW4)?;
        restore(host, "ip6tables-restore", UFW6)?;
        restore(host, "iptables-restore", RPFILTER)
    })
}

#[test]
fn behind_the_kernels_strict_reverse_path_filter() -> Result<()> {
    ensure_works_behind(|host| {
        host.netns().sysctl(&[
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.conf.default.rp_filter", "1"),
            ("net.ipv4.conf.eth0.rp_filter", "1"),
        ])
    })
}

const PORT: u16 = 9000;

/// What `docker run -p 9000:9000` loads, and the container.
fn publish(lab: &Lab, host: &Host) -> Result<Server> {
    let netns = Netns::create(&format!("{}docker-{}", lab.prefix(), host.name()))?;
    host.netns().ip(&format!(
        "link add docker0 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0\n\
         link add cable type veth peer name eth0 netns {}\nlink set cable master docker0 up",
        netns.name()
    ))?;
    netns.ip(
        "link set lo up\nlink set eth0 up\naddr add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1",
    )?;
    host.netns().sysctl(&[("net.ipv4.ip_forward", "1")])?;
    restore(
        host,
        "iptables-restore",
        "*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:9000
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 9000 -j ACCEPT
COMMIT
*raw
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
",
    )?;
    Server::start(&netns, &host.name(), &["172.17.0.2".parse()?], PORT)
}

#[test]
fn a_port_that_docker_publishes_is_served_on_the_shared_address() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let _servers = lab.hosts().iter().map(|host| publish(&lab, host)).collect::<Result<Vec<_>>>()?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let everybody = || -> Result<std::collections::BTreeSet<String>> {
        let vip = SocketAddr::new(addr::VIP4.into(), PORT);
        client_v4(24)
            .into_iter()
            .map(|client| {
                fetch_tcp(lab.clients(), client, vip, 20_000, PATIENCE).with_context(|| client.to_string())
            })
            .collect()
    };
    let who = everybody()?;
    ensure!(who.len() == 3, "served by {who:?}");
    let drain = lab.host(1).onemac(&["drain"])?;
    ensure!(drain.code == 0, "{drain:?}");
    lab.wait_settled()?;
    let who = everybody()?;
    ensure!(who.len() == 2 && !who.contains("h1"), "after the move served by {who:?}");
    // By its own address each host is as ever.
    let own = SocketAddr::new(lab.host(1).v4().into(), PORT);
    let who = fetch_tcp(lab.clients(), client_v4(1)[0], own, 20_000, PATIENCE)?;
    ensure!(who == "h1", "{who}");
    Ok(())
}
