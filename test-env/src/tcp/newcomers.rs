//! New connections at a steady rate, each from a random client: connect, ask, end. Nobody may have to wait for
//! a retransmission, and the client's own kernel says who had to (TCP_INFO, tcpi_total_retrans).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::PORT;
use super::dice::Dice;
use super::socket::{self, make_room};
use crate::netns::Netns;
use crate::numbered::{BEFORE_AGENTS, be_urgent};
use crate::topology::{addr, client_v4};
use crate::wait::poll_until;

/// Times are told to within this.
const STEP: Duration = Duration::from_millis(1);
/// Who is not through by then has failed. The SYN is sent again after 1, 3, 7 and 15 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// The byte that is sent.
const QUESTION: u8 = 0x5a;
/// So many are told in words.
const EXAMPLES: usize = 5;

/// What a newcomer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From the SYN to the connection.
    Connect,
    /// From the byte that it sends to the same byte back, with the host's number before it.
    Echo,
    /// From its end to the server's.
    End,
}

/// Why a newcomer did not come through.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it was about.
    pub phase: Phase,
    /// What happened.
    pub why: String,
}

/// One connection that came and went.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The client's address and port.
    pub client: SocketAddr,
    /// When the SYN was sent.
    pub at: Instant,
    /// The number of the host that served it.
    pub host: Option<u8>,
    /// How long each phase took that it came through, in the order of [`Phase`].
    pub took: Vec<Duration>,
    /// Segments that the client's kernel sent again in each phase, in the order of [`Phase`]. A segment that was
    /// not lost but only answered late counts too.
    pub retransmitted: [u32; 3],
    /// Why it did not come through, if it did not.
    pub failure: Option<Failure>,
}

impl Newcomer {
    /// Whether anything had to be sent again.
    #[must_use]
    pub fn waited(&self) -> bool {
        self.retransmitted != [0; 3]
    }

    fn took(&self, phase: Phase) -> Option<Duration> {
        self.took.get(phase as usize).copied()
    }
}

impl fmt::Display for Newcomer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} to ", self.client)?;
        match self.host {
            Some(host) => write!(out, "h{host}")?,
            None => out.write_str("no host")?,
        }
        for (phase, name) in [(Phase::Connect, "connect"), (Phase::Echo, "echo"), (Phase::End, "end")] {
            if let Some(took) = self.took(phase) {
                write!(out, ", {name} {:.1} ms", took.as_secs_f64() * 1e3)?;
            }
            match self.retransmitted[phase as usize] {
                0 => {}
                count => write!(out, " ({count} sent again)")?,
            }
        }
        match &self.failure {
            Some(Failure { phase, why }) => write!(out, ", failed at {phase:?}: {why}"),
            None => Ok(()),
        }
    }
}

/// Newcomers that are through, or have failed.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(pub Vec<Newcomer>);

impl Arrivals {
    /// Those that began between these moments.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Self {
        Self(self.0.iter().filter(|one| (from..=to).contains(&one.at)).cloned().collect())
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|one| one.failure.is_some()).count()
    }

    /// How many had to wait for a retransmission in this phase.
    #[must_use]
    pub fn retransmitted(&self, phase: Phase) -> usize {
        self.0.iter().filter(|one| one.retransmitted[phase as usize] > 0).count()
    }

    /// How many had to wait for a retransmission in any phase.
    #[must_use]
    pub fn waited(&self) -> usize {
        self.0.iter().filter(|one| one.waited()).count()
    }

    /// The longest time that a phase took.
    #[must_use]
    pub fn slowest(&self, phase: Phase) -> Duration {
        self.0.iter().filter_map(|one| one.took(phase)).max().unwrap_or_default()
    }

    /// How many each host served, by its number.
    #[must_use]
    pub fn by_host(&self) -> BTreeMap<u8, usize> {
        let mut by_host = BTreeMap::new();
        for host in self.0.iter().filter_map(|one| one.host) {
            *by_host.entry(host).or_default() += 1;
        }
        by_host
    }

    /// Fails when one has failed.
    ///
    /// # Errors
    /// With the counts and some examples.
    pub fn ensure_served(&self, when: &str) -> Result<()> {
        ensure!(self.failed() == 0, "{when}: newcomers were turned away: {self}");
        Ok(())
    }

    /// Fails when one has failed or had to wait for a retransmission.
    ///
    /// # Errors
    /// With the counts and some examples.
    pub fn ensure_at_once(&self, when: &str) -> Result<()> {
        self.ensure_served(when)?;
        ensure!(self.waited() == 0, "{when}: newcomers had to wait: {self}");
        Ok(())
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |phase| self.slowest(phase).as_secs_f64() * 1e3;
        write!(out, "{} newcomers, {} failed; ", self.0.len(), self.failed())?;
        for (phase, name) in [(Phase::Connect, "connect"), (Phase::Echo, "echo"), (Phase::End, "end")] {
            let count = self.retransmitted(phase);
            write!(out, "{name}: {count} sent something again, slowest {:.1} ms; ", ms(phase))?;
        }
        out.write_str("by host:")?;
        for (host, count) in self.by_host() {
            write!(out, " h{host} {count}")?;
        }
        let bad = self.0.iter().filter(|one| one.failure.is_some() || one.waited());
        bad.take(EXAMPLES).try_for_each(|one| write!(out, "\n  {one}"))
    }
}

