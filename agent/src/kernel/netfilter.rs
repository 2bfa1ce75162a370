//! The rules, and the thread that owns the netfilter socket.
//!
//! The thread keeps what it last asked of the kernel. If a change fails, or somebody else has committed
//! and our rules are no longer what they were (`nft flush ruleset`), it installs everything anew.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mnl::{Bus, Socket};
use onemac_core::slices::SliceSet;
use onemac_core::time::Time;
use onemac_rules::netlink::{Error, Netfilter as Rules};
use onemac_rules::{Lease, Wanted, ruleset};
use tokio::sync::oneshot;

use crate::clock;
use crate::failure::{Failure, Result};

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h as a mask: told of every committed change.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);

/// A handle on the thread. Dropping it ends the thread and leaves the rules.
pub struct Netfilter {
    requests: mpsc::Sender<Request>,
}

enum Request {
    /// Accept these slices until then.
    Change { owned: SliceSet, lease_until: Option<Time>, done: oneshot::Sender<bool> },
    /// Go on accepting until then.
    Renew { lease_until: Time },
    /// Somebody has committed something: are our rules still there?
    Look,
    /// Remove our tables and end.
    Remove { done: oneshot::Sender<std::result::Result<bool, Error>> },
}

impl Netfilter {
    /// Installs the rules for `wanted` and starts the thread.
    pub async fn install(wanted: Wanted) -> Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let (done, installed) = oneshot::channel();
        let spawned = thread::Builder::new().name("netfilter".into()).spawn(move || {
            let mut state = match State::open(wanted) {
                Ok(state) => state,
                Err(error) => return drop(done.send(Err(error))),
            };
            if done.send(Ok(())).is_ok() {
                state.serve(&inbox);
            }
        });
        spawned.map_err(|e| Failure::failed(format_args!("can not start the netfilter thread: {e}")))?;
        installed.await.map_err(|_| thread_gone())?.map_err(Failure::failed)?;
        watch(requests.clone());
        Ok(Netfilter { requests })
    }

    /// Makes the kernel accept exactly `owned` until `lease_until`. The answer says whether it does.
    pub fn change(&self, owned: SliceSet, lease_until: Option<Time>) -> oneshot::Receiver<bool> {
        let (done, answer) = oneshot::channel();
        // If the thread is gone, so is `done`, and the answer is an error, which counts as a refusal.
        let _ = self.requests.send(Request::Change { owned, lease_until, done });
        answer
    }

    /// Lets the kernel accept until `lease_until`.
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
fn watch(requests: mpsc::Sender<Request>) {
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
            if requests.send(Request::Look).is_err() {
                return Ok(());
            }
        }
    };
    let spawned = thread::Builder::new().name("netfilter-watch".into()).spawn(move || {
        if let Err(error) = watcher() {
            tracing::warn!("can not watch for changes to the rules, looking at every renewal only: {error}");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!("can not start the thread that watches the rules: {error}");
    }
}

fn thread_gone() -> Failure {
    Failure::failed("the netfilter thread has ended unexpectedly")
}

struct State {
    rules: Rules,
    wanted: Wanted,
    lease_until: Option<Time>,
    /// Wall clock minus monotonic clock in nanoseconds when it was last looked at.
    clock_offset: i128,
}

impl State {
    fn open(wanted: Wanted) -> std::result::Result<Self, Error> {
        let mut rules = Rules::open()?;
        rules.install(&ruleset(&wanted))?;
        Ok(State { rules, wanted, lease_until: None, clock_offset: clock_offset() })
    }

    fn serve(&mut self, inbox: &mpsc::Receiver<Request>) {
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Change { owned, lease_until, done } => {
                    let _ = done.send(self.change(owned, lease_until));
                }
                Request::Renew { lease_until } => self.renew(lease_until),
                Request::Look => self.look(),
                Request::Remove { done } => return drop(done.send(self.rules.remove())),
            }
        }
    }

    fn change(&mut self, owned: SliceSet, lease_until: Option<Time>) -> bool {
        let to = self.wanted.services.iter().map(|service| service.owning(owned.iter())).collect();
        let from = std::mem::replace(&mut self.wanted.services, to);
        self.lease_until = lease_until;
        let Some(lease) = self.lease() else {
            // No lease: the rules are replaced by such without one.
            return self.install();
        };
        self.wanted.lease = Some(lease);
        let lease = Some((self.wanted.device.as_str(), lease));
        match self.rules.change(&from, &self.wanted.services, lease) {
            Ok(()) => true,
            Err(error) => self.repair(&error),
        }
    }

    fn renew(&mut self, lease_until: Time) {
        self.lease_until = Some(lease_until);
        self.notice_clock_steps();
        // A lease that is over before it is written is not written.
        let Some(lease) = self.lease() else { return };
        self.wanted.lease = Some(lease);
        if let Err(error) = self.rules.renew(&self.wanted.device, lease) {
            self.repair(&error);
        }
    }

    fn look(&mut self) {
        if !self.rules.disturbed().unwrap_or(true) {
            return;
        }
        // Compared with the lease that was last written; that its element has expired is no difference.
        match self.rules.verify(&ruleset(&self.wanted)) {
            Ok(differences) => {
                if let Some(difference) = differences.first() {
                    tracing::warn!(
                        "the rules were changed by somebody else: {difference}; putting them back"
                    );
                    self.install();
                }
            }
            Err(error) => drop(self.repair(&error)),
        }
    }

    /// After a failure nothing is known: everything is installed anew.
    fn repair(&mut self, error: &Error) -> bool {
        tracing::warn!("{error}; installing the rules anew");
        self.install()
    }

    fn install(&mut self) -> bool {
        self.wanted.lease = self.lease();
        match self.rules.install(&ruleset(&self.wanted)) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        }
    }

    /// What is left of the lease, by both clocks, at this moment.
    fn lease(&self) -> Option<Lease> {
        let left = self.lease_until?.since(clock::now());
        // The kernel counts whole milliseconds; rounding down is on the safe side.
        let timeout = Duration::from_millis(left.as_millis() as u64);
        let deadline_unix_ns = clock::unix_ns().saturating_add(left.as_nanos() as u64);
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

fn clock_offset() -> i128 {
    i128::from(clock::unix_ns()) - i128::from(clock::now().0)
}
