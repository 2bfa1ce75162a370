//! Whole Ethernet frames in and out of one device, by an AF_PACKET socket.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike, recv, sendto, setsockopt};
use socket2::{Domain, SockFilter, Socket, Type};

/// A socket that takes frames of one ethertype from one device.
pub struct PacketSocket {
    socket: Socket,
    index: u32,
    /// Set when the device went down.
    went_down: AtomicBool,
}

impl PacketSocket {
    /// Opens the socket on the device with this index. `ethertype` in host order, `ETH_P_ALL` for every one.
    /// Needs CAP_NET_RAW.
    pub fn open(index: u32, ethertype: u16) -> io::Result<Self> {
        Self::open_for(index, ethertype, &[])
    }

    /// The same, for frames alone that this program of the classic packet filter takes; any if it is empty.
    pub fn open_for(index: u32, ethertype: u16, program: &[SockFilter]) -> io::Result<Self> {
        // Without a protocol the socket takes nothing until it is bound. With one it would begin on all
        // devices, and to leave them for this one the kernel waits out a grace period, which takes long
        // on a busy machine.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        if !program.is_empty() {
            socket.attach_filter(program)?;
        }
        nix::sys::socket::bind(socket.as_raw_fd(), &link_address(index, ethertype.to_be()))?;
        Ok(PacketSocket { socket, index, went_down: AtomicBool::new(false) })
    }

    /// The index of the device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the device was found to be down since this was opened. It hears again when the same device comes up
    /// again; one that has gone and come back, be it with the same index, it never hears.
    pub fn went_down(&self) -> bool {
        self.went_down.load(Ordering::Relaxed)
    }

    /// Sends a frame as it is, without waiting for room.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let to = link_address(self.index, 0);
        let sent = sendto(self.socket.as_raw_fd(), frame, &to, MsgFlags::MSG_DONTWAIT);
        self.notice(sent.err());
        Ok(sent.map(drop)?)
    }

    /// A frame that is there already; its length.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.length(recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
    }

    /// Waits for a frame; its length, or `None` if none came in this time (which must not be zero).
    pub fn receive(&self, buffer: &mut [u8], wait: Duration) -> io::Result<Option<usize>> {
        self.socket.set_read_timeout(Some(wait))?;
        self.length(recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()))
    }

    /// Room for so many bytes of frames that wait (with the kernel's book-keeping), each way, if that is allowed.
    pub fn set_buffers(&self, bytes: usize) {
        let _ = setsockopt(&self.socket, RcvBufForce, &bytes);
        let _ = setsockopt(&self.socket, SndBufForce, &bytes);
    }

    fn length(&self, received: nix::Result<usize>) -> io::Result<Option<usize>> {
        match received {
            Ok(len) => Ok(Some(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            // The device may come up again.
            Err(Errno::ENETDOWN) => {
                self.notice(received.err());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// That the device goes down is told once: to whoever reads or sends next.
    fn notice(&self, error: Option<Errno>) {
        if matches!(error, Some(Errno::ENETDOWN | Errno::ENXIO)) {
            self.went_down.store(true, Ordering::Relaxed);
        }
    }
}

fn link_address(index: u32, protocol: u16) -> LinkAddr {
    let raw = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        // The frame itself says where it goes.
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    let len = size_of_val(&raw) as u32;
    // SAFETY: `raw` is an initialised sockaddr_ll, lives through the call, and `len` is its size.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(len)) };
    // Made of a sockaddr_ll right above, so it is one.
    address.unwrap_or_else(|| unreachable!("AF_PACKET address"))
}