/// A running source of newcomers. Dropping it ends it.
#[derive(Debug)]
pub struct Newcomers {
    shared: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    done: Arrivals,
    /// When the oldest that is not through began.
    oldest: Option<Instant>,
    /// What began before this has been noted in the two above.
    noted: Option<Instant>,
    /// No more are to come.
    last_call: bool,
    stop: bool,
    failed: Option<String>,
}

impl Newcomers {
    /// Starts `per_second` new connections a second, half of them IPv6, from random addresses that this seed
    /// chooses. Every host needs its [`super::EchoServer`].
    ///
    /// # Errors
    /// When the thread can not be started.
    pub fn start(clients: &Netns, per_second: u32, seed: u64) -> Result<Self> {
        ensure!(per_second > 0, "no newcomers at all");
        // If nobody answers any more.
        make_room(per_second as usize * PATIENCE.as_secs() as usize)?;
        let shared = Arc::new(Mutex::new(State::default()));
        let thread = thread::Builder::new().name("newcomers".to_owned()).spawn({
            let (shared, netns) = (Arc::clone(&shared), clients.clone());
            move || {
                let every = Duration::from_secs(1) / per_second;
                if let Err(error) = Source::run(&netns, every, seed, &shared) {
                    lock(&shared).failed = Some(format!("{error:#}"));
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until all that begin before this moment are through or have failed, which takes 20 s at most, and
    /// returns those that have ended so far.
    ///
    /// # Errors
    /// When the thread had to give up.
    pub fn until(&self, moment: Instant) -> Result<Arrivals> {
        let through = poll_until(moment.saturating_duration_since(Instant::now()) + 3 * PATIENCE, || {
            let state = lock(&self.shared);
            let passed = state.noted.is_some_and(|noted| noted > moment);
            let ended = passed && state.oldest.is_none_or(|oldest| oldest > moment);
            Ok(ended || state.failed.is_some())
        });
        let state = lock(&self.shared);
        match &state.failed {
            Some(error) => Err(anyhow!("the newcomers' thread gave up: {error}")),
            None => through.map(|_| state.done.clone()),
        }
    }

    /// Starts no more, waits for those that are under way, and returns all.
    ///
    /// # Errors
    /// When the thread had to give up.
    pub fn stop(self) -> Result<Arrivals> {
        lock(&self.shared).last_call = true;
        self.until(Instant::now())
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so on standard error.
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that is under way.
struct Pending {
    stream: TcpStream,
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// What has come back.
    answer: Vec<u8>,
    /// Segments sent again before this phase.
    earlier: u32,
    so_far: Newcomer,
}

/// The thread's own.
struct Source {
    epoll: Epoll,
    dice: Dice,
    v4: Vec<IpAddr>,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    done: Vec<Newcomer>,
}

impl Source {
    fn run(netns: &Netns, every: Duration, seed: u64, shared: &Mutex<State>) -> Result<()> {
        netns.enter()?;
        be_urgent(BEFORE_AGENTS);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (dice, v4) = (Dice::new(seed), client_v4(u16::MAX));
        let (pending, done) = (BTreeMap::new(), Vec::new());
        let mut source = Self { epoll, dice, v4, next: 0, pending, done };
        let mut events = vec![EpollEvent::empty(); 256];
        let mut due = Instant::now();
        loop {
            {
                let mut state = lock(shared);
                if state.stop {
                    return Ok(());
                }
                let now = Instant::now();
                // The rate is kept, so a thread that was kept waiting makes up for all of it, one a step.
                if !state.last_call && due <= now {
                    source.begin()?;
                    due += every;
                }
                source.give_up(now);
                state.done.0.append(&mut source.done);
                state.oldest = source.pending.values().next().map(|one| one.so_far.at);
                state.noted = Some(now);
            }
            thread::sleep(STEP);
            let count = source.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
            for event in &events[..count] {
                source.go_on(event.data());
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        let (client, vip): (IpAddr, IpAddr) = if self.next.is_multiple_of(2) {
            (*self.dice.pick(&self.v4).context("no clients")?, addr::VIP4.into())
        } else {
            // Any address of the clients' network: who has asked before is nobody's concern.
            let prefix = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0));
            (Ipv6Addr::from(prefix | u128::from(self.dice.next_u64())).into(), addr::VIP6.into())
        };
        let at = Instant::now();
        let stream = socket::begin(client, SocketAddr::new(vip, PORT))
            .with_context(|| format!("{client} could not begin to connect"))?;
        self.epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, self.next))?;
        let client = stream.local_addr()?;
        let so_far =
            Newcomer { client, at, host: None, took: Vec::new(), retransmitted: [0; 3], failure: None };
        let answer = Vec::new();
        self.pending.insert(
            self.next,
            Pending { stream, phase: Phase::Connect, since: at, answer, earlier: 0, so_far },
        );
        self.next += 1;
        Ok(())
    }

    fn go_on(&mut self, name: u64) {
        let Some(one) = self.pending.get_mut(&name) else { return };
        let through = match one.step() {
            Ok(through) => through,
            Err(error) => {
                one.fail(error.to_string());
                true
            }
        };
        if through {
            self.finish(name);
        } else if one.phase == Phase::Echo && one.answer.is_empty() {
            // From now on it waits for bytes. If the kernel refuses, the newcomer fails by its patience.
            let _ = self.epoll.modify(one.stream.as_fd(), &mut EpollEvent::new(EpollFlags::EPOLLIN, name));
        }
    }

    fn give_up(&mut self, now: Instant) {
        let late = |one: &Pending| now.saturating_duration_since(one.so_far.at) > PATIENCE;
        while let Some((name, one)) = self.pending.iter_mut().next().filter(|(_, one)| late(one)) {
            let name = *name;
            one.fail(format!("nothing came within {PATIENCE:?}"));
            self.finish(name);
        }
    }

    fn finish(&mut self, name: u64) {
        if let Some(mut one) = self.pending.remove(&name) {
            one.count_retransmitted();
            self.done.push(one.so_far);
        }
    }
}

impl Pending {
    /// Something has happened; whether that was the last.
    fn step(&mut self) -> io::Result<bool> {
        if self.phase == Phase::Connect {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.enter(Phase::Echo);
            self.stream.write_all(&[QUESTION])?;
            return Ok(false);
        }
        let mut buffer = [0; 16];
        match self.stream.read(&mut buffer) {
            Ok(0) if self.phase == Phase::End => {
                self.so_far.took.push(self.since.elapsed());
                return Ok(true);
            }
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server ended the connection")),
            Ok(count) => self.answer.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.so_far.host = self.answer.first().copied();
        match self.answer[..] {
            [_, QUESTION] if self.phase == Phase::Echo => {
                self.enter(Phase::End);
                self.stream.shutdown(Shutdown::Write)?;
                Ok(false)
            }
            [_] => Ok(false),
            _ => Err(io::Error::new(ErrorKind::InvalidData, format!("a strange answer: {:?}", self.answer))),
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.so_far.took.push(self.since.elapsed());
        self.count_retransmitted();
        self.phase = phase;
        self.since = Instant::now();
    }

    fn count_retransmitted(&mut self) {
        if let Ok(info) = socket::info(&self.stream) {
            self.so_far.retransmitted[self.phase as usize] += info.retransmitted - self.earlier;
            self.earlier = info.retransmitted;
        }
    }

    fn fail(&mut self, why: String) {
        self.so_far.failure = Some(Failure { phase: self.phase, why });
    }
}
