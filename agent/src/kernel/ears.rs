//! Whether anything of others comes in by the service device: a host that hears nothing must not serve.
//!
//! The words of other hosts on that wire say so already. Only when none has come for a while somebody listens for
//! frames of whatever kind, until the first one: a tap costs time for each frame that passes. It asks the kernel for
//! nothing that others may hold up, which counters of devices would (rtnetlink answers under a lock). Nor does a counter
//! know whose frames it has counted: a bond counts what a switch sends back to the idle one of its cards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use onemac_core::time::Time;
use socket2::SockFilter;
use tokio::sync::{mpsc, watch};

use super::Footing;
use super::packet::PacketSocket;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::warnings::Warnings;

/// Key of the warning that nobody can listen.
const WARNING: &str = "ears";

/// What is known of frames of others.
pub struct Ears {
    heartbeat: Duration,
    /// When one was last heard of, for the thread that listens.
    last: Arc<AtomicU64>,
    /// Not before then the next one is news.
    due: Time,
}

impl Ears {
    /// When a frame of others was last heard of, if ever.
    pub fn heard(&self) -> Option<Time> {
        Some(Time(self.last.load(Ordering::Relaxed))).filter(|at| *at > Time::default())
    }

    /// A frame of another host has come in; whether that is news, as it is once a heartbeat.
    pub fn is_news(&mut self, now: Time) -> bool {
        self.last.store(now.0, Ordering::Relaxed);
        if now < self.due {
            return false;
        }
        // By a grid: one that comes a little early is not left out.
        self.due = if now < self.due + self.heartbeat { self.due } else { now } + self.heartbeat;
        true
    }
}

/// Starts the thread that listens on the service device, wherever `footing` says that it is; the queue is told of frames.
pub fn open(
    footing: watch::Receiver<Footing>,
    heartbeat: Duration,
    warnings: &Warnings,
) -> Result<(Ears, mpsc::Receiver<()>)> {
    let last = Arc::new(AtomicU64::new(0));
    let (tell, frames) = mpsc::channel(1);
    let listener = Listener { footing, heartbeat, last: Arc::clone(&last), tell, warnings: warnings.clone() };
    let spawned = thread::Builder::new().name("ears".into()).spawn(move || listener.listen());
    spawned
        .map_err(|e| Failure::failed(format_args!("cannot start the thread that listens for frames: {e}")))?;
    Ok((Ears { heartbeat, last, due: Time::default() }, frames))
}

struct Listener {
    footing: watch::Receiver<Footing>,
    heartbeat: Duration,
    last: Arc<AtomicU64>,
    tell: mpsc::Sender<()>,
    warnings: Warnings,
}

impl Listener {
    fn listen(self) {
        // Words come once a heartbeat; a little later is no silence.
        let patience = self.heartbeat * 3 / 2;
        while !self.tell.is_closed() {
            let quiet = clock::now().since(Time(self.last.load(Ordering::Relaxed)));
            if quiet < patience {
                thread::sleep(patience - quiet);
                continue;
            }
            let Footing { index, mac, .. } = self.footing.borrow().clone();
            match self.await_frame(index, mac) {
                Ok(heard) => {
                    self.warnings.clear(WARNING);
                    if heard {
                        let _ = self.tell.try_send(());
                    }
                }
                Err(error) if is_gone(&error) => {}
                // Who cannot listen does not know that there is nothing to hear.
                Err(error) => {
                    self.warnings.raise(
                        WARNING,
                        format!("cannot listen for frames of others on the service device: {error}"),
                        "whether this host hears others is not known; the agent needs CAP_NET_RAW and free memory",
                    );
                    let _ = self.tell.try_send(());
                }
            }
            thread::sleep(self.heartbeat);
        }
    }

    /// Waits for a frame of others, for as long as the device is this one and no word of others tells of one.
    fn await_frame(&self, index: u32, mac: [u8; 6]) -> io::Result<bool> {
        let socket = PacketSocket::open_for(index, libc::ETH_P_ALL as u16, &of_others(mac))?;
        let began = clock::now().0;
        loop {
            if socket.receive(&mut [0], self.heartbeat)?.is_some() {
                return Ok(true);
            }
            let Footing { index: now, mac: own, .. } = self.footing.borrow().clone();
            let elsewhere = (now, own) != (index, mac) || socket.went_down();
            if elsewhere || self.last.load(Ordering::Relaxed) > began || self.tell.is_closed() {
                return Ok(false);
            }
        }
    }
}

/// The device has gone, or is down: whoever looks after it tells.
fn is_gone(error: &io::Error) -> bool {
    [Errno::ENODEV, Errno::ENXIO, Errno::ENETDOWN].iter().any(|e| error.raw_os_error() == Some(*e as i32))
}

/// Takes one byte of each frame that comes in, that is of this wire and no VLAN's on it, and that this host has not sent
/// itself: a switch may send those back.
fn of_others(mac: [u8; 6]) -> [SockFilter; 10] {
    let [a, b, c, d, e, f] = mac;
    let load = |size: u32, from: i32| {
        SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, from as u32)
    };
    let jump = |test: u32, value: u32, yes: u8, no: u8| {
        SockFilter::new((libc::BPF_JMP | test | libc::BPF_K) as u16, yes, no, value)
    };
    let take = |bytes: u32| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, bytes);
    [
        load(libc::BPF_W, libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE),
        jump(libc::BPF_JEQ, libc::PACKET_OUTGOING.into(), 7, 0),
        load(libc::BPF_W, libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG),
        jump(libc::BPF_JSET, 0x0fff, 5, 0),
        load(libc::BPF_W, 6),
        jump(libc::BPF_JEQ, u32::from_be_bytes([a, b, c, d]), 0, 2),
        load(libc::BPF_H, 10),
        jump(libc::BPF_JEQ, u16::from_be_bytes([e, f]).into(), 1, 0),
        take(1),
        take(0),
    ]
}
