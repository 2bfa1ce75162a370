//! Devices and addresses, over rtnetlink.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::thread;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use onemac_rules::MacAddr;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, LinkMacVlan, LinkUnspec, MulticastGroup, new_connection, new_multicast_connection};

use tokio::runtime;

use super::{SHARED_DEVICE, host_prefix};
use crate::failure::{Failure, Result};

/// Lifetime without an end (RFC 4861, 4.6.2).
const FOREVER: u32 = u32::MAX;

/// The network devices of this host.
pub struct Links {
    handle: Handle,
    /// Where everything runs that asks about devices.
    pub runtime: runtime::Handle,
}

/// A network device as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index, which stays when it is renamed.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its own address; none where it has no such thing.
    pub mac: Option<MacAddr>,
    /// Whether somebody has brought it up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Whether it takes part in ARP.
    pub arp: bool,
    /// The largest packet.
    pub mtu: u32,
    /// The device that it stands on, if it is a macvlan.
    pub macvlan_on: Option<u32>,
}

impl Device {
    /// The device on which clients arrive: up, and with a MAC address.
    pub fn service(self) -> Result<ServiceDevice> {
        let Device { index, name, mac, carrier, mtu, .. } = self;
        if !self.up {
            return Err(Failure::failed(format_args!("the device {name} is down: ip link set {name} up")));
        }
        match mac {
            Some(mac) => Ok(ServiceDevice { index, name, mac, carrier, mtu }),
            None => Err(Failure::failed(format_args!(
                "the device {name} has no MAC address: it cannot share one"
            ))),
        }
    }
}

/// The device on which clients arrive.
#[derive(Clone, Debug)]
pub struct ServiceDevice {
    /// Its index.
    pub index: u32,
    /// Its name, which may change.
    pub name: String,
    /// Its own address.
    pub mac: MacAddr,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// The largest packet.
    pub mtu: u32,
}

/// What the kernel tells of devices and addresses. It may lose some of it: whoever listens must look by itself
/// now and then.
pub struct Events(BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>);

impl Events {
    /// Listens from now on.
    pub fn open() -> Result<Self> {
        let cannot = |e| Failure::failed(format_args!("cannot watch the devices: {e}"));
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, messages) = new_multicast_connection(&groups).map_err(cannot)?;
        tokio::spawn(connection);
        Ok(Events(messages.map(|(message, _)| message).boxed()))
    }

    /// Waits for news of devices with these indices, or that bear these names; `false` if there will be no more.
    pub async fn news(&mut self, of: &[u32], named: &[&str]) -> bool {
        loop {
            let Some(message) = self.0.next().await else { return false };
            if !concerns(&message, of, named) {
                continue;
            }
            // What has come meanwhile is seen by the same look.
            while let Some(Some(_)) = self.0.next().now_or_never() {}
            return true;
        }
    }
}

fn concerns(message: &NetlinkMessage<RouteNetlinkMessage>, of: &[u32], named: &[&str]) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => {
            of.contains(&link.header.index)
                || name_of(link).is_some_and(|name| named.contains(&name.as_str()))
        }
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
        ) => of.contains(&address.header.index),
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

/// A thread with a runtime of its own. The kernel works a request about devices off while it is sent, under a lock
/// that others may hold for seconds; the agent's loop must not wait for that.
fn device_thread() -> io::Result<runtime::Handle> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("devices".into()).spawn(move || {
        runtime.block_on(std::future::pending::<()>());
    })?;
    Ok(handle)
}

impl Links {
    /// Opens the netlink socket.
    pub fn open() -> Result<Self> {
        let cannot = |e| Failure::failed(format_args!("cannot open a netlink socket: {e}"));
        let runtime = device_thread().map_err(cannot)?;
        let _inside = runtime.enter();
        let (connection, handle, _) = new_connection().map_err(cannot)?;
        tokio::spawn(connection);
        Ok(Links { handle, runtime: runtime.clone() })
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
        device(&link).service()
    }

    /// The device with this index.
    pub async fn by_index(&self, index: u32) -> Result<Option<Device>> {
        let links: std::result::Result<Vec<LinkMessage>, _> =
            self.handle.link().get().match_index(index).execute().try_collect().await;
        match links {
            Ok(links) => Ok(links.first().map(device)),
            Err(error) if errno(&error) == Errno::ENODEV => Ok(None),
            Err(error) => Err(netlink_failure(&format!("look at device {index}"), &error, "see ip link")),
        }
    }

    /// The device of this name.
    pub async fn by_name(&self, name: &str) -> Result<Option<Device>> {
        Ok(self.find(name).await?.as_ref().map(device))
    }

