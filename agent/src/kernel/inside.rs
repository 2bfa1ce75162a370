//! Devices of this host's own containers, machines and VPN peers: whoever is behind them reaches no other host of the
//! cluster, and may use the shared addresses without being asked for a slice.
//!
//! The rules are closed to every device but the service device; this opens them to those that are certainly of that
//! kind, and closes them again. What is in doubt stays closed: a packet by a second network card would be answered
//! without a slice and without a lease.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection};
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::sync::watch;

use onemac_rules::INSIDE_MAX;

use super::SHARED_DEVICE;
use super::netfilter::Netfilter;
use crate::failure::{Failure, Result};
use crate::warnings::Warnings;

/// After news, for more of the same to come.
const GATHER: Duration = Duration::from_millis(20);
/// Between two looks, and how many times as long as the last one took: some hosts have a million routes.
const REST: Duration = Duration::from_millis(100);
const REST_FACTOR: u32 = 20;

/// What a device is to have nothing to do with.
#[derive(Clone, Debug)]
pub struct Outside {
    /// The service device, by index and name.
    pub service: u32,
    #[allow(missing_docs)]
    pub name: String,
    /// Addresses of the cluster: shared ones, and those at which its hosts are.
    pub addresses: Vec<IpAddr>,
}

/// A device, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    index: u32,
    name: String,
    kind: Option<InfoKind>,
    /// The bridge, bond or VRF that it is a part of.
    master: Option<u32>,
}

/// All that is judged by.
#[derive(Clone, Debug, Default)]
struct Facts {
    devices: Vec<Device>,
    /// What is reached without a gateway, by device.
    on_link: Vec<(u32, IpNet)>,
    /// Devices by which anything is reached through a gateway, or everything.
    ways_out: BTreeSet<u32>,
    /// Devices of the default route of IPv4.
    default4: BTreeSet<u32>,
}

/// The devices that are inside, by index.
pub async fn devices(outside: &Outside) -> Result<BTreeSet<u32>> {
    let (connection, handle, _) = new_connection().map_err(|e| cannot("list the devices", e))?;
    tokio::spawn(connection);
    Ok(judge(&look(&handle).await?, outside))
}

/// Keeps the rules to the devices that are inside, from now on.
/// Tells what of the routes is in the clients' way.
pub fn follow(
    mut outside: watch::Receiver<Outside>,
    now: BTreeSet<u32>,
    netfilter: &Netfilter,
    warnings: Warnings,
) -> Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut news) =
        new_multicast_connection(&groups).map_err(|e| cannot("watch the devices", e))?;
    tokio::spawn(connection);
    let tell = netfilter.insider();
    tokio::spawn(async move {
        // What has changed before this began to listen counts as news.
        let mut known = now;
        loop {
            meanwhile(&mut news, tokio::time::sleep(GATHER)).await;
            let began = Instant::now();
            let apart_from = outside.borrow_and_update().clone();
            // Looking brings no news itself, and what comes meanwhile is looked at next.
            let (looked, more) = meanwhile(&mut news, look(&handle)).await;
            let found = match looked {
                Ok(facts) => {
                    warn_of_strictness(&facts, &apart_from, &warnings);
                    judge(&facts, &apart_from)
                }
                Err(error) => {
                    tracing::warn!("{error}; no device counts as one of this host's own containers");
                    BTreeSet::new()
                }
            };
            match found.len() > INSIDE_MAX {
                true => warnings.raise(
                    "inside",
                    format!(
                        "{} devices lead to this host's own containers; the rules have room for {INSIDE_MAX}",
                        found.len()
                    ),
                    "containers behind the rest cannot use the shared addresses: put them behind one bridge",
                ),
                false => drop(warnings.clear("inside")),
            }
            if found != known {
                tracing::debug!("devices of this host's own containers: {found:?}");
                if !tell(found.clone()) {
                    return;
                }
                known = found;
            }
            let rest = tokio::time::sleep(REST.max(began.elapsed() * REST_FACTOR));
            let ((), still_more) = meanwhile(&mut news, rest).await;
            if more || still_more {
                continue;
            }
            let goes_on = tokio::select! {
                more = news.next() => more.is_some(),
                changed = outside.changed() => changed.is_ok(),
            };
            if !goes_on {
                return;
            }
        }
    });
    Ok(())
}

