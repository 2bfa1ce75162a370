//! Installs rulesets in the kernel, changes them in normal running, and reads them back.
//!
//! Every change is one transaction: a packet sees all of it or nothing. Only the project's own tables are
//! ever named. Everything here is quick (it never waits for anything but the kernel's own work) and blocks
//! the thread meanwhile; [`Netfilter`] is not `Send`, so give it a thread of its own.

mod compare;
mod conntrack;
mod error;
mod mend;
mod object;
mod read;
mod renewal;
mod socket;
mod transaction;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nix::net::if_::if_nametoindex;

#[cfg(test)]
pub(crate) use self::transaction::raw_key;
pub use self::{
    compare::Difference,
    conntrack::{Connection, TcpState},
    error::Error,
    renewal::Renewed,
};
use self::{
    object::Home,
    renewal::Renewals,
    socket::Socket,
    transaction::{Finished, Transaction},
};
use crate::{
    model::*,
    wanted::{
        Change, EGRESS, ELSEWHERE4, ELSEWHERE6, ElsewhereChange, LEASE, Lease, Service, Standing, TABLE,
        Token, Wanted, service_of,
    },
};

/// The tables that onemac may ever have made: what [`Netfilter::remove`] removes.
const OWN_TABLES: &[Home<'static>] = &[
    Home { family: Family::Netdev, table: TABLE },
    Home { family: Family::Inet, table: TABLE },
    Home { family: Family::Arp, table: TABLE },
];

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
    renewals: Renewals,
}

