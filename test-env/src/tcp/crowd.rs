//! Many connections that last: one thread keeps them all.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::PORT;
use super::connection::{Connection, Seen};
use super::report::Report;
use super::socket::make_room;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::numbered::{BEFORE_AGENTS, be_urgent};
use crate::topology::{addr, client_v4, client_v6};
use crate::wait::poll_until;

/// So often the thread sends what is due and takes what has come. A gap is seen to within this.
const STEP: Duration = Duration::from_millis(1);
/// What a thread that was kept waiting makes up for; the rest of the missed bytes is not sent.
const CATCH_UP: Duration = Duration::from_millis(20);
/// So often it looks when segments were sent.
const WATCH: Duration = Duration::from_millis(20);
/// So many may be connecting at a time: fewer than any queue on their way holds.
const CONNECTING: usize = 50;
/// Within this all are connected, or closed. A SYN that was lost four times is sent again within it.
const OPEN: Duration = Duration::from_secs(60);

/// How many connections, and how busy each is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections; every second one is IPv6.
    pub connections: usize,
    /// Client addresses of each family, among which they are divided; 1,022 at most.
    pub addresses: u16,
    /// Between two bytes on a connection.
    pub every: Duration,
    /// A connection that has waited longer counts as stalled.
    pub patience: Duration,
}

impl Load {
    /// 2,000 connections from 500 addresses of each family, a byte each way every 100 ms, stalled after 5 s.
    pub const USUAL: Self = Self {
        connections: 2000,
        addresses: 500,
        every: Duration::from_millis(100),
        patience: Duration::from_secs(5),
    };

    /// The same with so many connections.
    #[must_use]
    pub fn of(connections: usize) -> Self {
        Self { connections, ..Self::USUAL }
    }
}

/// Connections from the clients' namespace to the shared addresses. Dropping it breaks them all.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Mutex<State>>,
    patience: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// One in each slot; the slot's number says by which family and from which address.
    connections: Vec<Connection>,
    /// Slots that are to be filled.
    missing: Vec<usize>,
    /// What became of connections whose slots were filled again.
    gone: Vec<Seen>,
    closing: bool,
    stop: bool,
    /// Why the thread had to give up.
    failed: Option<String>,
}

impl Crowd {
    /// Opens `count` connections as [`Load::of`] has them. Every host needs its [`super::EchoServer`].
    ///
    /// # Errors
    /// When not all are connected and answered within a minute.
    pub fn open(lab: &Lab, count: usize) -> Result<Self> {
        Self::open_with(lab.clients(), Load::of(count))
    }

