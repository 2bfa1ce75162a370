//! The server of one host: sends every number back with the host's own.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::Type;

use super::{BEFORE_AGENTS, Message, PORT, be_urgent};
use crate::netns::Netns;
use crate::server::open;

/// Room for the queries of some tenths of a second, in which a busy machine may not run the thread.
pub(super) const QUEUE_BYTES: usize = 8 << 20;

/// A running server. Dropping the handle ends it soon.
#[derive(Debug)]
pub struct Responder {
    stop: Arc<AtomicBool>,
}

impl Responder {
    /// Listens on the shared addresses in the namespace of host `number`, whether it has them yet or not.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start(netns: &Netns, number: u8, vips: &[IpAddr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for vip in vips {
            let address = SocketAddr::new(*vip, PORT);
            let socket = netns
                .within(|| open(address, Type::DGRAM))
                .with_context(|| format!("no numbered server on {address}"))?;
            setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &QUEUE_BYTES)?;
            let stop = Arc::clone(&stop);
            thread::spawn(move || serve(&socket.into(), number, &stop));
        }
        Ok(Self { stop })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, number: u8, stop: &AtomicBool) {
    be_urgent(BEFORE_AGENTS);
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(query) = Message::read(&buffer[..length]) {
            // A host without its cable can not answer; the client's side tells of it.
            let _ = socket.send_to(&Message { host: number, ..query }.bytes(), from);
        }
    }
}
