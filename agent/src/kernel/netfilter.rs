//! The rules, and the thread that owns the netfilter socket.
//!
//! The thread keeps what it last asked of the kernel. If a change fails, or somebody else has committed
//! and our rules are no longer what they were (`nft flush ruleset`), it installs everything anew. If that
//! fails too, it fails closed: it takes the shared device down, before it says a word to anybody.

use std::collections::BTreeSet;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mnl::{Bus, Socket};
use onemac_core::time::Time;
use onemac_rules::netlink::{Error, Netfilter as Rules, Renewed};
use onemac_rules::{ELSEWHERE_MAX, Lease, Service, Standing, Token, Wanted, ruleset};
use tokio::sync::{Notify, mpsc as answers, oneshot};

use super::gate::Gate;
use super::standings::{Found, holdings};
use crate::clock;
use crate::failure::{Failure, Result};
use crate::random;
use crate::warnings::Warnings;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h as a mask: told of every committed change.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);

/// Key of the warning about renewals of the lease.
const RENEWAL: &str = "renewal";
/// So many renewals in a row that are transactions are no accident.
const COMMITS: u32 = 10;

/// A handle on the thread. Dropping it ends the thread and leaves the rules.
pub struct Netfilter {
    requests: mpsc::Sender<Request>,
    turned: Arc<Notify>,
}

/// Whether the rules stand.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Why the kernel does not hold what is wanted; none: it does.
    pub refused: Option<String>,
    /// How often somebody else's changes were put right.
    pub repairs: u64,
}

/// What the thread says of what it was asked for, in the order in which it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The kernel does what this change wants, or does not.
    Committed {
        /// Which one.
        change: u64,
        /// Whether it does.
        ok: bool,
    },
    /// The kernel has the lease, which runs until then for certain.
    Renewed {
        /// By the clock of the protocol.
        until: Time,
    },
}

/// What the thread shares with others.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The shared device.
    pub gate: Gate,
    /// Where to say what is wrong.
    pub warnings: Warnings,
    /// Told when the rules begin or cease to stand, or were put right.
    turned: Arc<Notify>,
    /// Somebody has committed something, and the look at it is on its way.
    news: Arc<AtomicBool>,
}

impl Shared {
    /// With this gate.
    pub fn new(gate: Gate, warnings: Warnings) -> Self {
        Shared { gate, warnings, turned: Arc::default(), news: Arc::default() }
    }
}

enum Request {
    /// Do this with slices until then, and say [`Said::Committed`].
    Change {
        change: u64,
        services: Vec<Service>,
        elsewhere: BTreeSet<(IpAddr, u16)>,
        lease_until: Option<Time>,
    },
    /// Other addresses and services; what is known of slices stays.
    Rebase { wanted: Box<Wanted>, done: oneshot::Sender<bool> },
    /// These devices are inside.
    Inside(BTreeSet<u32>),
    /// Answer when all that was asked before is done.
    Finish { done: oneshot::Sender<()> },
    /// Go on accepting until then.
    Renew { lease_until: Time },
    /// Are our rules as they should be? Asked for by `done`, or because somebody has committed something.
    Look { done: Option<oneshot::Sender<Seen>> },
    /// Bring the shared device up, if the rules stand.
    Open { done: oneshot::Sender<std::result::Result<(), String>> },
    /// Remove our tables and end.
    Remove { done: oneshot::Sender<std::result::Result<bool, Error>> },
}

impl Netfilter {
    /// Installs the rules for `wanted` and starts the thread. With `take_over`, what an earlier run's rules do
    /// with slices goes on, and is returned. What the thread says later is never lost and never waited for.
    pub async fn install(
        wanted: Wanted,
        take_over: bool,
        shared: Shared,
    ) -> Result<(Self, Found, answers::UnboundedReceiver<Said>)> {
        let turned = Arc::clone(&shared.turned);
        let (say, said) = answers::unbounded_channel();
        let news = Arc::clone(&shared.news);
        let (requests, inbox) = mpsc::channel();
        let (done, installed) = oneshot::channel();
        let spawned = thread::Builder::new().name("netfilter".into()).spawn(move || {
            let (mut state, found) = match State::open(wanted, take_over, shared) {
                Ok(opened) => opened,
                Err(error) => return drop(done.send(Err(error))),
            };
            if done.send(Ok(found)).is_ok() {
                state.serve(&inbox, &say);
            }
        });
        spawned.map_err(|e| Failure::failed(format_args!("cannot start the netfilter thread: {e}")))?;
        let found = installed.await.map_err(|_| thread_gone())?.map_err(Failure::failed)?;
        watch(requests.clone(), news);
        Ok((Netfilter { requests, turned }, found, said))
    }

