//! The network of a lab: who has which address, and the commands that make it so.
//!
//! ```text
//!   h1 … hN   neighbour      LAN 192.0.2.0/24, 2001:db8:0:1::/64: the switch, a Linux bridge
//!    │    │       │
//!   ─┴────┴───┬───┴─
//!           router
//!             │              203.0.113.0/24, 2001:db8:0:2::/64
//!         (far router)       only with a narrow link: 198.51.100.0/24, 2001:db8:0:3::/64 behind it
//!             │
//!          clients           own 198.18.0.0/22 and 2001:db8:100::/64 whole
//! ```
//!
//! Where the plan says so, a second bridge joins the hosts' second cards, 10.77.0.0/24, for gossip alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Fixed addresses of every lab. Labs do not see each other, so all use the same.
pub mod addr {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The shared IPv4 address.
    pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
    /// The shared IPv6 address.
    pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x53);
    /// What `mac: auto` makes of [`VIP4`] in link mode unicast.
    pub const CLUSTER_MAC: &str = "02:bf:c0:00:02:35";
    /// The router on the LAN.
    pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The router on the LAN.
    pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
    /// The machine on the LAN that is no cluster member.
    pub const NEIGHBOUR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
    /// The machine on the LAN that is no cluster member.
    pub const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x200);
    /// Its MAC address.
    pub const NEIGHBOUR_MAC: &str = "02:00:00:00:00:c8";
    /// The router's MAC address on the LAN.
    pub const ROUTER_MAC: &str = "02:00:00:00:00:01";
}

/// The address of host `number` (1, 2, …) on the LAN.
pub(crate) fn host_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + number)
}

/// The address of host `number` (1, 2, …) on the LAN: 2001:db8:0:1::11 is host 1.
pub(crate) fn host_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x10 + u16::from(number))
}

/// The address of host `number` (1, 2, …) on the network for gossip alone.
pub(crate) fn gossip_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 10 + number)
}

/// The MAC address of a host's own card.
pub(crate) fn host_mac(number: u8) -> String {
    format!("02:00:00:00:01:{number:02x}")
}

/// The first `count` IPv4 client addresses, of 1,022.
#[must_use]
pub fn client_v4(count: u16) -> Vec<IpAddr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    (0..u32::from(count.min(1022))).map(|n| IpAddr::V4(Ipv4Addr::from(first + n))).collect()
}

/// The first `count` IPv6 client addresses.
#[must_use]
pub fn client_v6(count: u16) -> Vec<IpAddr> {
    (1..=count).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, n))).collect()
}

/// Further addresses of the neighbour machine in each family.
const NEIGHBOURS: u8 = 50;

/// IPv4 addresses on the LAN that belong to the neighbour machine: 192.0.2.201 and up, at most 50.
#[must_use]
pub fn neighbour_v4(count: u8) -> Vec<Ipv4Addr> {
    (1..=count.min(NEIGHBOURS)).map(|n| Ipv4Addr::new(192, 0, 2, 200 + n)).collect()
}

/// IPv6 addresses on the LAN that belong to the neighbour machine, at most 50.
#[must_use]
pub fn neighbour_v6(count: u8) -> Vec<Ipv6Addr> {
    (1..=count.min(NEIGHBOURS)).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 1, u16::from(n))).collect()
}

/// Sysctls of the machines that are not cluster hosts: ready at once, silent otherwise, and no limit on
/// the ICMP errors that tests wait for.
const BYSTANDER: &[(&str, &str)] = &[
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

const FORWARDING: &[(&str, &str)] = &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

/// A host as Debian 12 leaves it: loose reverse-path filter, no forwarding. But its card needs no second
/// of duplicate address detection after boot, in which it could not ask for its router.
const HOST: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.rp_filter", "2"),
    ("net.ipv4.conf.default.rp_filter", "2"),
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
];

/// What devices that come later start with, as on any machine.
const HOST_AFTERWARDS: &[(&str, &str)] = &[("net.ipv6.conf.default.accept_dad", "1")];

