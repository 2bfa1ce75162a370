//! Devices and addresses, over rtnetlink.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use onemac_rules::MacAddr;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, LinkMacVlan, LinkUnspec, MulticastGroup, new_connection, new_multicast_connection};
use tokio::sync::mpsc;

use super::{SHARED_DEVICE, host_prefix};
use crate::failure::{Failure, Result};

/// Lifetime without an end (RFC 4861, 4.6.2).
const FOREVER: u32 = u32::MAX;

/// The network devices of this host.
pub struct Links {
    handle: Handle,
}

/// The device on which clients arrive.
pub struct ServiceDevice {
    /// Its index.
    pub index: u32,
    /// Its own address.
    pub mac: MacAddr,
    /// Whether it has a carrier.
    pub carrier: bool,
}

/// Follows the carrier of the device with this index: `false` also when the device is down or gone.
pub fn watch_carrier(index: u32) -> Result<mpsc::UnboundedReceiver<bool>> {
    let cannot = |e| Failure::failed(format_args!("can not watch the devices: {e}"));
    let (connection, _, mut messages) = new_multicast_connection(&[MulticastGroup::Link]).map_err(cannot)?;
    tokio::spawn(connection);
    let (news, carrier) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let up = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                    if link.header.index == index =>
                {
                    has_carrier(&link)
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                    if link.header.index == index =>
                {
                    false
                }
                _ => continue,
            };
            if news.send(up).is_err() {
                return;
            }
        }
    });
    Ok(carrier)
}

