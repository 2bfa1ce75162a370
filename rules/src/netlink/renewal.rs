//! Renewals of the lease: frames that add to the set while they pass the rules, and what stands there afterwards.
//!
//! Nothing here waits for other users of nf_tables, and nothing keeps them waiting: neither the frames nor the look
//! at the set take the lock under which transactions are done. Where frames are of no use a transaction follows.

use std::{
    collections::BTreeMap,
    ops::Range,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{LinkAddr, MsgFlags, SockaddrLike, sendto},
};
use socket2::{Domain, Socket as RawSocket, Type};

use super::{
    Error, LEASE, Netfilter, SERVICE, device_index, read,
    read::{FoundElement, FoundSet},
    transaction::Transaction,
    uninterrupted,
};
use crate::{
    model::KeyType,
    wanted::{
        Lease, Wanted,
        lease::{Quantum, TICK, frame},
    },
};

/// The ethertype of the frames, IEEE 802's first one for local experiments: no rule asks for it, but should one ever
/// leave this host, nobody takes it for something else.
const ETHERTYPE: u16 = 0x88b5;
/// How often the set is read when a transaction of somebody else has come in between.
const READ_ATTEMPTS: u32 = 10;

/// What is known of earlier renewals.
#[derive(Default)]
pub(super) struct Renewals {
    /// Opened by the first.
    socket: Option<RawSocket>,
    /// The quanta that stood in the set after the last. After a transaction that is not known.
    pub(super) stood: Range<u64>,
}

/// How a lease was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// By frames of our own.
    ByPackets,
    /// By a transaction: the lease ends earlier than the one before, or frames did not bring about what was wanted.
    ByCommit,
}

impl Netfilter {
    /// Lets the kernel accept until the lease ends, and makes sure that it does and for no longer.
    ///
    /// Usually this is no transaction. The rules must be installed, with the same token.
    pub fn renew(&mut self, wanted: &Wanted) -> Result<Renewed, Error> {
        let begun = Instant::now();
        let quantum = Quantum::of(wanted.longest_lease);
        let Some(lease) = wanted.lease else { return self.renew_by_commit(wanted) };
        let all = quantum.all(lease);
        let stood = std::mem::take(&mut self.renewals.stood);
        // What stands behind the new end only a transaction takes away.
        let sent = self.send(wanted, quantum, &all, &stood)?;
        // Where others commit so often that nothing can be read, a transaction is what is certain.
        let found = uninterrupted(self.lease_elements())?;
        if !sent || !found.is_some_and(|found| stand(quantum, lease, &found, begun)) {
            return self.renew_by_commit(wanted);
        }
        self.renewals.stood = all;
        Ok(Renewed::ByPackets)
    }

    /// Ends the lease: the kernel accepts nothing from now on.
    pub fn drop_lease(&mut self) -> Result<(), Error> {
        self.commit("end the lease", |transaction| transaction.flush_set(SERVICE, LEASE))
    }

    /// How long the kernel is going to accept by its own count; `None` if it does not.
    pub fn lease_left(&mut self) -> Result<Option<Duration>, Error> {
        let left = self.lease_elements()?.values().filter_map(|e| e.left_ms).max();
        Ok(left.map(Duration::from_millis))
    }

    fn renew_by_commit(&mut self, wanted: &Wanted) -> Result<Renewed, Error> {
        self.commit("renew the lease", |transaction| write(transaction, wanted))?;
        Ok(Renewed::ByCommit)
    }

