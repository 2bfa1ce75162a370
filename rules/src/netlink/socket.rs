//! The netlink socket: transactions out, answers in.
//!
//! nf_tables works while the request is being sent: when `send` returns, the answers (for a dump, their
//! first part) are already in the receive buffer. So nothing here ever waits: an empty buffer means that
//! there is no more to come.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use mnl::mnl_sys;
use nftnl::nftnl_sys::libc;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{setsockopt, sockopt},
};

use super::{
    Error,
    error::Object,
    object::Home,
    transaction::{Finished, Scratch},
};

/// Answers come in messages of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Refusals are 36 bytes each but take up several hundred in the socket; a batch has at most some hundred
/// messages, and a dump is read as it comes.
const RECEIVE_BUFFER: usize = 1024 * 1024;
/// How often the kernel may ask to try again before it is believed.
const ATTEMPTS: u32 = 5;

pub(super) struct Socket {
    socket: mnl::Socket,
    buffer: Vec<u32>,
    scratch: Scratch,
    sequence: u32,
    send_buffer: usize,
}

/// What became of a look at the kernel's objects.
enum Dump {
    Whole,
    /// Something was committed meanwhile: what was read does not fit together.
    Torn,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let socket = mnl::Socket::new(mnl::Bus::Netfilter).map_err(Error::Open)?;
        let mut this = Self {
            socket,
            buffer: vec![0; RECEIVE_BYTES / size_of::<u32>()],
            scratch: Scratch::new(),
            sequence: 0,
            send_buffer: 0,
        };
        let failed = |option| move |errno| Error::SocketOption { option, errno };
        fcntl(this.fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("O_NONBLOCK"))?;
        // Refusals quote the refused message in full unless they are told not to.
        this.cap_acknowledgements().map_err(failed("NETLINK_CAP_ACK"))?;
        this.grow_send_buffer(256 * 1024)?;
        // Without the privilege the transaction itself is going to say so, better than this could.
        let _ = setsockopt(&this.fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(this)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket is, and the borrow ends before.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn cap_acknowledgements(&self) -> nix::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the socket is open, and the option takes an int.
        let result = unsafe {
            mnl_sys::mnl_socket_setsockopt(
                self.socket.as_raw_socket(),
                libc::NETLINK_CAP_ACK,
                (&raw const on).cast_mut().cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Makes room for a transaction of that many bytes: it must leave in one piece.
    fn grow_send_buffer(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.send_buffer {
            return Ok(());
        }
        // The kernel keeps 32 bytes to itself.
        let wanted = (bytes + 4096).next_power_of_two();
        match setsockopt(&self.fd(), sockopt::SndBufForce, &wanted) {
            // The kernel said what it needs; the transaction will be refused with a better message.
            Ok(()) | Err(Errno::EPERM) => {
                self.send_buffer = wanted;
                Ok(())
            }
            Err(errno) => Err(Error::SocketOption { option: "SO_SNDBUFFORCE", errno }),
        }
    }

    /// Where the next transaction starts to count.
    pub(super) fn next_sequence(&mut self) -> u32 {
        // Started over long before it wraps, so that the numbers of one transaction only grow.
        if self.sequence > u32::MAX / 2 {
            self.sequence = 0;
        }
        self.sequence + 1
    }

    /// Sends a transaction and reads what the kernel says to it.
    pub(super) fn commit(&mut self, transaction: &Finished, what: &str) -> Result<(), Error> {
        let mut attempt = 1;
        loop {
            match self.commit_once(transaction, what) {
                // The rulesets moved on between the kernel's first and second look: its own advice.
                Err(Error::Rejected { errno: Errno::EAGAIN | Errno::EINTR, .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn commit_once(&mut self, transaction: &Finished, what: &str) -> Result<(), Error> {
        self.sequence = transaction.sequences().end;
        self.grow_send_buffer(transaction.buffer.len())?;
        self.send(&transaction.buffer, what)?;
        let mut acknowledged = false;
        let mut refused: Vec<(u32, Errno)> = Vec::new();
        let mut lost = false;
        loop {
            let outcome = receive(&self.socket, &mut self.buffer, |message| {
                let Message { kind, sequence, payload, .. } = message;
                if i32::from(kind) != libc::NLMSG_ERROR || !transaction.sequences().contains(&sequence) {
                    return;
                }
                match error_in(payload) {
                    None => acknowledged |= sequence == transaction.acknowledged,
                    Some(errno) => refused.push((sequence, errno)),
                }
            });
            match outcome {
                Ok(()) => {}
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENOBUFS) => lost = true,
                Err(errno) => return Err(receive_error(what, errno)),
            }
        }
        match refused.iter().min_by_key(|(sequence, _)| *sequence) {
            Some((sequence, errno)) => Err(transaction.refused(*sequence, *errno)),
            None if acknowledged => Ok(()),
            None if lost => Err(Error::Lost { what: what.into() }),
            None => Err(Error::NoAnswer { what: what.into() }),
        }
    }

    /// Asks for objects and hands each answer to `each` (a pointer to the whole message). With `NLM_F_DUMP`
    /// among the flags there are many answers, else one. `Ok(false)` means that there is no such object.
    pub(super) fn ask(
        &mut self,
        what: &str,
        kind: i32,
        home: Home<'_>,
        flags: i32,
        fill: impl Fn(*mut libc::nlmsghdr),
        each: &mut dyn FnMut(*const libc::nlmsghdr) -> bool,
    ) -> Result<bool, Error> {
        self.sequence = self.next_sequence();
        fill(self.scratch.header(kind, home.family_number(), flags, self.sequence));
        self.send(self.scratch.message(), what)?;
        let dump = flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP;
        let mut readable = true;
        let there =
            self.answers(what, Object::Batch, dump, &mut |message| readable &= each(message.start))?;
        if readable { Ok(there) } else { Err(Error::Unreadable { what: what.into() }) }
    }

    /// Asks another part of netfilter for a list, and hands the payload of each answer to `each`. `kind` has
    /// the number of that part in its upper half.
    pub(super) fn dump(
        &mut self,
        what: &str,
        object: Object,
        kind: u16,
        payload: &[u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        self.sequence = self.next_sequence();
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        let len = (size_of::<libc::nlmsghdr>() + payload.len()) as u32;
        let message = [
            &len.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &flags.to_ne_bytes(),
            &self.sequence.to_ne_bytes(),
            // To the kernel.
            &[0; 4],
            payload,
        ]
        .concat();
        self.send(&message, what)?;
        self.answers(what, object, true, &mut |message| each(message.payload)).map(drop)
    }

    /// Reads the answers to the last request. `false` means that there is no such object.
    fn answers(
        &mut self,
        what: &str,
        object: Object,
        dump: bool,
        each: &mut dyn FnMut(&Message<'_>),
    ) -> Result<bool, Error> {
        let mine = self.sequence;
        let mut done = false;
        let mut state = Dump::Whole;
        let mut refused = None;
        while !done {
            let outcome = receive(&self.socket, &mut self.buffer, |message| {
                if message.sequence != mine {
                    return;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    state = Dump::Torn;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        done = true;
                        refused = error_in(message.payload);
                    }
                    _ => {
                        each(&message);
                        done |= !dump;
                    }
                }
            });
            match outcome {
                Ok(()) => {}
                Err(Errno::EAGAIN) => return Err(Error::NoAnswer { what: what.into() }),
                Err(errno) => return Err(receive_error(what, errno)),
            }
        }
        match (refused, state) {
            (Some(Errno::ENOENT), _) => Ok(false),
            (Some(Errno::EINTR), _) | (None, Dump::Torn) => Err(receive_error(what, Errno::EINTR)),
            (Some(errno), _) => Err(super::error::refused(object, what.into(), errno)),
            (None, Dump::Whole) => Ok(true),
        }
    }

    fn send(&self, bytes: &[u8], what: &str) -> Result<(), Error> {
        loop {
            match self.socket.send(bytes) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Send { what: what.into(), source }),
            }
        }
    }
}

/// linux/netlink.h; libc does not have it for all targets.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One received message.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// The header, followed by the payload.
    start: *const libc::nlmsghdr,
    payload: &'a [u8],
}

/// Receives once and hands over the messages that came.
fn receive(socket: &mnl::Socket, buffer: &mut [u32], mut each: impl FnMut(Message<'_>)) -> Result<(), Errno> {
    // SAFETY: numbers may be looked at and written as the bytes they consist of.
    let (_, bytes, _) = unsafe { buffer.align_to_mut::<u8>() };
    let errno = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let messages = loop {
        match socket.recv_raw(bytes) {
            Ok(len) => break mnl::NlMessages::new(&bytes[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(errno(e)),
        }
    };
    for message in messages {
        let message = message.map_err(errno)?;
        let start = message.as_ptr().cast::<libc::nlmsghdr>();
        // SAFETY: the iterator has checked the length and the alignment of the header.
        let header = unsafe { start.read() };
        each(Message {
            kind: header.nlmsg_type,
            flags: header.nlmsg_flags,
            sequence: header.nlmsg_seq,
            start,
            payload: &message[size_of::<libc::nlmsghdr>()..],
        });
    }
    Ok(())
}

/// The number that an NLMSG_ERROR or NLMSG_DONE begins with: zero is success, errors are negative.
fn error_in(payload: &[u8]) -> Option<Errno> {
    let number = payload.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
    (number < 0).then(|| Errno::from_raw(-number))
}

fn receive_error(what: &str, errno: Errno) -> Error {
    Error::Receive { what: what.into(), source: errno.into() }
}