    /// The same with another load.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(clients: &Netns, load: Load) -> Result<Self> {
        ensure!(load.connections > 0 && load.addresses > 0, "a crowd of nobody");
        // Clients and servers are in this process, and some are replaced.
        make_room(3 * load.connections)?;
        let state = State { missing: (0..load.connections).rev().collect(), ..State::default() };
        let shared = Arc::new(Mutex::new(state));
        let thread = thread::Builder::new().name("crowd".to_owned()).spawn({
            let (shared, netns) = (Arc::clone(&shared), clients.clone());
            move || {
                if let Err(error) = keep(&netns, load, &shared) {
                    lock(&shared).failed = Some(format!("{error:#}"));
                }
            }
        })?;
        let crowd = Self { shared, patience: load.patience, thread: Some(thread) };
        crowd.wait_open().context("the crowd did not come together")?;
        crowd.report().ensure_unbroken("at the start")?;
        Ok(crowd)
    }

    /// Waits until no connection is being opened.
    fn wait_open(&self) -> Result<()> {
        let opened = poll_until(OPEN, || {
            let state = lock(&self.shared);
            let ready = state.missing.is_empty() && state.connections.iter().all(|one| !one.is_opening());
            Ok(ready || state.failed.is_some())
        });
        self.ensure_kept()?;
        opened.map(drop).with_context(|| self.report().to_string())
    }

    fn ensure_kept(&self) -> Result<()> {
        match &lock(&self.shared).failed {
            Some(error) => Err(anyhow!("the crowd's thread gave up: {error}")),
            None => Ok(()),
        }
    }

    /// All connections as they are now, those that have ended too.
    #[must_use]
    pub fn connections(&self) -> Vec<Seen> {
        let state = lock(&self.shared);
        let now = Instant::now();
        let present = state.connections.iter().map(|connection| connection.seen(now));
        state.gone.iter().cloned().chain(present).collect()
    }

    /// The same, counted.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::of(&self.connections(), self.patience)
    }

    /// The longest time without an answer that any living connection has had since this was last asked.
    #[must_use]
    pub fn take_longest_gap(&self) -> Duration {
        let mut state = lock(&self.shared);
        let now = Instant::now();
        let gaps = state.connections.iter_mut().map(|connection| connection.take_longest_lately(now));
        gaps.max().unwrap_or_default()
    }

    /// Waits until every living connection has had an answer to its oldest byte within the patience, and fails
    /// if one is broken by then.
    ///
    /// # Errors
    /// When one is broken, or stands still for `limit`.
    pub fn wait_unbroken(&self, when: &str, limit: Duration) -> Result<()> {
        self.ensure_kept()?;
        // A connection that was broken does not mend; one that waits may.
        let waits = poll_until(limit, || {
            let seen = self.connections();
            Ok(seen.iter().all(|one| one.ended.is_some() || one.waits < self.patience))
        });
        self.report().ensure_unbroken(when)?;
        waits.map(drop).with_context(|| when.to_owned())
    }

    /// Ends the connections that live on this host in order, and opens as many others, which may then live
    /// anywhere; returns how many. What has ended so stays in the reports as closed.
    ///
    /// # Errors
    /// When a connection does not end in order, or another can not be opened.
    pub fn renew(&self, host: u8) -> Result<usize> {
        let mut leaving = Vec::new();
        let now = Instant::now();
        for (slot, one) in lock(&self.shared).connections.iter_mut().enumerate() {
            if one.host() == Some(host) && one.is_living() {
                one.close(now);
                leaving.push(slot);
            }
        }
        let ended = poll_until(OPEN, || {
            let state = lock(&self.shared);
            Ok(leaving.iter().all(|slot| state.connections[*slot].has_ended()))
        });
        ended.with_context(|| format!("connections on h{host} do not end: {}", self.report()))?;
        lock(&self.shared).missing.extend(&leaving);
        self.wait_open()?;
        // Others may have been broken before; that is for their report.
        let state = lock(&self.shared);
        let failed = leaving.iter().filter(|slot| state.connections[**slot].has_ended()).count();
        drop(state);
        ensure!(failed == 0, "{failed} of {} could not be opened again: {}", leaving.len(), self.report());
        Ok(leaving.len())
    }

    /// Ends all connections in order and tells what was.
    ///
    /// # Errors
    /// When the thread had to give up.
    pub fn close(mut self) -> Result<Report> {
        lock(&self.shared).closing = true;
        // What does not end is told by the report as living.
        let _ = poll_until(self.patience, || {
            let state = lock(&self.shared);
            Ok(state.failed.is_some() || state.connections.iter().all(Connection::has_ended))
        });
        self.ensure_kept()?;
        let report = self.report();
        self.stop();
        Ok(report)
    }

    fn stop(&mut self) {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has poisoned the state, and told so on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: in turns it sends what is due, sleeps, and takes what has come.
fn keep(netns: &Netns, load: Load, shared: &Mutex<State>) -> Result<()> {
    netns.enter()?;
    be_urgent(BEFORE_AGENTS);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let (v4, v6) = (client_v4(load.addresses), client_v6(load.addresses.min(1022)));
    let mut events = vec![EpollEvent::empty(); 1024];
    // The turns of the connections are spread evenly over `every`.
    let pause = load.every / u32::try_from(load.connections)?;
    let (mut due, mut turn, mut watched) = (Instant::now(), 0, Instant::now());
    loop {
        let mut state = lock(shared);
        if state.stop {
            return Ok(());
        }
        let now = Instant::now();
        due = due.max(now.checked_sub(CATCH_UP).unwrap_or(due));
        while due <= now {
            if let Some(one) = state.connections.get_mut(turn % load.connections) {
                one.send(Instant::now());
            }
            turn += 1;
            due += pause;
        }
        if now.duration_since(watched) >= WATCH {
            watched = now;
            state.connections.iter_mut().for_each(|one| one.watch(now));
        }
        if state.closing {
            state.connections.iter_mut().for_each(|one| one.close(now));
        }
        begin_more(&mut state, &epoll, &v4, &v6)?;
        drop(state);

        thread::sleep(STEP);
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut state = lock(shared);
        let now = Instant::now();
        for event in &events[..count] {
            if let Some(one) =
                usize::try_from(event.data()).ok().and_then(|index| state.connections.get_mut(index))
            {
                serve(one, *event, &epoll, now)?;
            }
        }
    }
}

fn serve(one: &mut Connection, event: EpollEvent, epoll: &Epoll, now: Instant) -> Result<()> {
    if !one.is_connecting() {
        one.receive(now);
        return Ok(());
    }
    one.connected(now);
    if let Some(socket) = one.socket() {
        epoll.modify(socket.as_fd(), &mut EpollEvent::new(EpollFlags::EPOLLIN, event.data()))?;
    }
    Ok(())
}

/// Begins connections that are missing, a few at a time.
fn begin_more(state: &mut State, epoll: &Epoll, v4: &[IpAddr], v6: &[IpAddr]) -> Result<()> {
    if state.missing.is_empty() {
        return Ok(());
    }
    let opening = state.connections.iter().filter(|one| one.is_opening()).count();
    for _ in opening..CONNECTING {
        let Some(slot) = state.missing.pop() else { break };
        let (clients, vip) =
            if slot.is_multiple_of(2) { (v4, addr::VIP4.into()) } else { (v6, addr::VIP6.into()) };
        let client = clients[slot / 2 % clients.len()];
        let now = Instant::now();
        let one = Connection::begin(client, SocketAddr::new(vip, PORT), now)
            .with_context(|| format!("{client} could not begin to connect"))?;
        if let Some(socket) = one.socket() {
            epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, slot as u64))?;
        }
        match state.connections.get_mut(slot) {
            Some(place) => {
                let former = std::mem::replace(place, one);
                state.gone.push(former.seen(now));
            }
            // Slots are filled in order the first time.
            None => state.connections.push(one),
        }
    }
    Ok(())
}