    /// Sends the quanta that did not stand in the set; whether all could be sent.
    fn send(
        &mut self,
        wanted: &Wanted,
        quantum: Quantum,
        all: &Range<u64>,
        stood: &Range<u64>,
    ) -> Result<bool, Error> {
        let to = link_address(device_index(&wanted.device)?, wanted.device_mac.0);
        let socket = match &self.renewals.socket {
            Some(socket) => socket,
            // Without a protocol it takes nothing.
            None => match RawSocket::new(Domain::PACKET, Type::DGRAM, None) {
                Ok(socket) => self.renewals.socket.insert(socket),
                Err(_) => return Ok(false),
            },
        };
        for number in all.clone().filter(|n| !stood.contains(n)) {
            let frame = frame(wanted.token, quantum.start(number));
            match sendto(socket.as_raw_fd(), &frame, &to, MsgFlags::MSG_DONTWAIT) {
                // The kernel's word for a frame that a rule at egress has dropped, as ours does.
                Err(Errno::ENOBUFS) => {}
                Err(Errno::ENETDOWN) => return Err(Error::DeviceDown { device: wanted.device.clone() }),
                // If it has left, the rule was not there.
                Ok(_) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn lease_elements(&mut self) -> Result<BTreeMap<Vec<u8>, FoundElement>, Error> {
        let mut attempt = 1;
        loop {
            match read::elements(&mut self.socket, SERVICE, LEASE) {
                Err(Error::Receive { source, .. })
                    if source.kind() == std::io::ErrorKind::Interrupted && attempt < READ_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// Whether the kernel accepts until the end of the lease, and not beyond.
fn stand(quantum: Quantum, lease: Lease, found: &BTreeMap<Vec<u8>, FoundElement>, begun: Instant) -> bool {
    let all = quantum.all(lease);
    // A wall clock that was set back would have them expire before their time.
    let long_enough = |number: u64, left_ms: u64| {
        let before_the_end = Duration::from_nanos(lease.deadline_unix_ns - quantum.start(number + 1));
        Duration::from_millis(left_ms) + begun.elapsed() + before_the_end + TICK >= lease.timeout
    };
    let there = all.clone().all(|number| {
        let element = found.get(quantum.start(number).to_ne_bytes().as_slice());
        element.is_some_and(|e| e.left_ms.is_some_and(|left_ms| long_enough(number, left_ms)))
    });
    let beyond = quanta(quantum, found).any(|(number, _)| number >= all.end);
    there && !beyond
}

/// The quanta that are in the set, and for how long.
fn quanta(quantum: Quantum, found: &BTreeMap<Vec<u8>, FoundElement>) -> impl Iterator<Item = (u64, u64)> {
    found.iter().filter_map(move |(key, element)| {
        let start = u64::from_ne_bytes(key.as_slice().try_into().ok()?);
        Some((quantum.number(start), element.left_ms?))
    })
}

/// Puts the lease, or its absence, in the place of the one before.
///
/// Flush and add, where delete and add would be nearer: deleting an element that has expired fails the
/// transaction, and changing one in place needs Linux 6.12.
pub(super) fn write(transaction: &mut Transaction, wanted: &Wanted) -> Result<(), Error> {
    let elements = Quantum::of(wanted.longest_lease).elements(wanted.lease);
    transaction.flush_set(SERVICE, LEASE)?;
    transaction.add_elements(SERVICE, KeyType::Time, LEASE, &elements)
}

/// What is left of the lease that stands in the kernel: what follows without a gap on the first quantum that stands
/// there. `None` if none does.
pub(super) fn left(sets: &[FoundSet], found: &BTreeMap<Vec<u8>, FoundElement>) -> Option<Lease> {
    let longest = sets.iter().find(|set| set.name == LEASE)?.timeout?;
    let quantum = Quantum::of(Duration::from_millis(longest));
    let numbers: BTreeMap<u64, u64> = quanta(quantum, found).collect();
    let (&first, _) = numbers.first_key_value()?;
    let together = numbers.iter().zip(first..).take_while(|((number, _), next)| *number == next);
    let ((last, left_ms), _) = together.last()?;
    let timeout = Duration::from_millis(*left_ms);
    Some(Lease { timeout, deadline_unix_ns: quantum.start(last + 1) })
}

fn link_address(index: u32, mac: [u8; 6]) -> LinkAddr {
    let [a, b, c, d, e, f] = mac;
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    };
    let len = size_of_val(&raw) as u32;
    // SAFETY: `raw` is an initialised sockaddr_ll, lives through the call, and `len` is its size.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(len)) };
    // Made of a sockaddr_ll right above, so it is one.
    address.unwrap_or_else(|| unreachable!("AF_PACKET address"))
}
