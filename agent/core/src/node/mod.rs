//! One host of the cluster: what it is told, what it decides, what it wants done.
//!
//! The rules, in the order of their weight (docs/protocol.md argues why they are safe):
//!
//! 1. A life says no word before its kernel is empty, and accepts nothing before the peers were heard or
//!    an expiry was waited out.
//! 2. A slice is acquired only when every living host computes with the same view, has answered our
//!    entry into it and cannot have given us up meanwhile, and nobody who may be alive claims it.
//! 3. A slice is released in the kernel first and then in words.
//! 4. The lease runs from a heartbeat that every peer with a voice has answered.
//! 5. A lease that has run out is not taken up again: its host starts over as a newcomer.
//!
//! `membership` keeps the peers, `agreement` the view, `handover` moves slices, `connections` and `orphans`
//! care for what lives in them, `lease` says how long the kernel may go on by itself, `policy` what a part of a cluster may do; this file holds the
//! state, the doors in and out, and the phases of a life.

mod agreement;
mod connections;
mod event;
mod handover;
mod io;
mod lease;
mod membership;
mod memory;
mod mutation;
mod orders;
mod orphans;
mod policy;
mod status;
#[cfg(test)]
mod tests;
mod versions;
mod voice;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use core::time::Duration;

use serde::Serialize;

use self::agreement::Tables;
use self::connections::Connections;
pub use self::connections::{Follow, Look};
pub use self::event::{Event, Hold};
use self::handover::Pending;
pub use self::io::{Action, Change, Input, Recipients};
use self::membership::Peer;
pub use self::memory::{Memory, Start};
use self::mutation::Mutation as Broken;
#[cfg(feature = "mutations")]
pub use self::mutation::Mutation;
pub use self::orders::Staged;
use self::orphans::Orphans;
pub use self::orphans::PAUSE_MAX as ASK_PAUSE_MAX;
pub use self::policy::Partition;
pub use self::status::{HostStatus, ServiceStatus, Status};
use self::versions::Foreign;
use self::voice::Voice;
use crate::holding::Holdings;
use crate::report::{Claims, Stamp};
use crate::slices::SliceSet;
use crate::time::{Time, Timing};
use crate::view::{Cluster, DefinitionId, View};

/// How many times a host makes way for a stranger of its own name before it stands still and says so. Whose
/// clock went back may hear of several lives of its own, one after the other; a stranger never gives way.
const NAME_CONFLICTS_MAX: u32 = 8;

/// Whoever feeds [`Input::Stranger`] need not do so more often than this for one host.
pub const STRANGER_INTERVAL: Duration = Duration::from_secs(1);

/// For how long connections of slices that have moved on are waited for, unless the definition says.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// The phases of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Phase {
    /// The kernel is being emptied; no word has left yet.
    Starting,
    /// Listening since then; time slept through moves it on.
    Joining { since: Time },
    /// Taking its share.
    Serving,
    /// Handing over since then.
    Leaving { since: Time },
    /// Gone.
    Left,
}

/// The decisions of one host. See the module's description for the rules.
///
/// It can be copied and written down, for those who try every way on from here (`test-env/explore`).
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    me: String,
    mac: [u8; 6],
    cluster: Cluster,
    timing: Timing,
    partition: Partition,
    weight: u8,
    stamp: Stamp,
    phase: Phase,
    hold: Option<Hold>,
    name_conflicts: u32,

    peers: BTreeMap<String, Peer>,
    strangers: BTreeMap<String, Time>,
    foreign: BTreeMap<String, Foreign>,
    /// Since when nothing but listening holds us back from serving.
    candidate_since: Option<Time>,
    link_up: bool,
    /// No living peer expires before this.
    next_expiry: Time,
    view: Option<View>,
    /// Something may have changed besides the peers' views, claims and answers. If not, a step need not look
    /// at all of them again; with hundreds of hosts that look would be all that is done.
    stirred: bool,
    /// So may the peers' views and answers.
    agreement_stale: bool,
    /// When a frame of others was last received by the service device; time that we slept through moves it on.
    ears: Time,
    /// No frame has been heard in this life.
    deaf: bool,
    /// Something has changed that the view depends on.
    view_stale: bool,
    /// The number of our first report that carries `view`.
    view_seq: u64,
    agreed: bool,
    #[serde(skip)]
    tables: Tables,

    /// What the kernel may hold: never less than it does.
    held: Holdings,
    /// What the kernel certainly accepts from who relays it to us: never more than it does.
    ready: Claims,
    pending: Option<Pending>,
    change_id: u64,
    retry_at: Option<Time>,
    /// The kernel refused a change: what it holds is unknown, so the next one is sent in any case.
    refused: bool,
    /// Something has changed that the hand-over depends on.
    moves_stale: bool,
    /// The number of our first report that claims nothing after a leave.
    empty_seq: Option<u64>,
    /// Until when slices wait for their new owners to get ready.
    patient_until: Option<Time>,
    /// Of what we send on, what somebody has been heard to claim since: it is not ours to decide about any more.
    handed: Claims,
    /// Until when we go on sending that on.
    relay_until: Option<Time>,
    /// Whether that time has not come yet.
    relays_on: bool,
    connections: Connections,
    orphans: Orphans,
    drained: BTreeSet<String>,
    staged: Option<Box<Staged>>,
    /// By which definition we ran before this one, and until when; for an expiry.
    left_definition: Option<(DefinitionId, Time)>,
    remembered: Option<Box<Memory>>,

    lease: lease::Lease,
    voice: Voice,
    last_step: Time,
    next_heartbeat: Time,
    actions: VecDeque<Action>,
    #[cfg(feature = "mutations")]
    #[serde(skip)]
    mutation: Option<Mutation>,
}

