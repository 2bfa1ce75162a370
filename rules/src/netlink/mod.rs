//! Installs rulesets in the kernel, changes them in normal running, and reads them back.
//!
//! Every change is one transaction: a packet sees all of it or nothing. Only the project's own tables are
//! ever named. Everything here is quick (it never waits for anything but the kernel's own work) and blocks
//! the thread meanwhile; [`Netfilter`] is not `Send`, so give it a thread of its own.

mod compare;
mod error;
mod object;
mod read;
mod socket;
mod transaction;

use std::time::Duration;

use nix::net::if_::if_nametoindex;

pub use self::{compare::Difference, error::Error};
use self::{
    object::Home,
    socket::Socket,
    transaction::{Finished, Transaction},
};
use crate::{
    model::*,
    wanted::{LEASE, LEASED, Lease, SLICES, TABLE, leased, slice},
};

/// The tables that onemac may ever have made: what [`Netfilter::remove`] removes.
const OWN_TABLES: &[Home<'static>] = &[Home { family: Family::Netdev, table: TABLE }];

/// Where slices and lease are.
const SERVICE: Home<'static> = OWN_TABLES[0];

/// The key of a slice; how many there are is declared with the map, not with each element.
const SLICE_KEY: KeyType = KeyType::Slice { of: 0 };

/// How often reading is started over because somebody else committed meanwhile.
const READ_ATTEMPTS: u32 = 10;

/// The kernel's nf_tables in the network namespace in which it was opened.
pub struct Netfilter {
    socket: Socket,
    /// Generation of the rulesets after the last commit or reading of ours.
    generation: Option<u32>,
}

impl Netfilter {
    /// Opens the socket. Needs no privilege; the first change does.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, generation: None })
    }

    /// Replaces our tables by these, then reads them back and compares.
    ///
    /// One transaction that makes each table, deletes it and makes it anew: the same whether there was one
    /// or not, and no packet sees anything in between. Counters and running leases start over.
    pub fn install(&mut self, ruleset: &Ruleset) -> Result<(), Error> {
        for hook in ruleset.tables.iter().flat_map(|t| &t.chains).filter_map(|c| c.hook.as_ref()) {
            device_index(&hook.device)?;
        }
        self.commit("install the ruleset", |transaction| {
            ruleset.tables.iter().try_for_each(|table| transaction.replace(table, &device_index))
        })?;
        match self.verify(ruleset)? {
            differences if differences.is_empty() => Ok(()),
            differences => Err(Error::NotAsInstalled { differences }),
        }
    }

    /// Reads our tables back and compares them with what is wanted: nothing to report means that the kernel
    /// holds exactly this. Handles, the values of counters, and elements that have expired do not count.
    pub fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Difference>, Error> {
        let (found, generation) = self.steadily(|socket| {
            ruleset
                .tables
                .iter()
                .map(|table| read::table(socket, Home::from(table)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        self.generation = Some(generation);
        let mut differences = Vec::new();
        for (table, found) in ruleset.tables.iter().zip(&found) {
            differences.extend(compare::table(table, found.as_ref(), &device_index)?);
        }
        Ok(differences)
    }

    /// Takes slices in, gives slices up, and renews the lease of the device, all in one transaction.
    ///
    /// A slice that is where it should be already stays there. A number that is no slice, or a table that is
    /// not there, fails the whole: then the kernel is not as the agent believes, and it should
    /// [`install`](Self::install) again. Without a `lease` the running one is left alone.
    pub fn change(&mut self, add: &[u32], remove: &[u32], lease: Option<(&str, Lease)>) -> Result<(), Error> {
        if add.is_empty() && remove.is_empty() && lease.is_none() {
            return Ok(());
        }
        // The verdict of an element can not be changed in place.
        let changed: Vec<Element> =
            remove.iter().map(|n| slice(*n, false)).chain(add.iter().map(|n| slice(*n, true))).collect();
        self.commit("change the slices", |transaction| {
            transaction.remove_elements(SERVICE, SLICE_KEY, SLICES, &changed, &device_index)?;
            transaction.add_elements(SERVICE, SLICE_KEY, SLICES, &changed, &device_index)?;
            match lease {
                Some((device, lease)) => set_lease(transaction, device, Some(lease)),
                None => Ok(()),
            }
        })
    }

    /// Lets the kernel accept on this device until the lease ends.
    pub fn renew(&mut self, device: &str, lease: Lease) -> Result<(), Error> {
        self.commit("renew the lease", |transaction| set_lease(transaction, device, Some(lease)))
    }

    /// Ends the lease: the kernel accepts nothing from now on.
    pub fn drop_lease(&mut self) -> Result<(), Error> {
        // The name is not used without a lease.
        self.commit("end the lease", |transaction| set_lease(transaction, "", None))
    }

    /// How long the kernel is going to accept on this device by its own count; `None` if it does not.
    pub fn lease_left(&mut self, device: &str) -> Result<Option<Duration>, Error> {
        let (elements, _) = self.steadily(|socket| read::elements(socket, SERVICE, LEASE))?;
        let index = device_index(device)?.to_ne_bytes();
        let element = elements.get(index.as_slice());
        Ok(element.map(|e| e.left_ms.map_or(Duration::MAX, Duration::from_millis)))
    }

    /// The slices of which the kernel accepts packets (under a lease), in order; none if there is no table.
    pub fn owned(&mut self) -> Result<Vec<u32>, Error> {
        let (elements, _) = self.steadily(|socket| read::elements(socket, SERVICE, SLICES))?;
        let mut slices: Vec<u32> = elements
            .iter()
            .filter(|(_, element)| element.verdict.as_ref().is_some_and(|(_, chain)| chain == LEASED))
            .filter_map(|(key, _)| key.first_chunk().map(|b| u32::from_ne_bytes(*b)))
            .collect();
        slices.sort_unstable();
        Ok(slices)
    }

    /// Whether any of our tables is there.
    pub fn exists(&mut self) -> Result<bool, Error> {
        for home in OWN_TABLES {
            if read::table_userdata(&mut self.socket, *home)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes our tables, in one transaction; whether there were any.
    pub fn remove(&mut self) -> Result<bool, Error> {
        let mut there = Vec::new();
        for home in OWN_TABLES {
            if read::table_userdata(&mut self.socket, *home)?.is_some() {
                there.push(*home);
            }
        }
        if there.is_empty() {
            return Ok(false);
        }
        self.commit("remove the tables", |transaction| {
            there.iter().try_for_each(|home| transaction.delete(*home))
        })?;
        Ok(true)
    }

    /// How many transactions this network namespace has seen, ours and everybody's.
    pub fn generation(&mut self) -> Result<u32, Error> {
        read::generation(&mut self.socket)
    }

    /// Whether somebody else has committed anything since our last commit or verification, which may be
    /// nothing (a container's firewall) or `nft flush ruleset`: verify. One small request.
    pub fn disturbed(&mut self) -> Result<bool, Error> {
        let now = self.generation()?;
        Ok(self.generation != Some(now))
    }

    fn commit(
        &mut self,
        what: &str,
        write: impl FnOnce(&mut Transaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut transaction = Transaction::new(self.socket.next_sequence());
        write(&mut transaction)?;
        let finished: Finished = transaction.finish();
        self.socket.commit(&finished, what)?;
        // The kernel skips zero.
        self.generation = self.generation.map(|g| g.checked_add(1).unwrap_or(1));
        Ok(())
    }

    /// Reads several things as of one generation, which is returned beside them.
    fn steadily<T>(
        &mut self,
        mut read: impl FnMut(&mut Socket) -> Result<T, Error>,
    ) -> Result<(T, u32), Error> {
        for _ in 0..READ_ATTEMPTS {
            let before = read::generation(&mut self.socket)?;
            match read(&mut self.socket) {
                Err(Error::Receive { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(found) if read::generation(&mut self.socket)? == before => return Ok((found, before)),
                Ok(_) => {}
            }
        }
        Err(Error::Unsteady { attempts: READ_ATTEMPTS })
    }
}

/// Puts the lease, or its absence, in the place of the one before.
///
/// Flush and add, where delete and add would be nearer: deleting an element that has expired fails the
/// transaction, and changing one in place needs Linux 6.12.
fn set_lease(transaction: &mut Transaction, device: &str, lease: Option<Lease>) -> Result<(), Error> {
    let (elements, rules) = leased(device, lease);
    transaction.flush_set(SERVICE, LEASE)?;
    transaction.add_elements(SERVICE, KeyType::Device, LEASE, &elements, &device_index)?;
    transaction.flush_chain(SERVICE, LEASED)?;
    transaction.add_rules(SERVICE, LEASED, &rules)
}

fn device_index(device: &str) -> Result<u32, Error> {
    if_nametoindex(device).map_err(|_| Error::NoDevice { device: device.into() })
}