impl Netfilter {
    /// Opens the socket. Needs no privilege; the first change does.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, generation: None, renewals: Renewals::default() })
    }

    /// Replaces our tables by these, then reads them back and compares. A table of ours that is not among them
    /// goes.
    ///
    /// One transaction: no packet sees anything in between. What is there already and as it should be stays, if
    /// the tables are of the same shape; only then is no packet lost either that is on its way at that moment.
    /// Else each table is deleted and made anew in that transaction. Running leases start over.
    pub fn install(&mut self, ruleset: &Ruleset) -> Result<(), Error> {
        let hooks = ruleset.tables.iter().flat_map(|t| &t.chains).filter_map(|c| c.hook.as_ref());
        for device in hooks.filter_map(Hook::device) {
            device_index(device)?;
        }
        let superfluous = self.there(&unwanted(ruleset))?;
        let found = match self.steadily(|socket| read_tables(socket, ruleset)) {
            Ok((found, _)) => found,
            // What cannot be read cannot be mended: anew, then.
            Err(Error::Unsteady { .. }) => ruleset.tables.iter().map(|_| None).collect(),
            Err(error) => return Err(error),
        };
        let mut write = |mend: bool| {
            self.commit("install the ruleset", |transaction| {
                superfluous.iter().try_for_each(|home| transaction.delete(*home))?;
                for (table, found) in ruleset.tables.iter().zip(&found) {
                    match found {
                        Some(found) if mend && mend::fits(table, found) => {
                            mend::mend(transaction, table, found)?;
                        }
                        _ => transaction.replace(table)?,
                    }
                }
                Ok(())
            })
        };
        // Whatever somebody else has made of it, or does at this moment: anew, then.
        write(true).or_else(|_| write(false))?;
        match self.verify(ruleset) {
            Ok(differences) if differences.is_empty() => Ok(()),
            Ok(differences) => Err(Error::NotAsInstalled { differences }),
            // The kernel has taken it, and `disturbed` goes on to say that it was not read back yet.
            Err(Error::Unsteady { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads our tables back and compares them with what is wanted: nothing to report means that the kernel
    /// holds exactly this. Handles, the values of counters, and elements that have expired do not count.
    pub fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Difference>, Error> {
        for _ in 0..READ_ATTEMPTS {
            let before = self.generation()?;
            let Some(found) = uninterrupted(read_tables(&mut self.socket, ruleset))? else { continue };
            let mut differences: Vec<_> =
                self.there(&unwanted(ruleset))?.into_iter().map(compare::superfluous).collect();
            for (table, found) in ruleset.tables.iter().zip(&found) {
                differences.extend(compare::table(table, found.as_ref())?);
            }
            // What others commit leaves ours as it is. So if all was found as wanted, it does not matter that they
            // committed meanwhile; a difference may come of that.
            if differences.is_empty() || self.generation()? == before {
                self.generation = Some(before);
                return Ok(differences);
            }
        }
        Err(Error::Unsteady { attempts: READ_ATTEMPTS })
    }

    /// Changes what becomes of slices and which connections live elsewhere, and renews the lease, all in one
    /// transaction. Only what differs between `from` and `to` is touched.
    ///
    /// `from` must be what the kernel holds: a slice that has another verdict than `from` says is not noticed, but
    /// a slice or connection that is missing, or a table that is not there, fails the whole. Then the kernel is not
    /// as the agent believes, and it should [`install`](Self::install). Both must be the same services; others have
    /// other tables, and are installed too. So is everything else that differs: it is not looked at here. Without a
    /// lease in `to` the running one is left alone; that of `from` does not matter. A lease in `to` is exactly what
    /// runs afterwards, also if it ends earlier than the one before.
    ///
    /// Each look into a set or map sees the transaction whole, not the packet's whole way. A packet that was on its
    /// way to the chain of [`Standing::Heir`] may find a connection gone from [`Wanted::elsewhere`] that went with
    /// that standing. To be free of that, leave the connections until a later change: nothing else looks at them.
    pub fn change(&mut self, from: &Wanted, to: &Wanted) -> Result<(), Error> {
        let changes = changes(&from.services, &to.services)?;
        let elsewhere = ElsewhereChange::between(from, to);
        if changes.is_empty() && elsewhere.is_empty() && to.lease.is_none() {
            return Ok(());
        }
        self.commit("change the slices", |transaction| {
            for (service, change) in &changes {
                let (slices, relays) = (service.slices_map(), service.relays_map());
                for (map, out) in [(&slices, &change.slices_out), (&relays, &change.relays_out)] {
                    transaction.remove_elements(SERVICE, SLICE_KEY, map, out)?;
                }
                for (map, into) in [(&slices, &change.slices_in), (&relays, &change.relays_in)] {
                    transaction.add_elements(SERVICE, SLICE_KEY, map, into)?;
                }
            }
            for ElsewhereChange { set, key, out, into } in &elsewhere {
                transaction.remove_elements(SERVICE, *key, set, out)?;
                transaction.add_elements(SERVICE, *key, set, into)?;
            }
            match to.lease {
                Some(_) => renewal::write(transaction, to),
                None => Ok(()),
            }
        })
    }

    /// What becomes of each slice, what lives elsewhere, and the lease that is left; `None` if our rules are not there.
    pub fn standings(&mut self) -> Result<Option<Standings>, Error> {
        let (found, generation) = self.steadily(read_standings)?;
        self.generation = Some(generation);
        Ok(found)
    }

    /// The TCP connections to these addresses that conntrack knows, whatever their state.
    ///
    /// All entries of the network namespace are read, which takes some time if there are many. Makes the
    /// kernel load conntrack: only for hosts on which a service is tracked.
    pub fn connections(&mut self, vips: &[IpAddr]) -> Result<Vec<Connection>, Error> {
        conntrack::connections(&mut self.socket, vips)
    }

    /// Whether any of our tables is there.
    pub fn exists(&mut self) -> Result<bool, Error> {
        Ok(!self.there(OWN_TABLES)?.is_empty())
    }

    /// Whether the table with the mask is gone, or another in its place: the quickest look of all.
    pub fn are_gone(&mut self) -> Result<bool, Error> {
        let comment = read::table_userdata(&mut self.socket, SERVICE)?;
        Ok(comment.is_none_or(|comment| comment.is_empty()))
    }

    /// Removes our tables, in one transaction; whether there were any.
    pub fn remove(&mut self) -> Result<bool, Error> {
        let there = self.there(OWN_TABLES)?;
        if there.is_empty() {
            return Ok(false);
        }
        self.commit("remove the tables", |transaction| {
            there.iter().try_for_each(|home| transaction.delete(*home))
        })?;
        Ok(true)
    }

    /// Those of the tables that are there.
    fn there(&mut self, tables: &[Home<'static>]) -> Result<Vec<Home<'static>>, Error> {
        let mut there = Vec::new();
        for home in tables {
            if read::table_userdata(&mut self.socket, *home)?.is_some() {
                there.push(*home);
            }
        }
        Ok(there)
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
        if transaction.is_empty() {
            return Ok(());
        }
        let finished: Finished = transaction.finish();
        self.renewals.stood = 0..0;
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
            match uninterrupted(read(&mut self.socket))? {
                Some(found) if read::generation(&mut self.socket)? == before => return Ok((found, before)),
                _ => {}
            }
        }
        Err(Error::Unsteady { attempts: READ_ATTEMPTS })
    }
}

/// None where somebody has committed in the middle of the kernel's answer.
fn uninterrupted<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Err(Error::Receive { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted => Ok(None),
        read => read.map(Some),
    }
}

/// What is there of the tables of a ruleset, one by one.
fn read_tables(socket: &mut Socket, ruleset: &Ruleset) -> Result<Vec<Option<read::Found>>, Error> {
    ruleset.tables.iter().map(|table| read::table(socket, Home::from(table))).collect()
}

/// Our tables that have no place in this ruleset.
fn unwanted(ruleset: &Ruleset) -> Vec<Home<'static>> {
    let wanted = |home: &Home<'_>| ruleset.table(home.family, home.table).is_some();
    OWN_TABLES.iter().filter(|home| !wanted(home)).copied().collect()
}

/// What the kernel does with the slices of each service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standings {
    /// By name of the service, all slices that are not foreign.
    pub services: BTreeMap<String, BTreeMap<u32, Standing>>,
    /// Clients whose connections live on other hosts, as in [`Wanted::elsewhere`].
    pub elsewhere: BTreeSet<(IpAddr, u16)>,
    /// The time that is left by the kernel's own count, and the deadline by the wall clock.
    pub lease: Option<Lease>,
    /// What the rules know renewals by.
    pub token: Option<Token>,
}

fn read_standings(socket: &mut Socket) -> Result<Option<Standings>, Error> {
    if read::table_userdata(socket, SERVICE)?.is_none() {
        return Ok(None);
    }
    let number = |key: &[u8]| key.first_chunk().map(|b| u32::from_ne_bytes(*b));
    let mut services = BTreeMap::new();
    let mut elsewhere = BTreeSet::new();
    for set in read::sets(socket, SERVICE)? {
        if [ELSEWHERE4, ELSEWHERE6].contains(&set.name.as_str()) {
            elsewhere.extend(
                read::elements(socket, SERVICE, &set.name)?.keys().filter_map(|key| read::client(key)),
            );
        }
        let Some(name) = service_of(&set.name) else { continue };
        let service = Service::everything(name, false);
        let relays: BTreeMap<u32, MacAddr> = read::elements(socket, SERVICE, &service.relays_map())?
            .iter()
            .filter_map(|(key, e)| Some((number(key)?, MacAddr(e.data.as_deref()?.try_into().ok()?))))
            .collect();
        let mut slices = BTreeMap::new();
        for (key, element) in read::elements(socket, SERVICE, &set.name)? {
            let (Some(n), Some((_, chain))) = (number(&key), element.verdict) else { continue };
            match service.standing_of(&chain, relays.get(&n).copied()) {
                Standing::Foreign => {}
                standing => drop(slices.insert(n, standing)),
            }
        }
        services.insert(name.to_owned(), slices);
    }
    let lease = renewal::left(&read::sets(socket, SERVICE)?, &read::elements(socket, SERVICE, LEASE)?);
    // The one comparison of that chain with eight bytes.
    let token = read::compared(socket, SERVICE, EGRESS)?.map(Token::new);
    Ok(Some(Standings { services, elsewhere, lease, token }))
}

/// What differs, service by service.
fn changes<'a>(from: &[Service], to: &'a [Service]) -> Result<Vec<(&'a Service, Change)>, Error> {
    let other = |service: &Service| Error::OtherServices { service: service.name.clone() };
    let same = |a: &Service, b: &Service| {
        let kind = |service: &Service| (service.tracked, service.datagrams_tracked);
        a.name == b.name && kind(a) == kind(b) && a.ports == b.ports
    };
    if let Some(gone) = from.iter().find(|old| !to.iter().any(|new| same(old, new))) {
        return Err(other(gone));
    }
    let mut changes = Vec::new();
    for new in to {
        let old = from.iter().find(|old| same(old, new)).ok_or_else(|| other(new))?;
        let change = Change::between(old, new);
        if !change.is_empty() {
            changes.push((new, change));
        }
    }
    Ok(changes)
}

pub(crate) fn device_index(device: &str) -> Result<u32, Error> {
    if_nametoindex(device).map_err(|_| Error::NoDevice { device: device.into() })
}