impl Links {
    /// Opens the netlink socket.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = new_connection()
            .map_err(|e| Failure::failed(format_args!("can not open a netlink socket: {e}")))?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// Looks up the service device and makes sure that it can carry the shared one.
    pub async fn service_device(&self, name: &str) -> Result<ServiceDevice> {
        let Some(link) = self.find(name).await? else {
            let all: Vec<_> = self.all().await?.iter().filter_map(name_of).filter(|n| n != "lo").collect();
            return Err(Failure::failed(format_args!(
                "there is no device {name} on this host; `interface` in the definition must name the device \
                 on which clients arrive, and the devices here are {}",
                all.join(", ")
            )));
        };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(Failure::failed(format_args!("the device {name} is down: ip link set {name} up")));
        }
        let mac = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => None,
        });
        let mac = mac.filter(|m| *m != [0; 6] && !link.header.flags.contains(LinkFlags::Loopback));
        let mac = mac.ok_or_else(|| {
            Failure::failed(format_args!("the device {name} has no MAC address: it can not share one"))
        })?;
        let carrier = has_carrier(&link);
        Ok(ServiceDevice { index: link.header.index, mac: MacAddr(mac), carrier })
    }

    /// Refuses shared addresses that another device of this host holds.
    pub async fn refuse_foreign_holders(&self, vips: &[IpAddr]) -> Result<()> {
        let ours = self.find(SHARED_DEVICE).await?.map(|l| l.header.index);
        for message in self.addresses(None).await? {
            let Some(address) = address_of(&message).filter(|a| vips.contains(a)) else { continue };
            if Some(message.header.index) != ours {
                let links = self.all().await?;
                let device = links.iter().find(|l| l.header.index == message.header.index).and_then(name_of);
                let device = device.unwrap_or_else(|| format!("number {}", message.header.index));
                let prefix = message.header.prefix_len;
                return Err(Failure::failed(format_args!(
                    "the shared address {address} is already on this host's device {device}, which would \
                     answer for it alone: ip addr del {address}/{prefix} dev {device}"
                )));
            }
        }
        Ok(())
    }

    /// Whether there is a device of this name.
    pub async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.find(name).await?.is_some())
    }

    /// Makes the shared device on top of the service device, or takes over the one that stands. It is down
    /// when new. Returns its index.
    pub async fn shared_device(&self, name: &str, on: (&str, u32), mac: [u8; 6]) -> Result<u32> {
        let (service, lower) = on;
        if let Some(link) = self.find(name).await? {
            if is_macvlan(&link) && carries(&link, lower, mac) {
                tracing::info!("taking over {name}, which an earlier run left");
                return Ok(link.header.index);
            }
            self.remove(name).await?;
        }
        let message =
            LinkMacVlan::new(name, lower, MacVlanMode::Bridge).address(mac.to_vec()).alias("onemac").build();
        self.handle.link().add(message).execute().await.map_err(|e| {
            let advice = format!(
                "{service} must not be a port of a bridge or a bond (then name that one as `interface`), and \
                 the kernel needs macvlan (modprobe macvlan)"
            );
            netlink_failure(&format!("make the macvlan device {name} on {service}"), &e, &advice)
        })?;
        let link = self.find(name).await?;
        let link = link.ok_or_else(|| Failure::failed(format_args!("{name} was made and is not there")))?;
        Ok(link.header.index)
    }

    /// The index of a device.
    pub async fn index(&self, name: &str) -> Result<u32> {
        let link = self.find(name).await?;
        link.map(|l| l.header.index).ok_or_else(|| Failure::failed(format_args!("the device {name} is gone")))
    }

    /// Brings a device up.
    pub async fn set_up(&self, name: &str, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(|e| {
            let advice = "does another device on the same wire have the cluster MAC?";
            netlink_failure(&format!("bring {name} up"), &e, advice)
        })
    }

    /// Makes the shared addresses, and only they, the addresses of the device.
    pub async fn set_addresses(&self, name: &str, index: u32, vips: &[IpAddr]) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = vips.iter().copied().collect();
        let mut there = BTreeSet::new();
        for message in self.addresses(Some(index)).await? {
            let Some(address) = address_of(&message) else { continue };
            if wanted.contains(&address) {
                there.insert(address);
                continue;
            }
            self.handle.address().del(message).execute().await.map_err(|e| {
                netlink_failure(&format!("remove {address} from {name}"), &e, "remove it with ip addr del")
            })?;
        }
        for address in wanted.difference(&there) {
            self.add_address(name, index, *address).await?;
        }
        Ok(())
    }

    /// Adds one address: without a broadcast address, without duplicate address detection (all hosts have
    /// the same ones), and deprecated where IPv6 allows it, so that the host never chooses it as a source.
    async fn add_address(&self, name: &str, index: u32, address: IpAddr) -> Result<()> {
        let mut request = self.handle.address().add(index, address, host_prefix(&address));
        let message = request.message_mut();
        message.attributes.retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, FOREVER);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        request.execute().await.map_err(|e| {
            let advice = "is IPv6 disabled (net.ipv6.conf.all.disable_ipv6)?";
            let advice = if address.is_ipv6() { advice } else { "see ip addr" };
            netlink_failure(&format!("add {address} to {name}"), &e, advice)
        })
    }

    /// Refuses a device of this name that is not one of ours.
    pub async fn refuse_foreign_device(&self, name: &str) -> Result<()> {
        match self.find(name).await? {
            Some(link) if !is_macvlan(&link) => Err(Failure::failed(format_args!(
                "there is a device {name} that onemac did not make (it is no macvlan): rename or remove it"
            ))),
            _ => Ok(()),
        }
    }

    /// Removes the shared device, if it is there and is one of ours.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        let Some(link) = self.find(name).await?.filter(is_macvlan) else { return Ok(false) };
        self.handle
            .link()
            .del(link.header.index)
            .execute()
            .await
            .map_err(|e| netlink_failure(&format!("remove {name}"), &e, "remove it with ip link del"))?;
        Ok(true)
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>> {
        // By a walk over all: asking the kernel by name makes an error of the ordinary absence.
        Ok(self.all().await?.into_iter().find(|l| name_of(l).as_deref() == Some(name)))
    }

    async fn all(&self) -> Result<Vec<LinkMessage>> {
        let links = self.handle.link().get().execute().try_collect().await;
        links.map_err(|e| netlink_failure("list the devices", &e, "see ip link"))
    }

    async fn addresses(&self, index: Option<u32>) -> Result<Vec<AddressMessage>> {
        let mut request = self.handle.address().get();
        if let Some(index) = index {
            request = request.set_link_index_filter(index);
        }
        let addresses = request.execute().try_collect().await;
        addresses.map_err(|e| netlink_failure("list the addresses", &e, "see ip addr"))
    }
}

fn has_carrier(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let known = matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6);
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let peer = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    local.or(peer).filter(|_| known)
}

fn is_macvlan(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| match a {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::MacVlan)))
        }
        _ => false,
    })
}

fn carries(link: &LinkMessage, lower: u32, mac: [u8; 6]) -> bool {
    let on_lower = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Link(i) if *i == lower));
    let has_mac = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Address(m) if m[..] == mac));
    on_lower && has_mac
}

fn netlink_failure(what: &str, error: &rtnetlink::Error, advice: &str) -> Failure {
    let errno = match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    };
    let advice = match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::EPERM | nix::errno::Errno::EACCES => {
            "this needs root, or CAP_NET_ADMIN and CAP_NET_RAW"
        }
        _ => advice,
    };
    Failure::failed(format_args!("can not {what}: {error}; {advice}"))
}