/// The machines that are not cluster hosts.
#[derive(Debug)]
pub(crate) struct Bystanders {
    pub switch: Netns,
    pub router: Netns,
    pub far_router: Option<Netns>,
    pub clients: Netns,
    pub neighbour: Netns,
}

/// Makes the switch, the routers, the clients and the neighbour.
pub(crate) fn build(prefix: &str, narrow_mtu: Option<u16>) -> Result<Bystanders> {
    let switch = Netns::create(&format!("{prefix}switch"))?;
    // The bridge itself takes no part in IP, so that nothing but the machines' frames is on the wire.
    switch.sysctl(&[("net.ipv6.conf.default.disable_ipv6", "1")])?;
    switch.ip("link add br0 type bridge\nlink set br0 up\nlink add br1 type bridge\nlink set br1 up")?;
    bridge_alone(&switch)?;

    let router = bystander(prefix, "router")?;
    router.sysctl(FORWARDING)?;
    plug(&switch, "router", &router, addr::ROUTER_MAC, None)?;
    router.ip("addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8:0:1::1/64 dev eth0 nodad")?;

    let neighbour = bystander(prefix, "lan")?;
    plug(&switch, "lan", &neighbour, addr::NEIGHBOUR_MAC, None)?;
    neighbour.ip("addr add 192.0.2.200/24 dev eth0\naddr add 2001:db8:0:1::200/64 dev eth0 nodad\n\
                  route add default via 192.0.2.1\nroute add default via 2001:db8:0:1::1")?;
    let more =
        neighbour_v4(NEIGHBOURS).into_iter().map(|address| format!("addr add {address}/24 dev eth0\n"));
    let more6 =
        neighbour_v6(NEIGHBOURS).into_iter().map(|address| format!("addr add {address}/64 dev eth0 nodad\n"));
    neighbour.ip(&more.chain(more6).collect::<String>())?;

    let clients = bystander(prefix, "client")?;
    clients.sysctl(&[("net.ipv6.ip_nonlocal_bind", "1")])?;
    // Every address of these ranges is the client machine's own, without being configured one by one.
    clients.ip("route add local 198.18.0.0/22 dev lo\nroute add local 2001:db8:100::/64 dev lo")?;

    let far_router = match narrow_mtu {
        None => {
            join(&router, &clients, None, "203.0.113", "2001:db8:0:2")?;
            None
        }
        Some(mtu) => {
            let far = bystander(prefix, "far")?;
            far.sysctl(FORWARDING)?;
            join(&router, &far, None, "203.0.113", "2001:db8:0:2")?;
            join(&far, &clients, Some(mtu), "198.51.100", "2001:db8:0:3")?;
            router.ip(
                "route add 198.51.100.0/24 via 203.0.113.2\nroute add 2001:db8:0:3::/64 via 2001:db8:0:2::2",
            )?;
            Some(far)
        }
    };
    Ok(Bystanders { switch, router, far_router, clients, neighbour })
}

/// Keeps what the bridge forwards from IP's firewall hooks, through which the module br_netfilter, where it is
/// loaded, sends it: a switch has none, and they are a quarter of what a flooded packet costs.
fn bridge_alone(switch: &Netns) -> Result<()> {
    switch.within(|| {
        for family in ["arp", "ip", "ip6"] {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            if fs::exists(&path)? {
                fs::write(&path, "0").with_context(|| format!("could not write 0 to {path}"))?;
            }
        }
        Ok(())
    })
}

fn bystander(prefix: &str, role: &str) -> Result<Netns> {
    let netns = Netns::create(&format!("{prefix}{role}"))?;
    netns.sysctl(BYSTANDER)?;
    Ok(netns)
}

/// Makes host `number` and plugs it in; used at the start and at every return from a power cut.
pub(crate) fn build_host(switch: &Netns, name: &str, number: u8, gossip_network: bool) -> Result<Netns> {
    let netns = Netns::create(name)?;
    netns.sysctl(HOST)?;
    plug_host(switch, &netns, number, None)?;
    if gossip_network {
        let port = gossip_port(number);
        switch.ip(&format!(
            "link add {port} type veth peer name eth1 netns {name}\nlink set {port} master br1 up"
        ))?;
        netns.ip(&format!("link set eth1 up\naddr add {}/24 dev eth1", gossip_v4(number)))?;
    }
    netns.sysctl(HOST_AFTERWARDS)?;
    Ok(netns)
}