    /// Makes the kernel do exactly this with slices until `lease_until`; as heir of some of them it is silent to
    /// these clients. [`Said::Committed`] tells whether it does.
    pub fn change(
        &self,
        change: u64,
        services: Vec<Service>,
        elsewhere: BTreeSet<(IpAddr, u16)>,
        lease_until: Option<Time>,
    ) {
        let _ = self.requests.send(Request::Change { change, services, elsewhere, lease_until });
    }

    /// Replaces the rules by those for other addresses and services. What becomes of the slices of services
    /// that stay, and the lease, stay.
    pub async fn rebase(&self, wanted: Wanted) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Rebase { wanted: Box::new(wanted), done });
        match answer.await.map_err(|_| thread_gone())? {
            true => Ok(()),
            false => Err(Failure::failed("the kernel refused the rules of the new definition; see above")),
        }
    }

    /// A way to say which devices are inside, see [`Wanted::inside`]; false when the thread has ended.
    pub fn insider(&self) -> impl Fn(BTreeSet<u32>) -> bool + Send + use<> {
        let requests = self.requests.clone();
        move |devices| requests.send(Request::Inside(devices)).is_ok()
    }

    /// Looks whether the rules stand, and puts them right if they do not.
    pub async fn look(&self) -> Result<Seen> {
        let (done, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Look { done: Some(done) });
        answer.await.map_err(|_| thread_gone())
    }

    /// Brings the shared device up, unless the rules do not stand.
    pub async fn open(&self) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Open { done });
        answer.await.map_err(|_| thread_gone())?.map_err(Failure::failed)
    }

    /// Waits until the rules have begun or ceased to stand, or were put right.
    pub async fn turned(&self) {
        self.turned.notified().await;
    }

    /// Waits until the kernel has done all that it was asked for.
    pub async fn finish(&self) {
        let (done, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Finish { done });
        let _ = answer.await;
    }

    /// Lets the kernel accept until `lease_until`. [`Said::Renewed`] tells if it does.
    pub fn renew(&self, lease_until: Time) {
        let _ = self.requests.send(Request::Renew { lease_until });
    }

    /// Removes the rules and ends the thread.
    pub async fn remove(&self) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Remove { done });
        answer.await.map_err(|_| thread_gone())?.map(drop).map_err(Failure::failed)
    }
}

/// Removes the rules that a dead agent left; whether there were any.
pub async fn remove_left_over() -> Result<bool> {
    let removed = tokio::task::spawn_blocking(|| Rules::open()?.remove()).await;
    removed.map_err(|_| thread_gone())?.map_err(Failure::failed)
}

