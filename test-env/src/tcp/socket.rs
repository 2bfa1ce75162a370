//! What clients do with a socket beyond reading and writing.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Begins to connect from `client`, in the namespace of the calling thread. Whether it succeeds shows when the
/// socket becomes writable.
pub(super) fn begin(client: IpAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// What the kernel knows of a connection, of which it is also told when the connection has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Info {
    /// Segments sent again, from the first SYN on.
    pub retransmitted: u32,
    /// Segments sent, those sent again among them.
    pub segments_out: u32,
    /// Milliseconds since a segment with data was sent.
    pub last_data_sent_ms: u32,
}

pub(super) fn info(socket: &impl AsFd) -> io::Result<Info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointers are to a buffer of `length` bytes and to that length, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes are initialised, by zero or by the kernel, and every field is a plain integer.
    let info = unsafe { info.assume_init() };
    Ok(Info {
        retransmitted: info.tcpi_total_retrans,
        segments_out: info.tcpi_segs_out,
        last_data_sent_ms: info.tcpi_last_data_sent,
    })
}

/// Room for this many more sockets in this process.
pub(super) fn make_room(sockets: usize) -> Result<()> {
    // Others in this process have some too: nameserver logs, captures, the labs of tests beside this one.
    let wanted = u64::try_from(sockets)? + 2048;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
            .with_context(|| format!("no room for {wanted} open sockets (ulimit -n)"))?;
    }
    Ok(())
}
