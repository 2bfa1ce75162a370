//! Datagrams that somebody else sends to an agent's gossip port, and frames like those on the service wire: junk, forged,
//! recorded.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::{SCHED_RR, sched_param, sched_setscheduler};

use crate::capture::{Capture, Frame, Injector};
use crate::frames::{addresses, mac, udp_datagram};
use crate::{Host, Lab, Netns, Surroundings, addr};

/// Where every agent of a lab gossips.
const PORT: u16 = 7946;
/// What is due is sent so often.
const STEP: Duration = Duration::from_millis(1);
/// For so long the hosts are listened to, for what is to be sent again.
const RECORD: Duration = Duration::from_millis(1500);
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
    let earlier = record(lab, victim)?;
    victim.stop_agent()?;
    victim.start_agent_in(surroundings)?;
    lab.wait_settled()?;
    let present = record(lab, victim)?;

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
    let kinds = vec![
        Kind { name: "junk from an unknown address", frames: noise(addr::NEIGHBOUR4) },
        Kind { name: "forged from a host's address", frames: noise(peer.v4()) },
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

fn record(lab: &Lab, victim: &Host) -> Result<Vec<Frame>> {
    let tap = Capture::start(lab.switch().netns(), &victim.port())?;
    thread::sleep(RECORD);
    tap.stop()
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
            as_urgent_as_an_agent();
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

/// Else a busy machine would be the agents' protection. Where it is refused, fewer are sent.
fn as_urgent_as_an_agent() {
    let urgent = sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to an initialised sched_param that lives through the call; 0 names the calling thread.
    unsafe { sched_setscheduler(0, SCHED_RR, &raw const urgent) };
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
