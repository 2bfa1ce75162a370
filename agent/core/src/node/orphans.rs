//! Connections that have died with their host, in slices of which others still have some.
//!
//! Who owns a slice answers segments of connections that nobody knows with a reset; but for as long as another
//! host has connections of it, the owner can not tell them from those that died, and is silent to both. So
//! it asks: whoever has connections of a slice that is closed to new ones lists them, and no other will ever be
//! added to such a list while we own the slice. Then the owner is *heir*: silent to what is listed.
//!
//! The lists themselves are the caller's; here is only known of which slices they are there.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use serde::Serialize;

use super::{Action, Broken, Node};
use crate::report::{Claims, Report, Stamp};
use crate::slices::SliceSet;
use crate::time::Time;

/// What is known of connections whose host has died.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Orphans {
    /// Slices of which connections have died with a host.
    slices: Claims,
    /// When they are forgotten: whose client has said nothing until then learns nothing.
    until: Time,
    /// Of these, what each host has listed since we own it.
    pub(super) listed: BTreeMap<String, Claims>,
    /// Grows whenever we give slices up: what was asked for before is no answer after. Never behind the number of
    /// our next report by then, so that an agent that goes on with this life knows where to begin.
    round: u64,
    /// What we have asked for last, when to ask again, and after which time: ever longer while the same is missing, since
    /// whoever is asked looks at all its connections.
    asked: BTreeMap<String, Claims>,
    ask_at: Option<Time>,
    pause: Duration,
}

/// The longest time between two asks for the same: so often whoever has such slices looks anyway.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Orphans {
    fn of(&self, service: &str) -> SliceSet {
        self.slices.get(service).cloned().unwrap_or_default()
    }

    fn list_of(&self, host: &str, service: &str) -> Option<&SliceSet> {
        self.listed.get(host)?.get(service)
    }

    fn listed(&self, host: &str, service: &str) -> SliceSet {
        self.list_of(host, service).cloned().unwrap_or_default()
    }

    /// What is on its way comes too late from now on.
    fn new_round(&mut self, next_seq: u64) {
        self.round = next_seq.max(self.round + 1);
        self.asked.clear();
    }

    /// These slices are not ours any more, so whoever gets them may open connections that no list has.
    pub(super) fn given_up(&mut self, slices: &Claims, next_seq: u64) {
        if self.slices.is_empty() || slices.is_empty() {
            return;
        }
        self.new_round(next_seq);
        for claims in self.listed.values_mut() {
            for (service, gone) in slices {
                claims.entry(service.clone()).and_modify(|listed| *listed = listed.minus(gone));
            }
        }
    }

    /// A new life: of the dead is known what was known, but no list is worth anything.
    pub(super) fn begin(&mut self) {
        let (slices, until) = (core::mem::take(&mut self.slices), self.until);
        *self = Orphans { slices, until, ..Orphans::default() };
    }

    /// Another definition: lists were made by other ports.
    pub(super) fn forget_lists(&mut self, next_seq: u64) {
        self.new_round(next_seq);
        self.listed.clear();
    }

    /// This life was begun by another agent, which has asked for nothing by numbers as great as this.
    pub(super) fn go_on(&mut self, seq_limit: u64, slices: Claims, until: Time) {
        (self.round, self.slices, self.until) = (seq_limit + 1, slices, until);
    }

    /// Slices of which connections have died with a host.
    pub(super) fn slices(&self) -> &Claims {
        &self.slices
    }

    /// Until when that matters.
    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// When to ask next, or to forget.
    pub(super) fn deadline(&self) -> Option<Time> {
        let until = Some(self.until).filter(|_| !self.slices.is_empty());
        self.ask_at.into_iter().chain(until).min()
    }

    /// Whether it is time to ask for these.
    fn is_time(&mut self, now: Time, wanted: BTreeMap<String, Claims>, shortest: Duration) -> bool {
        let more = wanted.iter().any(|(host, claims)| {
            claims.iter().any(|(service, slices)| {
                let asked = self.asked.get(host).and_then(|asked| asked.get(service));
                asked.is_none_or(|asked| !slices.minus(asked).is_empty())
            })
        });
        if !more && self.ask_at.is_some_and(|at| now < at) {
            return false;
        }
        let same = wanted == self.asked;
        self.pause = if same { (self.pause * 2).min(PAUSE_MAX) } else { shortest };
        self.asked = wanted;
        self.ask_at = Some(now + self.pause);
        true
    }
}

impl Node {
    /// A host has gone, and what lived there with it.
    pub(super) fn bereave(&mut self, now: Time, report: &Report) {
        for claims in [&report.claims, &report.moving].into_iter().chain(report.relayed.values()) {
            for (service, slices) in claims.iter().filter(|(service, _)| self.connections.follows(service)) {
                let known = self.orphans.slices.entry(service.clone()).or_default();
                *known = known.or(slices);
            }
        }
        self.orphans.listed.remove(&report.host);
        self.orphans.until = now + self.connections.drain_timeout();
    }