/// Puts the card of host `number` in, with the host's addresses and routes.
pub(crate) fn plug_host(switch: &Netns, netns: &Netns, number: u8, index: Option<u32>) -> Result<()> {
    plug(switch, &port(number), netns, &host_mac(number), index)?;
    let (v4, v6) = (host_v4(number), host_v6(number));
    netns.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"))?;
    route_host(netns, "eth0")?;
    make_room(netns, "eth0")
}

/// A host's routes, which go when its card goes down.
pub(crate) fn route_host(netns: &Netns, device: &str) -> Result<()> {
    let (v4, v6) = (addr::ROUTER4, addr::ROUTER6);
    netns
        .ip(&format!(
            "route replace default via {v4} dev {device}\nroute replace default via {v6} dev {device}"
        ))
        .map(drop)
}

/// The switch's port for host `number`.
pub(crate) fn port(number: u8) -> String {
    format!("h{number}")
}

/// The port of host `number` on the switch of the network for gossip alone.
pub(crate) fn gossip_port(number: u8) -> String {
    format!("g{number}")
}

fn plug(switch: &Netns, port: &str, machine: &Netns, mac: &str, index: Option<u32>) -> Result<()> {
    // The kernel takes the index of one end only beside one of the other, which nothing else has.
    let ends = index.map(|index| (format!("index {}", 10_000 + index), format!("index {index}")));
    let (near, far) = ends.unwrap_or_default();
    switch.ip(&format!(
        "link add {port} {near} type veth peer name eth0 address {mac} {far} netns {machine}\n\
         link set {port} master br0 up",
        machine = machine.name()
    ))?;
    machine.ip("link set eth0 up").map(drop)
}

/// Room for hundreds of packets while the next hop is being resolved, where the stock limit holds some two
/// hundred small ones. Not for the router's card on the LAN: what it holds back there it floods at once, and
/// all copies must pass the 1,000 packets of one processor's backlog (net.core.netdev_max_backlog), which is
/// the machine's and not the lab's.
fn make_room(netns: &Netns, device: &str) -> Result<()> {
    ["ipv4", "ipv6"].iter().try_for_each(|family| {
        netns.sysctl(&[(&format!("net.{family}.neigh.{device}.unres_qlen_bytes"), "4194304")])
    })
}

/// Links `near`'s eth1 to `far`'s eth0 by the addresses .1 and .2, with the routes: the near end sends
/// the client ranges that way, the far end everything else.
fn join(near: &Netns, far: &Netns, mtu: Option<u16>, v4: &str, v6: &str) -> Result<()> {
    let mtu = mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    near.ip(&format!(
        "link add eth1 type veth peer name eth0 netns {far}\nlink set eth1 up{mtu}\n\
         addr add {v4}.1/24 dev eth1\naddr add {v6}::1/64 dev eth1 nodad\n\
         route add 198.18.0.0/22 via {v4}.2",
        far = far.name()
    ))?;
    make_room(near, "eth1")?;
    make_room(far, "eth0")?;
    // A narrow link stands for one further away than the client's own: the client does not know of it, so
    // it announces the segment sizes of Ethernet.
    let [size4, size6] = if mtu.is_empty() { ["", ""] } else { [" advmss 1460", " advmss 1440"] };
    far.ip(&format!(
        "link set eth0 up{mtu}\naddr add {v4}.2/24 dev eth0\naddr add {v6}::2/64 dev eth0 nodad\n\
         route add default via {v4}.1{size4}\nroute add default via {v6}::1{size6}"
    ))?;
    // After the far end is up: until then the kernel refuses a route through this one.
    near.ip(&format!("route add 2001:db8:100::/64 via {v6}::2")).map(drop)
}
