//! A tap on one network device.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self as sys, LinkAddr, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

/// Bytes of socket buffer: room for some ten thousand small frames between two turns of the reader.
const BUFFER: usize = 32 << 20;

/// One frame as the tap saw it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the reader took it, not much after it passed.
    pub at: Instant,
    /// Whether this machine sent it.
    pub outgoing: bool,
    /// The bytes, from the destination MAC address on.
    pub data: Vec<u8>,
}

/// A running tap. It sees frames before any filter of the device drops them, and on the way out after.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Starts to record every frame on a device of a namespace; it records when this returns.
    ///
    /// # Errors
    /// When there is no such device or the caller is not root.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let socket = netns.within(|| packet_socket(device, libc::ETH_P_ALL))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("could not enlarge the tap's buffer")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (frames, stop) = (Arc::clone(&frames), Arc::clone(&stop));
            thread::spawn(move || record(&socket.into(), &frames, &stop))
        };
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// How many frames so far fulfil a condition.
    pub fn count(&self, mut condition: impl FnMut(&Frame) -> bool) -> usize {
        self.lock().iter().filter(|frame| condition(frame)).count()
    }

    /// Forgets what was recorded so far.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Ends the recording and returns it.
    ///
    /// # Errors
    /// When frames were lost for want of room, so that a count would prove nothing.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the tap's reader panicked"))??;
        }
        let frames = std::mem::take(&mut *self.lock());
        Ok(frames)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads until told to stop and the queue is empty.
fn record(socket: &OwnedFd, frames: &Mutex<Vec<Frame>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match sys::recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) => {
                let outgoing = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                let frame = Frame { at: Instant::now(), outgoing, data: buffer[..length].to_vec() };
                frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
            Err(Errno::EAGAIN | Errno::EINTR) if stop.load(Ordering::Relaxed) => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The device went down, as in a power cut; it may come back.
            Err(Errno::ENETDOWN) => {}
            Err(error) => return Err(error).context("the tap can not read"),
        }
    }
    let lost = lost_frames(socket)?;
    ensure!(lost == 0, "the tap lost {lost} frames: its counts prove nothing");
    Ok(())
}

/// Sends frames as they are on a device.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
}

impl Injector {
    /// Opens a device of a namespace for sending.
    ///
    /// # Errors
    /// When there is no such device or the caller is not root.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        netns.within(|| Self::open_here(device))
    }

    /// As [`Self::open`], in the namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_here(device: &str) -> Result<Self> {
        // Protocol 0: this socket receives nothing.
        Ok(Self { socket: packet_socket(device, 0)? })
    }

    /// Sends one frame, given from the destination MAC address on.
    ///
    /// # Errors
    /// When the device is down or the frame too long for it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self
            .socket
            .send(frame)
            .with_context(|| format!("could not send a frame of {} bytes", frame.len()))?;
        ensure!(sent == frame.len(), "only {sent} of {} bytes sent", frame.len());
        Ok(())
    }
}

fn packet_socket(device: &str, ethertype: libc::c_int) -> Result<Socket> {
    let index = nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device}"))?;
    let protocol = u16::try_from(ethertype)?.to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))))
        .context("could not open a packet socket")?;
    // SAFETY: the closure fills the whole part of the zeroed storage that it declares as its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as libc::sa_family_t,
                sll_protocol: protocol,
                sll_ifindex: index.cast_signed(),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            storage.cast::<libc::sockaddr_ll>().write(link);
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })
    }?;
    socket.bind(&address).with_context(|| format!("could not bind to {device}"))?;
    Ok(socket)
}

/// Frames the kernel could not queue for this socket since it was opened (PACKET_STATISTICS, packet(7)).
fn lost_frames(socket: &impl AsFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and the length is that of the structure.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).context("could not read the tap's statistics");
    }
    Ok(statistics.tp_drops)
}
