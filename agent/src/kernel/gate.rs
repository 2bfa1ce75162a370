//! The gate: whether the shared device is up, decided where it is known whether the rules stand.
//!
//! A host whose rules do not stand as wanted is open to every client, and nothing masks the cluster MAC. So the
//! thread that owns the rules takes the shared device down itself, at once, and brings it up again, without
//! anybody else's help or permission: one message to the kernel that needs no name and waits for nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mnl::{Bus, Socket};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

/// The shared device, by its index. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicU32>);

impl Gate {
    /// From now on this is the shared device.
    pub fn stand_on(&self, index: u32) {
        self.0.store(index, Ordering::Relaxed);
    }

    /// Takes the shared device down, and these addresses of IPv4 from it: the kernel goes on to answer for those of a
    /// device that is down, on every other one. Addresses of IPv6 go by themselves. What is gone is as good as down.
    pub fn close(&self, vips: &[IpAddr]) -> io::Result<()> {
        let index = self.0.load(Ordering::Relaxed);
        let v4 = vips.iter().filter_map(|vip| match vip {
            IpAddr::V4(vip) => Some(*vip),
            IpAddr::V6(_) => None,
        });
        let mut closed = self.shut();
        for vip in v4 {
            closed = closed.and(unless_gone(remove_address(index, vip)));
        }
        closed
    }

    /// Takes the shared device down for a moment.
    pub fn shut(&self) -> io::Result<()> {
        unless_gone(self.set(false))
    }

    /// Brings the shared device up.
    pub fn open(&self) -> io::Result<()> {
        self.set(true)
    }

    fn set(&self, up: bool) -> io::Result<()> {
        let link = LinkUnspec::new_with_index(self.0.load(Ordering::Relaxed));
        let link = if up { link.up() } else { link.down() }.build();
        if link.header.index == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        ask(RouteNetlinkMessage::SetLink(link))
    }
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => Ok(()),
        other => other,
    }
}

fn remove_address(index: u32, vip: Ipv4Addr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(vip.into()));
    ask(RouteNetlinkMessage::DelAddress(message))
}

/// Asks the kernel for one thing and waits for its answer.
fn ask(what: RouteNetlinkMessage) -> io::Result<()> {
    let mut message = NetlinkMessage::from(what);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::open(Bus::Route)?;
    socket.send(&bytes)?;
    let mut answer = [0; 4096];
    let len = socket.recv_raw(&mut answer)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..len]);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(refused) if refused.code.is_some() => Err(refused.to_io()),
        _ => Ok(()),
    }
}