/// Waits, and takes out of the queue what comes meanwhile, which would fill the memory; whether there was any.
async fn meanwhile<T>(news: &mut (impl Stream + Unpin), wait: impl Future<Output = T>) -> (T, bool) {
    let mut wait = pin!(wait);
    let (mut any, mut goes_on) = (false, true);
    loop {
        tokio::select! {
            done = &mut wait => return (done, any),
            more = news.next(), if goes_on => {
                goes_on = more.is_some();
                any |= goes_on;
            }
        }
    }
}

fn judge(facts: &Facts, outside: &Outside) -> BTreeSet<u32> {
    let of = |index: u32| facts.on_link.iter().filter(move |(i, _)| *i == index).map(|(_, net)| net);
    let service: Vec<&IpNet> = of(outside.service).collect();
    let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    let is_apart = |net: &IpNet| {
        !service.iter().any(|s| overlap(s, net)) && !outside.addresses.iter().any(|a| net.contains(a))
    };
    let leads_nowhere_else = |device: &Device| match device.kind {
        Some(InfoKind::Veth | InfoKind::Tun | InfoKind::Wireguard) => true,
        // A port that is a card, or a tunnel, leads to others.
        Some(InfoKind::Bridge) => facts
            .devices
            .iter()
            .filter(|port| port.master == Some(device.index))
            .all(|port| matches!(port.kind, Some(InfoKind::Veth | InfoKind::Tun))),
        _ => false,
    };
    facts
        .devices
        .iter()
        .filter(|d| d.index != outside.service && d.name != SHARED_DEVICE && d.master.is_none())
        .filter(|d| leads_nowhere_else(d) && !facts.ways_out.contains(&d.index))
        .filter(|d| of(d.index).next().is_some() && of(d.index).all(is_apart))
        .map(|d| d.index)
        .collect()
}

/// The strict reverse-path check drops what comes by the service device and would be answered by another.
fn warn_of_strictness(facts: &Facts, outside: &Outside, warnings: &Warnings) {
    const KEY: &str = "rp_filter";
    let name = &outside.name;
    let value = |device: &str| super::sysctl::read(&format!("net/ipv4/conf/{device}/rp_filter")).unwrap_or(0);
    let strict = value("all").max(value(name)) == 1;
    let other = facts.default4.iter().find_map(|i| facts.devices.iter().find(|d| d.index == *i));
    match other.filter(|_| strict && !facts.default4.contains(&outside.service)) {
        Some(other) => warnings.raise(
            KEY,
            format!(
                "{name} checks the reverse path strictly (rp_filter is 1) and the default route leaves by {}: \
                 this host drops requests of IPv4 clients that it reaches by {} only",
                other.name, other.name
            ),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, or route the clients by {name}"),
        ),
        None => drop(warnings.clear(KEY)),
    }
}

async fn look(handle: &Handle) -> Result<Facts> {
    let mut facts = Facts::default();
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(|e| cannot("list the devices", e))?;
    facts.devices = links.iter().map(device).collect();
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(|e| cannot("list the addresses", e))?;
    facts.on_link.extend(addresses.iter().filter_map(subnet));
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let mut routes = Box::pin(handle.route().get(family).execute());
        while let Some(route) = routes.try_next().await.map_err(|e| cannot("list the routes", e))? {
            note(&route, &mut facts);
        }
    }
    // Every device has these, and nobody is reached by them alone.
    facts.on_link.retain(|(_, net)| !matches!(net, IpNet::V6(v6) if v6.addr().is_unicast_link_local()));
    Ok(facts)
}

fn device(link: &LinkMessage) -> Device {
    let mut device = Device { index: link.header.index, name: String::new(), kind: None, master: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Controller(master) => device.master = Some(*master),
            LinkAttribute::LinkInfo(infos) => {
                device.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    device
}

/// The subnet of an address; with a peer, the peer's.
fn subnet(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?.trunc()))
}

fn note(route: &RouteMessage, facts: &mut Facts) {
    if route.header.kind != RouteType::Unicast {
        return;
    }
    let mut destination = None;
    let (mut oif, mut through_gateway) = (Vec::new(), route.header.destination_prefix_length == 0);
    let is_gateway = |a: &RouteAttribute| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(a)) => destination = Some(IpAddr::from(*a)),
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => destination = Some(IpAddr::from(*a)),
            RouteAttribute::Oif(index) => oif.push(*index),
            RouteAttribute::MultiPath(hops) => {
                oif.extend(hops.iter().map(|hop| hop.interface_index));
                through_gateway |= hops.iter().any(|hop| hop.attributes.iter().any(is_gateway));
            }
            other => through_gateway |= is_gateway(other),
        }
    }
    if route.header.destination_prefix_length == 0 && route.header.address_family == AddressFamily::Inet {
        facts.default4.extend(&oif);
    }
    if through_gateway {
        facts.ways_out.extend(oif);
    } else if let Some(net) =
        destination.and_then(|a| IpNet::new(a, route.header.destination_prefix_length).ok())
    {
        facts.on_link.extend(oif.into_iter().map(|index| (index, net)));
    }
}