impl Node {
    /// A host that starts now, with [`Partition::Serve`]. `incarnation` must be greater than that of any
    /// earlier life of this host; if peers know better, the node picks a greater one itself.
    ///
    /// `me` must be one of `cluster.hosts`; a host that is not has weight 0.
    pub fn new(me: &str, cluster: Cluster, timing: Timing, incarnation: u64, now: Time) -> Self {
        Self::with_partition(me, cluster, timing, Partition::Serve, incarnation, now)
    }

    /// The same, with a choice of what to do when the cluster falls apart. All hosts must choose alike, so
    /// the choice belongs into the definition's digest.
    pub fn with_partition(
        me: &str,
        cluster: Cluster,
        timing: Timing,
        partition: Partition,
        incarnation: u64,
        now: Time,
    ) -> Self {
        let services = cluster.services.iter().cloned().collect();
        let follow = Follow { services, drain_timeout: DRAIN_TIMEOUT };
        let start = Start {
            host: me.into(),
            mac: [0; 6],
            cluster,
            timing,
            partition,
            follow,
            incarnation,
            leftover: Holdings::new(),
            lease_until: None,
            memory: None,
        };
        Self::start(start, now)
    }

    /// A host that starts now.
    pub fn start(start: Start, now: Time) -> Self {
        let Start { host: me, mac, cluster, timing, partition, follow, incarnation, mut leftover, .. } =
            start;
        for held in leftover.values_mut() {
            // The lists were the last agent's to know.
            held.heir = SliceSet::new();
            held.listed.clear();
        }
        let mut node = Node {
            weight: cluster.hosts.get(&me).copied().unwrap_or(0),
            me,
            mac,
            voice: Voice::new(cluster.hosts.len()),
            cluster,
            timing,
            partition,
            stamp: Stamp { incarnation, seq: 0 },
            phase: Phase::Starting,
            hold: None,
            name_conflicts: 0,
            peers: BTreeMap::new(),
            strangers: BTreeMap::new(),
            foreign: BTreeMap::new(),
            candidate_since: None,
            link_up: true,
            next_expiry: now,
            stirred: true,
            agreement_stale: true,
            ears: now,
            deaf: false,
            view: None,
            view_stale: true,
            view_seq: 0,
            agreed: false,
            tables: Tables::default(),
            held: leftover,
            ready: Claims::new(),
            pending: None,
            change_id: 0,
            retry_at: None,
            refused: false,
            moves_stale: true,
            empty_seq: None,
            patient_until: None,
            handed: Claims::new(),
            relay_until: None,
            relays_on: false,
            connections: Connections::new(follow),
            orphans: Orphans::default(),
            drained: BTreeSet::new(),
            staged: None,
            left_definition: None,
            remembered: None,
            lease: lease::Lease::default(),
            last_step: now,
            next_heartbeat: now,
            actions: VecDeque::new(),
            #[cfg(feature = "mutations")]
            mutation: None,
        };
        match start.memory {
            Some(memory) if node.can_go_on(now, &memory, start.lease_until) => {
                node.go_on(now, *memory, start.lease_until);
            }
            _ => node.begin(now, incarnation),
        }
        node
    }

    /// Leaves out one rule from now on. To be called right after the node was made.
    #[cfg(feature = "mutations")]
    pub fn break_rule(&mut self, rule: Mutation) {
        self.mutation = Some(rule);
        if rule == Mutation::NoIncarnations {
            self.stamp.incarnation = 0;
        }
    }

    /// Whether a rule is to be left out; never, but in a simulator.
    #[cfg_attr(not(feature = "mutations"), allow(clippy::unused_self))]
    fn broken(&self, _rule: Broken) -> bool {
        #[cfg(feature = "mutations")]
        return self.mutation == Some(_rule);
        #[cfg(not(feature = "mutations"))]
        false
    }