/// Tells the thread, from another one, of every change to any rules on this host.
fn watch(requests: mpsc::Sender<Request>, news: Arc<AtomicBool>) {
    let watcher = move || -> std::io::Result<()> {
        let socket = Socket::open(Bus::Netfilter)?;
        socket.bind(NFTABLES_GROUP, 0)?;
        // Aligned for message headers; what is in them does not matter.
        let mut buffer = vec![0u64; 8 * 1024];
        // SAFETY: the slice covers exactly the vector's initialised elements, u8 has no alignment and no
        // invalid values, and the vector is not used otherwise while the slice lives.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), buffer.len() * 8) };
        loop {
            // An overrun (ENOBUFS) is news as well: something was committed.
            let _ = socket.recv_raw(bytes);
            // One look sees all that was committed before it; renewals must not wait behind a thousand.
            if !news.swap(true, Ordering::AcqRel) && requests.send(Request::Look { done: None }).is_err() {
                return Ok(());
            }
        }
    };
    let spawned = thread::Builder::new().name("netfilter-watch".into()).spawn(move || {
        if let Err(error) = watcher() {
            tracing::warn!("cannot watch for changes to the rules, looking at every renewal only: {error}");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!("cannot start the thread that watches the rules: {error}");
    }
}

fn thread_gone() -> Failure {
    Failure::failed("the netfilter thread has ended unexpectedly")
}

struct State {
    rules: Rules,
    wanted: Wanted,
    /// What of [`Wanted::elsewhere`] is to stay when the lease is next renewed. A packet that is on its way as for an
    /// heir must still find the rest.
    stays: Option<BTreeSet<(IpAddr, u16)>>,
    lease_until: Option<Time>,
    /// Until when the lease certainly runs that the kernel was just found to have; not yet told.
    stands: Option<Time>,
    /// Why the kernel has refused the rules: what it has is not what is wanted.
    refused: Option<String>,
    repairs: u64,
    /// How many renewals without a gap were transactions.
    commits: u32,
    shared: Shared,
    /// Wall clock minus monotonic clock in nanoseconds when it was last looked at.
    clock_offset: i128,
}

impl State {
    fn open(
        mut wanted: Wanted,
        take_over: bool,
        shared: Shared,
    ) -> std::result::Result<(Self, Found), Error> {
        let mut rules = Rules::open()?;
        let left = if take_over { rules.standings()? } else { None };
        let mut found = Found::default();
        let left_lease = left.as_ref().and_then(|left| left.lease);
        // Of rules without a running lease, such as a saved file brings at boot, somebody may know the token.
        let token = left.as_ref().filter(|left| left.lease.and_then(end_of).is_some());
        wanted.token = token.and_then(|left| left.token).unwrap_or_else(random_token);
        if let Some(left) = left {
            let slices =
                left.services.iter().filter(|(name, _)| wanted.services.iter().any(|s| s.name == **name));
            found = Found { slices: holdings(slices), lease_until: left.lease.and_then(end_of) };
            wanted.elsewhere = left.elsewhere;
            for service in &mut wanted.services {
                service.slices = left.services.get(&service.name).cloned().unwrap_or_default();
                // What is on the earlier agent's list this one does not know.
                for standing in service.slices.values_mut().filter(|s| **s == Standing::Heir) {
                    *standing = Standing::Shared;
                }
            }
        }
        let lease_until = found.lease_until;
        let stays = Some(BTreeSet::new()).filter(|_| !wanted.elsewhere.is_empty());
        let (refused, repairs, commits, clock_offset) = (None, 0, 0, clock_offset());
        let stands = None;
        let mut state = State {
            rules,
            wanted,
            stays,
            lease_until,
            stands,
            refused,
            repairs,
            commits,
            shared,
            clock_offset,
        };
        // What is as it is wanted stays untouched.
        state.wanted.lease = left_lease.filter(|_| lease_until.is_some());
        if left_lease.is_some() && state.rules.verify(&ruleset(&state.wanted))?.is_empty() {
            return Ok((state, found));
        }
        state.wanted.lease = state.lease();
        state.rules.install(&ruleset(&state.wanted))?;
        Ok((state, found))
    }

    fn serve(&mut self, inbox: &mpsc::Receiver<Request>, say: &answers::UnboundedSender<Said>) {
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Change { change, services, elsewhere, lease_until } => {
                    let ok = self.change(services, elsewhere, lease_until);
                    let _ = say.send(Said::Committed { change, ok });
                }
                Request::Rebase { wanted, done } => drop(done.send(self.rebase(*wanted))),
                Request::Inside(devices) => {
                    self.wanted.inside = devices;
                    // Only what differs is touched.
                    self.install();
                }
                Request::Finish { done } => drop(done.send(())),
                Request::Renew { lease_until } => self.renew(lease_until),
                Request::Look { done } => {
                    self.shared.news.store(false, Ordering::Release);
                    self.look();
                    if let Some(done) = done {
                        let _ = done.send(Seen { refused: self.refused.clone(), repairs: self.repairs });
                    }
                }
                Request::Open { done } => drop(done.send(self.open_gate())),
                Request::Remove { done } => return drop(done.send(self.rules.remove())),
            }
            if let Some(until) = self.stands.take() {
                let _ = say.send(Said::Renewed { until });
            }
        }
    }

    fn rebase(&mut self, mut wanted: Wanted) -> bool {
        for service in &mut wanted.services {
            if let Some(known) = self.wanted.services.iter().find(|s| s.name == service.name) {
                service.slices = known.slices.clone();
            }
        }
        wanted.elsewhere = std::mem::take(&mut self.wanted.elsewhere);
        wanted.token = self.wanted.token;
        wanted.inside = std::mem::take(&mut self.wanted.inside);
        self.wanted = wanted;
        self.install()
    }

    fn change(
        &mut self,
        services: Vec<Service>,
        elsewhere: BTreeSet<(IpAddr, u16)>,
        lease_until: Option<Time>,
    ) -> bool {
        let from = self.wanted.clone();
        (self.wanted.services, self.wanted.elsewhere) = (services, elsewhere);
        self.stays = None;
        self.lease_until = lease_until;
        let Some(lease) = self.lease() else {
            // No lease: the rules are replaced by such without one.
            return self.install();
        };
        if self.refused.is_some() {
            return self.install();
        }
        self.wanted.lease = Some(lease);
        let both: BTreeSet<_> = self.wanted.elsewhere.union(&from.elsewhere).copied().collect();
        if both.len() > self.wanted.elsewhere.len() && both.len() <= ELSEWHERE_MAX {
            self.stays = Some(std::mem::replace(&mut self.wanted.elsewhere, both));
        }
        match self.rules.change(&from, &self.wanted) {
            Ok(()) => {
                self.lease_stands();
                true
            }
            Err(error) => self.repair(&error),
        }
    }

    /// The kernel has just been found to hold what is wanted, the lease among it.
    fn lease_stands(&mut self) {
        let Wanted { lease, longest_lease, .. } = self.wanted;
        self.stands = lease.zip(self.lease_until).map(|(lease, until)| until - lease.early(longest_lease));
    }

    fn renew(&mut self, lease_until: Time) {
        self.lease_until = Some(lease_until);
        self.notice_clock_steps();
        // A lease that is over before it is written is not written.
        let Some(lease) = self.lease() else { return };
        if self.refused.is_some() {
            // Not before the rules are what they should be: a lease would go on with what they are.
            self.install();
            return;
        }
        self.wanted.lease = Some(lease);
        let renewed = match self.stays.take() {
            Some(stays) => {
                let to = Wanted { elsewhere: stays, ..self.wanted.clone() };
                let from = std::mem::replace(&mut self.wanted, to);
                self.rules.change(&from, &self.wanted)
            }
            None => self.rules.renew(&self.wanted).map(|renewed| self.tell_how(renewed)),
        };
        match renewed {
            Ok(()) => self.lease_stands(),
            // Nothing comes in either, and the rules are what they were.
            Err(error @ Error::DeviceDown { .. }) => {
                self.shared.warnings.raise(RENEWAL, error.to_string(), "nothing is answered until then");
            }
            Err(error) => drop(self.repair(&error)),
        }
    }

    /// A transaction now and then is nothing to speak of: the wall clock was set, or a lease was cut short.
    fn tell_how(&mut self, renewed: Renewed) {
        self.commits = if renewed == Renewed::ByCommit { self.commits + 1 } else { 0 };
        if self.commits < COMMITS {
            self.shared.warnings.clear(RENEWAL);
            return;
        }
        let what = format!(
            "each renewal of the lease is an nftables transaction: frames that this host sends itself on {} do not \
             pass the rules of table netdev onemac",
            self.wanted.device
        );
        let advice = "other users of nftables wait while we renew: look for other programs' egress chains on that \
                      device (`nft list hooks`)";
        self.shared.warnings.raise(RENEWAL, what, advice);
    }

    fn look(&mut self) {
        if self.refused.is_some() {
            self.install();
            return;
        }
        if !self.rules.disturbed().unwrap_or(true) {
            return;
        }
        if self.rules.are_gone().unwrap_or(false) {
            // And with them the mask: what the shared device says before they are back would teach the switch where
            // the cluster MAC is, and one host would get every frame for minutes.
            let shut = self.shared.gate.shut();
            tracing::warn!("the rules were removed by somebody else; putting them back");
            if self.put_right() && shut.is_ok() && self.shared.gate.open().is_err() {
                self.shared.turned.notify_one();
            }
            return;
        }
        // Compared with the lease that was last written; that its element has expired is no difference.
        match self.rules.verify(&ruleset(&self.wanted)) {
            Ok(differences) => {
                if let Some(difference) = differences.first() {
                    tracing::warn!(
                        "the rules were changed by somebody else: {difference}; putting them back"
                    );
                    self.put_right();
                }
            }
            // Others commit all the time: nothing says that ours is not as it was, and it is looked at again.
            Err(Error::Unsteady { .. }) => {}
            Err(error) => drop(self.repair(&error)),
        }
    }

    /// After a failure nothing is known: everything is installed anew.
    fn repair(&mut self, error: &Error) -> bool {
        tracing::warn!("{error}; installing the rules anew");
        self.put_right()
    }

    fn put_right(&mut self) -> bool {
        self.repairs += 1;
        // While the rules were gone a renewal may have left as a frame, for all to read.
        self.wanted.token = random_token();
        let done = self.install();
        self.shared.turned.notify_one();
        done
    }

    /// Makes the kernel hold what is wanted, or takes the shared device down.
    fn install(&mut self) -> bool {
        self.wanted.lease = self.lease();
        let refused = self.rules.install(&ruleset(&self.wanted)).err().map(|error| error.to_string());
        let turns = refused.is_some() != self.refused.is_some();
        if let Some(why) = &refused {
            let gate = self.shared.gate.close(&self.wanted.vips);
            if let Err(error) = gate {
                tracing::error!(
                    "cannot take the shared device down although its rules do not stand: {error}"
                );
            }
            self.shared.warnings.raise(
                "rules",
                format!("the kernel does not hold this host's rules: {why}"),
                "the shared device is down until it does; the agent tries again every second",
            );
        } else {
            self.shared.warnings.clear("rules");
            self.lease_stands();
        }
        self.refused = refused;
        if turns {
            self.shared.turned.notify_one();
        }
        self.refused.is_none()
    }

    /// The rules are looked at once more: nothing opens on an old belief.
    fn open_gate(&mut self) -> std::result::Result<(), String> {
        self.look();
        match &self.refused {
            Some(why) => Err(why.clone()),
            None => {
                self.shared.gate.open().map_err(|error| format!("cannot bring the shared device up: {error}"))
            }
        }
    }

    /// What is left of the lease, by both clocks, at this moment.
    fn lease(&self) -> Option<Lease> {
        // In this order: a pause between the two makes the lease shorter.
        let unix_ns = clock::unix_ns();
        let left = self.lease_until?.since(clock::now());
        // The kernel counts whole milliseconds; rounding down is on the safe side.
        let timeout = Duration::from_millis(left.as_millis() as u64);
        let deadline_unix_ns = unix_ns.saturating_add(left.as_nanos() as u64);
        (!timeout.is_zero()).then_some(Lease { timeout, deadline_unix_ns })
    }

    /// A wall clock that was set forward ends leases early until the next renewal, which is this one; set
    /// back, it leaves them to the kernel's own count. Either is worth a line in the log.
    fn notice_clock_steps(&mut self) {
        let offset = clock_offset();
        let step_ms = (offset - self.clock_offset) / 1_000_000;
        if step_ms.abs() > 50 {
            tracing::warn!("the wall clock was set by {step_ms} ms");
        }
        self.clock_offset = offset;
    }
}