    /// The device below a macvlan of this name.
    pub async fn below(&self, name: &str) -> Result<Option<Device>> {
        match self.by_name(name).await?.and_then(|device| device.macvlan_on) {
            Some(lower) => self.by_index(lower).await,
            None => Ok(None),
        }
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

    /// Makes the shared device on top of the service device, or takes the one that stands there. It is down
    /// when new. The second value says whether it is new.
    pub async fn shared_device(
        &self,
        name: &str,
        on: &ServiceDevice,
        mac: [u8; 6],
    ) -> Result<(Device, bool)> {
        if let Some(found) = self.by_name(name).await? {
            if found.macvlan_on == Some(on.index) && found.mac == Some(MacAddr(mac)) {
                return Ok((found, false));
            }
            self.remove(name).await?;
        }
        let message = LinkMacVlan::new(name, on.index, MacVlanMode::Bridge)
            .address(mac.to_vec())
            .alias("onemac")
            .build();
        let service = &on.name;
        self.handle.link().add(message).execute().await.map_err(|e| {
            let advice = format!(
                "{service} must not be a port of a bridge or a bond (then name that one as `interface`), and \
                 the kernel needs macvlan (modprobe macvlan)"
            );
            netlink_failure(&format!("make the macvlan device {name} on {service}"), &e, &advice)
        })?;
        let made = self.by_name(name).await?;
        let made = made.ok_or_else(|| Failure::failed(format_args!("{name} was made and is not there")))?;
        Ok((made, true))
    }

    /// Gives a device the same largest packet as the one below it, and lets it take part in ARP.
    pub async fn fit(&self, name: &str, index: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).arp(true).build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|e| netlink_failure(&format!("set the MTU of {name} to {mtu}"), &e, "see ip link"))
    }

    /// Makes the shared addresses, and only they, the addresses of the device; says what was not as it should be.
    pub async fn set_addresses(&self, name: &str, index: u32, vips: &[IpAddr]) -> Result<Vec<String>> {
        let wanted: BTreeSet<IpAddr> = vips.iter().copied().collect();
        let mut there = BTreeSet::new();
        let mut changed = Vec::new();
        for message in self.addresses(Some(index)).await? {
            let Some(address) = address_of(&message) else { continue };
            let whole = message.header.prefix_len == host_prefix(&address);
            if wanted.contains(&address) && whole && !is_refused(&message) {
                there.insert(address);
                continue;
            }
            match self.handle.address().del(message).execute().await {
                // Somebody else was faster.
                Err(error) if errno(&error) == Errno::EADDRNOTAVAIL => {}
                other => other.map_err(|e| {
                    netlink_failure(
                        &format!("remove {address} from {name}"),
                        &e,
                        "remove it with ip addr del",
                    )
                })?,
            }
            changed.push(format!("{address} was on {name} and should not be"));
        }
        for address in wanted.difference(&there) {
            self.add_address(name, index, *address).await?;
            changed.push(format!("{address} was missing on {name}"));
        }
        Ok(changed)
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
        let added = match request.execute().await {
            Err(error) if errno(&error) == Errno::EEXIST => Ok(()),
            other => other,
        };
        added.map_err(|e| {
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

fn device(link: &LinkMessage) -> Device {
    let flags = link.header.flags;
    let mut device = Device {
        index: link.header.index,
        name: name_of(link).unwrap_or_default(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: has_carrier(link),
        arp: !flags.contains(LinkFlags::Noarp),
        mtu: 0,
        macvlan_on: None,
    };
    let mut lower = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                device.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Link(index) => lower = Some(*index),
            _ => {}
        }
    }
    device.mac = device.mac.filter(|mac| mac.0 != [0; 6] && !flags.contains(LinkFlags::Loopback));
    device.macvlan_on = lower.filter(|_| is_macvlan(link));
    device
}

/// Whether the kernel will not use an address: another machine was found to have it.
fn is_refused(message: &AddressMessage) -> bool {
    message.header.flags.contains(AddressHeaderFlags::Dadfailed)
}

fn errno(error: &rtnetlink::Error) -> Errno {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_raw(-message.raw_code()),
        _ => Errno::UnknownErrno,
    }
}

fn netlink_failure(what: &str, error: &rtnetlink::Error, advice: &str) -> Failure {
    let advice = match errno(error) {
        Errno::EPERM | Errno::EACCES => "this needs root, or CAP_NET_ADMIN and CAP_NET_RAW",
        _ => advice,
    };
    Failure::failed(format_args!("cannot {what}: {error}; {advice}"))
}