fn cannot(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::failed(format_args!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const SERVICE: u32 = 2;
    const OTHER: u32 = 7;

    fn facts(kind: Option<InfoKind>, subnets: &[&str]) -> Facts {
        let device = |index, name: &str, kind, master| Device { index, name: name.into(), kind, master };
        let on_link = |index| move |text: &&str| (index, text.parse::<IpNet>().unwrap());
        let mut facts = Facts {
            devices: vec![
                device(SERVICE, "eth0", None, None),
                device(3, SHARED_DEVICE, Some(InfoKind::MacVlan), None),
                device(OTHER, "other", kind, None),
            ],
            on_link: ["192.0.2.11/24", "2001:db8::11/64"].iter().map(on_link(SERVICE)).collect(),
            ways_out: [SERVICE].into(),
            default4: BTreeSet::new(),
        };
        facts.on_link.extend(subnets.iter().map(on_link(OTHER)));
        facts
    }

    fn is_inside(facts: &Facts) -> bool {
        let addresses =
            ["192.0.2.53", "2001:db8::53", "10.77.0.12"].iter().map(|a| a.parse().unwrap()).collect();
        let found = judge(facts, &Outside { service: SERVICE, name: "eth0".into(), addresses });
        assert!(found.is_subset(&[OTHER].into()), "{found:?}");
        !found.is_empty()
    }

    #[tokio::test]
    async fn what_comes_during_a_wait_does_not_pile_up() {
        let (tell, mut news) = tokio::sync::mpsc::unbounded_channel();
        let mut stream = pin!(futures_util::stream::poll_fn(|context| news.poll_recv(context)));
        let moment = || tokio::time::sleep(Duration::from_millis(20));
        assert_eq!(meanwhile(&mut stream, moment()).await, ((), false));
        (0..10_000).for_each(|n| tell.send(n).unwrap());
        assert_eq!(meanwhile(&mut stream, moment()).await, ((), true));
        // On a busy machine it takes more than a moment.
        while meanwhile(&mut stream, moment()).await.1 {}
        assert!(stream.next().now_or_never().is_none(), "all of it was taken");
        drop(tell);
        assert_eq!(meanwhile(&mut stream, moment()).await, ((), false), "nobody is left to tell anything");
    }

    #[test]
    fn devices_of_containers_are_inside_and_cards_are_not() {
        use InfoKind::*;
        for kind in [Veth, Tun, Wireguard, Bridge] {
            assert!(is_inside(&facts(Some(kind.clone()), &["172.17.0.1/16"])), "{kind}");
        }
        assert!(!is_inside(&facts(None, &["172.17.0.1/16"])), "a card");
        for kind in [Vlan, Bond, MacVlan, IpVlan, Vxlan, GreTun, Dummy, Other("new".into())] {
            assert!(!is_inside(&facts(Some(kind.clone()), &["172.17.0.1/16"])), "{kind}");
        }
    }

    #[test]
    fn a_device_that_leads_to_others_is_outside() {
        let veth = |subnets: &[&str]| facts(Some(InfoKind::Veth), subnets);
        assert!(!is_inside(&veth(&[])), "nobody is there");
        assert!(!is_inside(&veth(&["172.17.0.1/16", "192.0.2.128/25"])), "the subnet of the service device");
        assert!(!is_inside(&veth(&["192.0.0.0/16"])), "one around it");
        assert!(!is_inside(&veth(&["10.77.0.11/24"])), "another host of the cluster is there");
        let mut way_out = veth(&["172.17.0.1/16"]);
        way_out.ways_out.insert(OTHER);
        assert!(!is_inside(&way_out), "a gateway is there");
        let mut part = veth(&["172.17.0.1/16"]);
        part.devices[2].master = Some(9);
        assert!(!is_inside(&part), "a part of another device");
    }

    #[test]
    fn a_bridge_is_what_its_ports_are() {
        let mut bridge = facts(Some(InfoKind::Bridge), &["172.17.0.1/16"]);
        let port = |index, kind| Device { index, name: "port".into(), kind, master: Some(OTHER) };
        bridge.devices.push(port(8, Some(InfoKind::Veth)));
        assert!(is_inside(&bridge));
        bridge.devices.push(port(9, None));
        assert!(!is_inside(&bridge));
    }
}
