//! Datagrams that somebody else sends to an agent's gossip port, and frames like those on the service wire: junk, forged,
//! recorded.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::capture::{Capture, Frame, Injector};
use crate::frames::{addresses, mac, udp_datagram};
use crate::numbered::{AS_AGENTS, be_urgent};
use crate::tcp::Dice;
use crate::{Host, Lab, Netns, Surroundings, addr};

/// Where every agent of a lab gossips.
const PORT: u16 = 7946;
/// What is due is sent so often.
const STEP: Duration = Duration::from_millis(1);
/// For so long at least the hosts are listened to, for what is to be sent again.
/// Long enough for some datagrams from each host to each: heartbeats are frames.
const RECORD: Duration = Duration::from_secs(8);
/// Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;

/// Frames of one kind, to be sent over and over again.
#[derive(Debug)]
pub struct Kind {
    /// What they are.
    pub name: &'static str,
    /// The frames.
    pub frames: Vec<Vec<u8>>,
}

/// Makes everything that can be sent to `victim` without knowing the secret, as if from `peer`. The agent of `victim` is
/// started anew meanwhile, in these surroundings, for a recording of an earlier run.
///
/// # Errors
/// When the cluster does not come to agree, or nothing could be recorded.
pub fn kinds(lab: &Lab, victim: &Host, surroundings: Surroundings, peer: &Host) -> Result<Vec<Kind>> {
    let earlier = Taps::set(lab)?.recorded()?;
    victim.stop_agent()?;
    let taps = Taps::set(lab)?;
    victim.start_agent_in(surroundings)?;
    lab.wait_settled()?;
    kinds_of(victim, peer, &earlier, &taps.recorded()?)
}

/// The same of what was recorded at `victim` in an earlier run, and in the present one.
///
/// # Errors
/// When too little was recorded.
pub fn kinds_of(victim: &Host, peer: &Host, earlier: &Recording, present: &Recording) -> Result<Vec<Kind>> {
    let at_victim = |recording: &Recording| recording.get(&victim.name()).cloned().unwrap_or_default();
    let (earlier, present) = (at_victim(earlier), at_victim(present));
    let (us, them) = (mac(addr::NEIGHBOUR_MAC), mac(&victim.mac()));
    let to = (victim.v4().into(), PORT);
    let datagram = |from: Ipv4Addr, payload: &[u8]| udp_datagram(us, them, (from.into(), PORT), to, payload);
    let recorded = |frames: &[Frame]| -> Vec<Vec<u8>> {
        let between = Some((peer.v4().into(), victim.v4().into()));
        let said = frames.iter().filter(|frame| addresses(&frame.data) == between);
        said.filter(|frame| frame.data.get(36..38) == Some(&PORT.to_be_bytes()))
            // Rebuilt, since the sum of a frame that has seen no real wire is unfinished.
            .filter_map(|frame| Some(datagram(peer.v4(), frame.data.get(HEADERS..)?)))
            .collect()
    };
    let beacons: Vec<Vec<u8>> = present
        .iter()
        .filter(|frame| frame.data.get(12..14) == Some(&[0x88, 0xb5]))
        // To the victim alone: a broadcast would have all hosts of a lab share the processors with it.
        .map(|frame| [&them.octets(), &us.octets(), &frame.data[12..]].concat())
        .collect();
    let forged_beacons = beacons.iter().map(|frame| {
        let mut frame = frame.clone();
        frame[20] ^= 1;
        frame
    });
    let noise = |from: Ipv4Addr| {
        (0..64u8).map(|i| datagram(from, &[&[i % 4][..], &[i.wrapping_mul(37); 150]].concat())).collect()
    };
    let mut dice = Dice::new(1);
    // Up to the largest that a frame holds.
    let sizes = (1..=64).map(|i| {
        let payload: Vec<u8> = (0..i * 23).map(|_| dice.next_u64() as u8).collect();
        datagram(peer.v4(), &payload)
    });
    let sizes = sizes.collect();
    let kinds = vec![
        Kind { name: "junk from an unknown address", frames: noise(addr::NEIGHBOUR4) },
        Kind { name: "forged from a host's address", frames: noise(peer.v4()) },
        Kind { name: "forged, of all sizes", frames: sizes },
        Kind { name: "replayed", frames: recorded(&present) },
        Kind { name: "recorded from an earlier run (asks for greetings)", frames: recorded(&earlier) },
        Kind { name: "forged frames on the service wire", frames: forged_beacons.collect() },
        Kind { name: "replayed frames on the service wire", frames: beacons },
    ];
    for kind in &kinds {
        ensure!(kind.frames.len() >= 5, "only {} frames: {}", kind.frames.len(), kind.name);
    }
    Ok(kinds)
}

/// What passed at the port of each host.
pub type Recording = BTreeMap<String, Vec<Frame>>;

/// Listens to all hosts: set before agents start, it hears their greetings.
#[derive(Debug)]
pub struct Taps(Vec<(String, Capture)>);

impl Taps {
    /// Begins to listen.
    ///
    /// # Errors
    /// When a port cannot be tapped.
    pub fn set(lab: &Lab) -> Result<Self> {
        let tap = |host: &Host| Ok((host.name(), Capture::start(lab.switch().netns(), &host.port())?));
        Ok(Self(lab.hosts().iter().map(tap).collect::<Result<_>>()?))
    }

    /// Listens a little longer, and ends.
    ///
    /// # Errors
    /// When a tap has lost frames.
    pub fn recorded(self) -> Result<Recording> {
        thread::sleep(RECORD);
        self.0.into_iter().map(|(name, tap)| Ok((name, tap.stop()?))).collect()
    }
}

/// One of each list in turn, until every one of the longest list is there.
#[must_use]
pub fn in_turn(lists: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or_default();
    let of_each = |i| lists.iter().filter_map(move |frames| frames.get(i % frames.len().max(1)).cloned());
    (0..longest).flat_map(of_each).collect()
}

/// A flood. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
    started: Instant,
}

impl Flood {
    /// Sends the frames from a namespace's `eth0`, in turn, this many a second or as many as can be.
    ///
    /// # Errors
    /// When the device cannot be opened.
    pub fn start(netns: &Netns, frames: Vec<Vec<u8>>, each_second: u32) -> Result<Self> {
        let wire = Injector::open(netns, "eth0")?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // Else a busy machine would be the agents' protection.
            be_urgent(AS_AGENTS);
            let mut frames = frames.iter().cycle();
            let (mut last, mut sent) = (Instant::now(), 0);
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(STEP);
                // What a sender that was kept waiting has missed is not made up for beyond this.
                let span = last.elapsed().min(STEP * 20);
                last = Instant::now();
                for _ in 0..(f64::from(each_second) * span.as_secs_f64()) as u64 {
                    // A full queue on the way loses it, as it would any other.
                    if frames.next().is_some_and(|frame| wire.send(frame).is_ok()) {
                        sent += 1;
                    }
                }
            }
            Ok(sent)
        });
        Ok(Self { stop, thread: Some(thread), started: Instant::now() })
    }

    /// Ends it, and says how many frames it sent in a second.
    ///
    /// # Errors
    /// When its thread has panicked.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let span = self.started.elapsed();
        let thread = self.thread.take().context("stopped twice")?;
        let sent = thread.join().map_err(|_| anyhow!("the flood panicked"))??;
        Ok((sent as f64 / span.as_secs_f64()) as u64)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
