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

use super::{Action, Broken, Node};
use crate::report::{Claims, Report, Stamp};
use crate::slices::SliceSet;
use crate::time::Time;

/// What is known of connections whose host has died.
#[derive(Debug, Default)]
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
    /// When to ask next.
    ask_at: Option<Time>,
}

impl Orphans {
    fn of(&self, service: &str) -> SliceSet {
        self.slices.get(service).cloned().unwrap_or_default()
    }

    fn listed(&self, host: &str, service: &str) -> SliceSet {
        self.listed.get(host).and_then(|claims| claims.get(service)).cloned().unwrap_or_default()
    }

    /// These slices are not ours any more, so whoever gets them may open connections that no list has.
    pub(super) fn given_up(&mut self, service: &str, slices: &SliceSet, next_seq: u64) {
        if self.slices.is_empty() || slices.is_empty() {
            return;
        }
        self.round = next_seq.max(self.round + 1);
        for listed in self.listed.values_mut().filter_map(|claims| claims.get_mut(service)) {
            *listed = listed.minus(slices);
        }
    }

    /// A new life: of the dead is known what was known, but no list is worth anything.
    pub(super) fn begin(&mut self) {
        self.listed.clear();
        self.ask_at = None;
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

    /// When to ask next, if anything is to be asked.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.ask_at
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

    /// Whether lists may be of use: connections have died with a host not long ago.
    pub fn expects_lists(&self) -> bool {
        !self.orphans.slices.is_empty()
    }

    /// Of the slices `wanted`, those whose connections here can be listed from a look that began at `looked`:
    /// they take no new ones by then.
    pub fn listable(&self, wanted: &Claims, looked: Time) -> Claims {
        let closed = |service: &String, slice: u32| {
            let since = self.connections.since().get(service).and_then(|slices| slices.get(&slice));
            since.is_some_and(|&since| since < looked)
        };
        let fit = wanted.iter().map(|(service, slices)| {
            (service.clone(), slices.iter().filter(|&slice| closed(service, slice)).collect::<SliceSet>())
        });
        fit.filter(|(_, slices)| !slices.is_empty()).collect()
    }

    /// A host has listed what it has of these slices.
    pub(super) fn take_list(&mut self, host: String, round: Stamp, slices: &Claims) {
        if round != self.list_round() && !self.broken(Broken::StaleLists) {
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
    fn stays(&self, service: &str) -> SliceSet {
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
        } else if self.orphans.ask_at.is_none_or(|at| now >= at) {
            self.orphans.ask_at = Some(now + self.timing.heartbeat * 2);
            let round = self.list_round();
            let asks = wanted.into_iter().map(|(host, slices)| Action::Ask { host, round, slices });
            self.actions.extend(asks);
        }
    }

    /// The living peers that have connections of slices of `service`, and of which.
    fn movers(&self, service: &str) -> impl Iterator<Item = (&str, &SliceSet)> {
        let alive = self.peers.iter().filter(|(_, peer)| peer.alive);
        alive.filter_map(move |(host, peer)| Some((host.as_str(), peer.report.moving.get(service)?)))
    }
}