    /// Takes one input at `now`, which must not run backwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        let gap = now.since(self.last_step);
        self.stirred |= now >= self.next_deadline()
            || !self.strangers.is_empty()
            || self.other_version().next().is_some()
            || self.left_definition.is_some()
            || !matches!(input, Input::Heard(_) | Input::Sent { .. });
        self.last_step = now;
        self.guard(now, gap);
        self.excuse(gap);
        match input {
            Input::Tick => {}
            Input::Frame => self.hear_frame(now),
            Input::Renewed { until } => self.lease.renewed(until),
            Input::Heard(report) => self.hear(now, report),
            Input::Sent { at } => self.lease.sent(at),
            Input::Committed { change, ok } => self.committed(now, change, ok),
            Input::Stranger { host } => {
                self.strangers.insert(host, now);
            }
            Input::OtherVersion { host, stamp, part, newer } => {
                self.hear_foreign(now, host, stamp, part, newer);
            }
            Input::Link { up } => self.link(now, up),
            Input::Leave => self.leave(now),
            Input::Drain { service } => self.drain(service),
            Input::Resume { service } => self.resume(service),
            Input::Weight(weight) => self.change_weight(weight),
            Input::Stage(staged) => self.stage(*staged),
            Input::Looked(look) => self.looked(&look),
            Input::Listed { host, round, slices } => self.take_list(host, round, &slices),
            Input::Mac(mac) => {
                if core::mem::replace(&mut self.mac, mac) != mac {
                    self.voice.tell_all();
                }
            }
        }
        self.step(now);
        self.speak();
    }

    /// The next thing to do, in order; `None` when all is done until the next input.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to feed [`Input::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Time {
        let phase = match self.phase {
            Phase::Joining { since } => Some(since + self.listening()).filter(|&t| t > self.last_step),
            Phase::Leaving { since } => Some(since + self.leave_limit()).filter(|&t| t > self.last_step),
            Phase::Left => return self.next_heartbeat,
            Phase::Starting | Phase::Serving => None,
        };
        let lapse = self.lease_end().filter(|&t| t > self.last_step);
        let not_alone = self.peers.values().any(|p| p.alive);
        let expiry = Some(self.next_expiry).filter(|_| not_alone);
        let deaf = Some(self.ears + self.timing.silence());
        let deaf = deaf.filter(|&t| not_alone && self.serves() && t > self.last_step);
        let relays = self.relay_until.filter(|&t| t > self.last_step);
        let lists = self.orphans.deadline().filter(|&t| t > self.last_step);
        let moves = [self.retry_at, self.patient_until, relays, lists, self.connections.deadline()];
        let all = [phase, lapse, expiry, deaf].into_iter().chain(moves);
        all.flatten().fold(self.next_heartbeat, Time::min)
    }

    /// The incarnation of this life.
    pub fn incarnation(&self) -> u64 {
        self.stamp.incarnation
    }

    /// Without its link a host reaches no client, and would be taken for alone when it comes back before
    /// the others are heard: so it holds nothing, and joins as a newcomer when the link is back.
    fn link(&mut self, now: Time, up: bool) {
        if self.link_up == up {
            return;
        }
        self.link_up = up;
        match self.phase {
            Phase::Serving | Phase::Leaving { .. } => self.start_over(now),
            Phase::Joining { .. } => self.listen(now),
            Phase::Starting | Phase::Left => {}
        }
    }

    /// Starts over if this process has missed its time: its lease has run out, and somebody may be taking
    /// over at this moment.
    fn guard(&mut self, now: Time, gap: Duration) {
        let stalled = gap > self.timing.stall() && self.phase != Phase::Left;
        if !stalled && !self.lease_lapsed(now) || self.broken(Broken::NoGuards) {
            return;
        }
        let gap_ms = gap.as_millis() as u64;
        self.note(if stalled { Event::Stalled { gap_ms } } else { Event::LeaseLapsed });
        self.start_over(now);
    }

    /// Ends this life at once and begins another one; who was leaving has left.
    fn start_over(&mut self, now: Time) {
        match self.phase {
            Phase::Leaving { .. } => self.stop(),
            _ => self.begin(now, self.stamp.incarnation + 1),
        }
    }

    /// Starts a life: empties the kernel of all but connections, which wait for a lease of the new life;
    /// forgets the peers, says nothing yet.
    fn begin(&mut self, now: Time, incarnation: u64) {
        let incarnation = if self.broken(Broken::NoIncarnations) { 0 } else { incarnation };
        self.stamp = Stamp { incarnation, seq: 0 };
        self.phase = Phase::Starting;
        self.hold = None;
        self.candidate_since = None;
        self.forget_peers();
        self.stirred = true;
        self.view = None;
        self.view_stale = true;
        self.agreed = false;
        self.empty_seq = None;
        self.patient_until = None;
        self.orphans.begin();
        self.lease = lease::Lease::default();
        self.deaf = self.cluster.hosts.len() > 1;
        self.voice.hush();
        self.next_heartbeat = now + self.timing.heartbeat;
        self.remember();
        self.apply(self.only_connections());
        self.note(Event::Started { incarnation });
    }

    /// Everything that follows from the time and from what is known.
    fn step(&mut self, now: Time) {
        let beat = now >= self.next_heartbeat;
        if beat {
            self.next_heartbeat = now + self.timing.heartbeat;
        }
        self.expire(now);
        self.try_to_change();
        self.stirred |= self.view_stale;
        self.agreement_stale |= self.stirred;
        if self.end_deaf_life(now) {
            return;
        }
        let before = self.phase;
        match self.phase {
            Phase::Starting => return self.retry(now),
            Phase::Left => return,
            Phase::Joining { since } => self.try_to_serve(now, since),
            Phase::Serving if self.stirred => {
                if self.yield_to_other_definition(now) || self.yield_to_newer_version(now) {
                    return;
                }
            }
            Phase::Serving | Phase::Leaving { .. } => {}
        }
        self.update_view();
        if beat {
            self.voice.beat();
            if self.cluster.hosts.len() == 1 {
                // Nobody to send to, so nobody who could take over: the heartbeat is the step itself.
                self.lease.sent(now);
            }
        }
        self.renew_lease(now);
        self.hand_over(now, beat);
        if self.orphans.deadline().is_some_and(|at| now >= at) {
            self.ask_for_lists(now);
        }
        self.stirred = self.phase != before;
        self.agreement_stale = false;
        if let Phase::Leaving { since } = self.phase {
            self.try_to_stop(now, since);
        }
    }

    fn try_to_serve(&mut self, now: Time, since: Time) {
        match self.reason_to_hold(now, since) {
            Some(hold) => {
                self.candidate_since = match hold {
                    Hold::Listening { .. } => self.candidate_since.or(Some(now)),
                    _ => None,
                };
                if self.hold.as_ref() != Some(&hold) {
                    self.note(Event::Holding { why: hold.clone() });
                    self.hold = Some(hold);
                }
            }
            None => {
                self.hold = None;
                self.candidate_since = None;
                self.miss(now);
                self.phase = Phase::Serving;
                self.view_stale = true;
                (self.stirred, self.agreement_stale) = (true, true);
            }
        }
    }

    fn leave(&mut self, now: Time) {
        match self.phase {
            Phase::Serving => {
                self.note(Event::Leaving);
                self.phase = Phase::Leaving { since: now };
                self.view_stale = true;
            }
            Phase::Starting | Phase::Joining { .. } => self.stop(),
            Phase::Leaving { .. } | Phase::Left => {}
        }
    }

    /// Leaves for good once nothing is claimed and everyone who lives has heard so and taken over.
    fn try_to_stop(&mut self, now: Time, since: Time) {
        let empty = self.claims_nothing();
        if empty && self.empty_seq.is_none() {
            self.empty_seq = Some(self.stamp.seq + 1);
            self.voice.tell_all();
        }
        let taken_over = || self.empty_seq.is_some_and(|seq| self.everyone_heard(seq)) && self.all_claimed();
        let lived_out = self.lived_out();
        if lived_out && (now.since(since) >= self.leave_limit() || taken_over()) {
            self.stop();
        }
    }

    /// A leave that nobody answers ends after two expiries: long enough for a death in its midst.
    fn leave_limit(&self) -> Duration {
        self.timing.expiry() * 2
    }

    /// Ends. Whoever still holds something goes without a word: the others must wait for its lease.
    fn stop(&mut self) {
        let in_order = self.claims_nothing() && self.lived_out();
        self.phase = Phase::Left;
        self.voice.hush();
        if in_order {
            self.publish(Recipients::All);
        }
        self.note(Event::Left);
        self.actions.push_back(Action::Stop);
    }

    /// Whether our kernel certainly accepts nothing. While a life starts nobody knows: its kernel may
    /// still hold what an earlier life left there.
    fn claims_nothing(&self) -> bool {
        self.phase != Phase::Starting
            && self.pending.is_none()
            && self.held.values().all(|h| h.accepted.is_empty() && h.all_relayed().is_empty())
    }

    /// Whether no connections of slices that have moved on may live here.
    fn lived_out(&self) -> bool {
        self.pending.is_none() && self.held.values().all(|h| h.connections().is_empty())
    }

    /// Whether this phase may hold slices.
    fn serves(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Leaving { .. })
    }

    fn note(&mut self, event: Event) {
        self.actions.push_back(Action::Note(event));
    }
}
