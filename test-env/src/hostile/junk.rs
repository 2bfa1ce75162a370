//! Datagrams that nobody should send to the agents' port, as many as can be sent.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::capture::{Capture, Injector};
use crate::frames::{addresses, mac, udp_datagram};
use crate::host::Host;
use crate::lab::Lab;
use crate::numbered::be_urgent;
use crate::tcp::Dice;
use crate::topology::addr;

/// Where agents gossip in a lab.
const PORT: u16 = 7946;
/// Of Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The greeting's number among the kinds of datagrams.
const GREETING: u8 = 0;
/// So many different frames of a kind, for each host.
const FRAMES: usize = 64;
/// A flood is sent in portions, so often.
const STEP: Duration = Duration::from_millis(1);

/// A kind of junk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junk {
    /// Random bytes from addresses that no host has.
    Noise,
    /// Random bytes from a peer's address.
    Forged,
    /// Genuine datagrams of before, once more.
    Replayed,
    /// Genuine greetings of before, each of which wants an answer.
    Greetings,
}

impl Junk {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Noise, Self::Forged, Self::Replayed, Self::Greetings];
}

/// What hosts have said to each other while it ran.
#[derive(Debug)]
pub struct Recording {
    taps: Vec<Capture>,
}

impl Recording {
    /// Begins to record, before the agents start: their greetings are wanted.
    ///
    /// # Errors
    /// When a port can not be tapped.
    pub fn start(lab: &Lab) -> Result<Self> {
        let tap = |host: &Host| Capture::start(lab.switch().netns(), &host.port());
        Ok(Self { taps: lab.hosts().iter().map(tap).collect::<Result<_>>()? })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the taps have lost frames.
    pub fn stop(self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        for tap in self.taps {
            // What leaves the switch's port goes to the host.
            frames.extend(tap.stop()?.into_iter().filter(|frame| frame.outgoing).map(|frame| frame.data));
        }
        frames.retain(|frame| {
            addresses(frame).is_some_and(|(from, _)| from.is_ipv4())
                && frame.len() > HEADERS
                && frame[36..38] == PORT.to_be_bytes()
        });
        Ok(frames)
    }
}

/// A flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    began: Instant,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Sends so many datagrams a second, of these kinds in turn, to all hosts in turn, from the machine that is no
    /// member. What is replayed was recorded.
    ///
    /// # Errors
    /// When nothing fitting was recorded, or the machine has no card.
    pub fn start(lab: &Lab, kinds: &[Junk], per_second: u32, recorded: &[Vec<u8>]) -> Result<Self> {
        let mut frames = Vec::new();
        let mut dice = Dice::new(1);
        for number in 0..FRAMES {
            for kind in kinds {
                for (to, host) in lab.hosts().iter().enumerate() {
                    let from =
                        &lab.hosts()[(to + 1 + number % (lab.hosts().len() - 1).max(1)) % lab.hosts().len()];
                    frames.push(frame(*kind, number, from, host, recorded, &mut dice)?);
                }
            }
        }
        let injector = Injector::open(lab.neighbour(), "eth0")?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || send(&injector, &frames, per_second, &stop, &sent)
        });
        Ok(Self { stop, sent, began: Instant::now(), thread: Some(thread) })
    }

    /// Ends, and says how many datagrams a second were sent.
    ///
    /// # Errors
    /// When they could not be sent.
    pub fn stop(mut self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs_f64();
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("the thread that floods panicked"))??;
        Ok(self.sent.load(Ordering::Relaxed) as f64 / seconds)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(
    injector: &Injector,
    frames: &[Vec<u8>],
    per_second: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    // The wire does not wait for this machine's processors.
    be_urgent();
    let mut due = Instant::now();
    let pause = Duration::from_secs(1) / per_second;
    let mut frames = frames.iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        // What a sender that was kept waiting missed is not made up for.
        due = due.max(now - STEP * 4);
        while due <= now {
            if let Some(frame) = frames.next() {
                injector.send(frame)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            due += pause;
        }
        sleep(STEP);
    }
    Ok(())
}

fn frame(
    kind: Junk,
    number: usize,
    from: &Host,
    to: &Host,
    recorded: &[Vec<u8>],
    dice: &mut Dice,
) -> Result<Vec<u8>> {
    let attacker = mac(addr::NEIGHBOUR_MAC);
    let target = mac(&to.mac());
    let random = |source: (IpAddr, u16), dice: &mut Dice| {
        let payload: Vec<u8> = (0..41 + 4 * (number % 40)).map(|_| dice.next_u64() as u8).collect();
        udp_datagram(attacker, target, source, (to.v4().into(), PORT), &payload)
    };
    match kind {
        Junk::Noise => Ok(random((addr::NEIGHBOUR4.into(), 1024 + number as u16), dice)),
        Junk::Forged => Ok(random((from.v4().into(), PORT), dice)),
        Junk::Replayed | Junk::Greetings => {
            let greeting = kind == Junk::Greetings;
            let fits = |frame: &&Vec<u8>| {
                addresses(frame).is_some_and(|(_, receiver)| receiver == IpAddr::from(to.v4()))
                    && (frame[HEADERS] == GREETING) == greeting
            };
            let fitting: Vec<&Vec<u8>> = recorded.iter().filter(fits).collect();
            ensure!(!fitting.is_empty(), "nothing to {} was recorded that is {kind:?}", to.name());
            let frame = fitting[number % fitting.len()];
            let (source, receiver) = addresses(frame).context("a frame without addresses")?;
            let payload = frame.get(HEADERS..).unwrap_or_default();
            // Put together anew: by the attacker's own card, or the switch would send the host's frames there, and
            // with the checksum that a tap does not see.
            Ok(udp_datagram(attacker, target, (source, PORT), (receiver, PORT), payload))
        }
    }
}
