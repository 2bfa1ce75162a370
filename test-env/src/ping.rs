//! Echo requests from many addresses, and how often each is answered.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Replies by asking address.
pub type PingTally = BTreeMap<IpAddr, usize>;

/// Sends one echo request from every address to `target` and counts the replies of each. Returns when
/// every asker has one, or after `patience`, and then listens on for second replies.
///
/// # Errors
/// When a socket can not be opened at an address. Silence is no error but a count of 0.
pub fn ping_all(netns: &Netns, askers: &[IpAddr], target: IpAddr, patience: Duration) -> Result<PingTally> {
    const LINGER: Duration = Duration::from_millis(400);
    netns.within(|| {
        let mut sockets = Vec::with_capacity(askers.len());
        for asker in askers {
            sockets.push((*asker, open(*asker, target)?));
        }
        let mut tally: PingTally = askers.iter().map(|asker| (*asker, 0)).collect();
        let mut end = Instant::now() + patience;
        let mut complete = false;
        while Instant::now() < end {
            let mut heard = false;
            for (asker, socket) in &sockets {
                let mut buffer = [MaybeUninit::uninit(); 256];
                while socket.recv(&mut buffer).is_ok() {
                    *tally.entry(*asker).or_default() += 1;
                    heard = true;
                }
            }
            if !complete && tally.values().all(|replies| *replies > 0) {
                complete = true;
                end = Instant::now() + LINGER;
            }
            if !heard {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(tally)
    })
}

/// A "ping socket" (icmp(7), ping_group_range) at an address, with one request sent. The kernel fills in
/// checksum and identifier, and hands over replies only.
fn open(asker: IpAddr, target: IpAddr) -> Result<Socket> {
    let (domain, protocol, echo_request) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).context("could not open a ping socket")?;
    if target.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(asker, 0).into()).with_context(|| format!("could not ping from {asker}"))?;
    socket.set_nonblocking(true)?;
    let message = [echo_request, 0, 0, 0, 0, 0, 0, 1, b'o', b'n', b'e', b'm', b'a', b'c'];
    socket
        .send_to(&message, &SocketAddr::new(target, 0).into())
        .with_context(|| format!("ping from {asker}"))?;
    Ok(socket)
}