    /// Names what we ask for: an answer to anything else is none.
    pub fn list_round(&self) -> Stamp {
        Stamp { incarnation: self.stamp.incarnation, seq: self.orphans.round }
    }

    /// Whether the list that this host has made of a slice is of use.
    pub fn needs_list(&self, host: &str, service: &str, slice: u32) -> bool {
        self.orphans.list_of(host, service).is_some_and(|slices| slices.contains(slice))
    }

    /// Of the slices `wanted`, those whose connections here can be listed from a look that began at `looked`:
    /// they take no new ones by then.
    pub fn listable(&self, wanted: &Claims, looked: Time) -> Claims {
        let closed = |service: &String, slice: u32| {
            let since = self.moving().get(service).and_then(|slices| slices.get(&slice));
            since.is_some_and(|&since| since < looked)
        };
        let fit = wanted.iter().map(|(service, slices)| {
            (service.clone(), slices.iter().filter(|&slice| closed(service, slice)).collect::<SliceSet>())
        });
        fit.filter(|(_, slices)| !slices.is_empty()).collect()
    }

    /// A host has listed what it has of these slices.
    pub(super) fn take_list(&mut self, host: String, round: Stamp, slices: &Claims) {
        let late = round != self.list_round() && !self.broken(Broken::StaleLists);
        if late || self.orphans.slices.is_empty() {
            return;
        }
        let ours = slices.iter().map(|(service, slices)| (service, slices.and(&self.stays(service))));
        let ours: Vec<(&String, SliceSet)> = ours.collect();
        let known = self.orphans.listed.entry(host).or_default();
        for (service, slices) in ours {
            let known = known.entry(service.clone()).or_default();
            *known = known.or(&slices);
        }
        self.moves_stale = true;
    }

    /// Of the slices that we accept and that others have connections of, those that lists are there of.
    pub(super) fn heir(&self, service: &str, shared: &SliceSet) -> SliceSet {
        let mut heir = shared.and(&self.orphans.of(service));
        if !self.agreed {
            // Not all may have said yet what lives with them.
            heir = heir.and(&self.held.get(service).map(|held| held.heir.clone()).unwrap_or_default());
        }
        if heir.is_empty() || self.broken(Broken::NoLists) {
            return heir;
        }
        for (host, moving) in self.movers(service) {
            heir = heir.minus(&moving.minus(&self.orphans.listed(host, service)));
        }
        heir
    }

    /// Whose lists the kernel needs for that, and of which slices.
    pub(super) fn lists_for(&self, service: &str, heir: &SliceSet) -> BTreeMap<String, SliceSet> {
        let lists = self.movers(service).map(|(host, moving)| (host.into(), heir.and(moving)));
        lists.filter(|(_, slices)| !slices.is_empty()).collect()
    }

    /// What we accept, and go on to accept when the kernel has done what it was asked for: of what is given up, lists
    /// may be too short as soon as it is.
    pub(super) fn stays(&self, service: &str) -> SliceSet {
        let target = self.pending.as_ref().map_or(&self.held, |pending| &pending.target);
        target.get(service).map(|held| held.accepted.clone()).unwrap_or_default()
    }

    /// Asks for the lists that are missing.
    pub(super) fn ask_for_lists(&mut self, now: Time) {
        if self.orphans.slices.is_empty() {
            return;
        }
        if now >= self.orphans.until {
            let round = self.orphans.round + 1;
            self.orphans = Orphans { round, ..Orphans::default() };
            self.moves_stale = true;
            return;
        }
        if !self.agreed {
            // By another definition it may be somebody else's to list.
            self.orphans.ask_at = None;
            return;
        }
        let mut wanted: BTreeMap<String, Claims> = BTreeMap::new();
        for (service, orphaned) in &self.orphans.slices {
            let ours = self.stays(service).and(orphaned);
            for (host, moving) in self.movers(service) {
                let missing = ours.and(moving).minus(&self.orphans.listed(host, service));
                if !missing.is_empty() {
                    wanted.entry(host.into()).or_default().insert(service.clone(), missing);
                }
            }
        }
        if wanted.is_empty() {
            self.orphans.ask_at = None;
            self.orphans.asked.clear();
        } else if self.orphans.is_time(now, wanted, self.timing.heartbeat * 2) {
            let round = self.list_round();
            let asked = self.orphans.asked.iter();
            let asks =
                asked.map(|(host, slices)| Action::Ask { host: host.clone(), round, slices: slices.clone() });
            self.actions.extend(asks);
        }
    }

    /// The living peers that have connections of slices of `service`, and of which.
    fn movers(&self, service: &str) -> impl Iterator<Item = (&str, &SliceSet)> {
        let alive = self.peers.iter().filter(|(_, peer)| peer.alive);
        alive.filter_map(move |(host, peer)| Some((host.as_str(), peer.report.moving.get(service)?)))
    }
}