/// When a lease that was found ends, by the clock of the protocol: by the kernel's count or by the wall clock,
/// whichever comes first.
fn end_of(lease: Lease) -> Option<Time> {
    // In this order: a pause between the two makes the lease shorter.
    let now = clock::now();
    let by_wall = Duration::from_nanos(lease.deadline_unix_ns.saturating_sub(clock::unix_ns()));
    let left = lease.timeout.min(by_wall);
    (!left.is_zero()).then(|| now + left)
}

/// What nobody else on this host can guess.
fn random_token() -> Token {
    // Without it all is as it should be, except that root in a container on the service device might renew leases.
    Token::new(random::bytes().unwrap_or_else(|error| {
        tracing::warn!("{error}");
        [0; 8]
    }))
}

fn clock_offset() -> i128 {
    i128::from(clock::unix_ns()) - i128::from(clock::now().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_rules::MacAddr;

    /// A change that the kernel has refused, installing included, is not done by asking again.
    #[test]
    fn what_was_refused_is_not_done_by_asking_again() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let ip = std::process::Command::new("ip")
            .args(["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
            .status();
        assert!(ip.unwrap().success());
        let service = |own: &[u32]| {
            let mut service = Service::everything("default", true);
            service.slices = own.iter().map(|&slice| (slice, Standing::Own)).collect();
            vec![service]
        };
        let wanted = Wanted {
            device: "eth0".into(),
            device_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            shared: crate::kernel::SHARED_DEVICE.into(),
            second_mask: false,
            cluster_mac: MacAddr([2, 0xbf, 192, 0, 2, 53]),
            vips: vec!["192.0.2.53".parse().unwrap()],
            slices: 16,
            seed: 1,
            services: service(&[]),
            elsewhere: BTreeSet::new(),
            inside: Default::default(),
            gossip: None,
            lease: None,
            longest_lease: Duration::from_secs(60),
            token: Token::default(),
        };
        let (mut state, _) = State::open(wanted, false, Shared::default()).unwrap();
        let until = || Some(clock::now() + Duration::from_secs(60));
        assert!(state.change(service(&[1, 2]), BTreeSet::new(), until()));
        // More than the kernel takes stands here for any refusal.
        let many: BTreeSet<(IpAddr, u16)> = (0..=ELSEWHERE_MAX as u32)
            .map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 4000))
            .collect();
        assert!(!state.change(service(&[1]), many.clone(), until()));
        let again = state.change(service(&[1]), many, until());
        let held = state.rules.standings().unwrap().unwrap().services["default"].clone();
        assert!(!again || held.len() == 1, "said to be done, and the kernel has {held:?}");
    }
}
