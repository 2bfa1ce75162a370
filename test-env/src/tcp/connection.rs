//! One connection that lasts: what was sent, what came back, and how it ended.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::socket::{self, Info};

/// Bytes that may be without an answer; a connection that has so many sends nothing new. Below 256, the
/// numbers that a byte can tell apart.
const MOST_WAITING: usize = 250;
/// A byte that has waited so long makes it worth to watch when the kernel sends segments.
const WATCH_AFTER: Duration = Duration::from_millis(30);
/// So many times of segments are kept.
const MOST_SEGMENTS: usize = 64;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The client ended it, and the server ended its side.
    Closed,
    /// The other side sent a reset.
    Reset,
    /// The other side ended it without being asked to.
    Eof,
    /// A byte came back that was not the next, so one was lost, doubled or changed.
    Garbled,
    /// Any other error, by its number (errno(3)).
    Error(i32),
}

/// The end of a connection.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub how: How,
    /// When the client learned it.
    pub at: Instant,
    /// When the client's kernel sent segments, again or for the first time, since the last answer: the last 64
    /// times at most, each seen up to some 20 ms late but for the last one.
    pub segments: Vec<Instant>,
    /// Bytes that were never answered.
    pub unanswered: usize,
}

impl Ended {
    /// How long the end came after the first segment that was sent when `healed` had passed; nothing where the
    /// end came before any such segment.
    #[must_use]
    pub fn told_after(&self, healed: Instant) -> Duration {
        let first = self.segments.iter().find(|sent| **sent >= healed);
        first.map_or(Duration::ZERO, |first| self.at.saturating_duration_since(*first))
    }
}

/// What is known of one connection.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The number of the host on which it lives.
    pub host: Option<u8>,
    /// Its longest time without an answer to a byte, also to the one that it waits for now.
    pub longest_gap: Duration,
    /// How long the oldest byte without an answer has waited.
    pub waits: Duration,
    /// Bytes sent and answered.
    pub sent: u64,
    /// Of these.
    pub answered: u64,
    /// Segments that the client's kernel sent again.
    pub retransmitted: u32,
    /// Its end, if it has come.
    pub ended: Option<Ended>,
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} on ", self.client)?;
        match self.host {
            Some(host) => write!(out, "h{host}")?,
            None => out.write_str("no host")?,
        }
        let Self { sent, answered, longest_gap, .. } = self;
        match &self.ended {
            None => write!(out, " lives")?,
            Some(ended) => write!(out, " ended by {:?}, {} bytes unanswered", ended.how, ended.unanswered)?,
        }
        write!(out, ", {answered} of {sent} answered, longest gap {longest_gap:?}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// Connected; the greeting has not come.
    Greeting,
    Living,
    /// The client has ended its side.
    Closing,
    Ended,
}

/// One connection and its socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Option<TcpStream>,
    stage: Stage,
    client: SocketAddr,
    host: Option<u8>,
    sent: u64,
    answered: u64,
    /// When the bytes without an answer were sent, the oldest first.
    waiting: VecDeque<Instant>,
    longest: Duration,
    /// The same, since somebody last asked.
    longest_lately: Duration,
    segments: VecDeque<Instant>,
    info: Info,
    ended: Option<Ended>,
}

impl Connection {
    /// Begins to connect, in the namespace of the calling thread.
    pub(super) fn begin(client: IpAddr, server: SocketAddr, now: Instant) -> io::Result<Self> {
        let socket = socket::begin(client, server)?;
        let client = socket.local_addr()?;
        Ok(Self {
            socket: Some(socket),
            stage: Stage::Connecting,
            client,
            host: None,
            sent: 0,
            answered: 0,
            // What waits first is the connection itself.
            waiting: VecDeque::from([now]),
            longest: Duration::ZERO,
            longest_lately: Duration::ZERO,
            segments: VecDeque::new(),
            info: Info::default(),
            ended: None,
        })
    }

    pub(super) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    pub(super) fn host(&self) -> Option<u8> {
        self.host
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    pub(super) fn is_living(&self) -> bool {
        self.stage == Stage::Living
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Neither living nor ended yet, at its begin.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Connecting | Stage::Greeting)
    }

    /// The socket has become writable.
    pub(super) fn connected(&mut self, now: Instant) {
        let Some(socket) = &self.socket else { return };
        match socket.take_error() {
            Ok(None) => self.stage = Stage::Greeting,
            Ok(Some(error)) | Err(error) => self.fail(&error, now),
        }
    }

    /// Sends the next byte.
    pub(super) fn send(&mut self, now: Instant) {
        let Some(socket) = self.socket.as_mut().filter(|_| self.stage == Stage::Living) else { return };
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        match socket.write(&[number(self.sent)]) {
            Ok(_) => {
                self.sent += 1;
                self.waiting.push_back(now);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.fail(&error, now),
        }
    }

    /// Takes what has come.
    pub(super) fn receive(&mut self, now: Instant) {
        let Some(socket) = &mut self.socket else { return };
        let mut buffer = [0; 512];
        match socket.read(&mut buffer) {
            Ok(0) => {
                let asked = self.stage == Stage::Closing && self.waiting.is_empty();
                self.end(if asked { How::Closed } else { How::Eof }, now);
            }
            Ok(count) => self.take(&buffer[..count], now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.fail(&error, now),
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant) {
        let mut bytes = bytes.iter();
        if self.stage == Stage::Greeting {
            self.host = bytes.next().copied();
            self.note_answer(now);
            self.longest = Duration::ZERO;
            self.longest_lately = Duration::ZERO;
            self.stage = Stage::Living;
        }
        for byte in bytes {
            if self.waiting.is_empty() || *byte != number(self.answered) {
                return self.end(How::Garbled, now);
            }
            self.answered += 1;
            self.note_answer(now);
        }
    }

    fn note_answer(&mut self, now: Instant) {
        if let Some(sent) = self.waiting.pop_front() {
            self.lengthen(now.saturating_duration_since(sent));
        }
        self.segments.clear();
    }

    fn lengthen(&mut self, gap: Duration) {
        self.longest = self.longest.max(gap);
        self.longest_lately = self.longest_lately.max(gap);
    }

    fn waits(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |sent| now.saturating_duration_since(*sent))
    }

    /// Looks whether the kernel has sent segments, if a byte has been waiting for a while.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.stage == Stage::Ended || self.waits(now) < WATCH_AFTER {
            return;
        }
        let Some(info) = self.socket.as_ref().and_then(|socket| socket::info(socket).ok()) else { return };
        if info.segments_out != self.info.segments_out {
            self.note_segment(now);
        }
        self.info = info;
    }

    fn note_segment(&mut self, at: Instant) {
        if self.segments.len() == MOST_SEGMENTS {
            self.segments.pop_front();
        }
        self.segments.push_back(at);
    }

    /// Ends the client's side: the server is to answer what is under way and then to end its own.
    pub(super) fn close(&mut self, now: Instant) {
        let Some(socket) = &self.socket else { return };
        if self.stage == Stage::Living {
            match socket.shutdown(Shutdown::Write) {
                Ok(()) => self.stage = Stage::Closing,
                Err(error) => self.fail(&error, now),
            }
        }
    }

    fn fail(&mut self, error: &io::Error, now: Instant) {
        let how = match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => How::Reset,
            _ => How::Error(error.raw_os_error().unwrap_or(0)),
        };
        self.end(how, now);
    }

    fn end(&mut self, how: How, now: Instant) {
        self.lengthen(self.waits(now));
        if let Some(info) = self.socket.take().and_then(|socket| socket::info(&socket).ok()) {
            let ago = Duration::from_millis(info.last_data_sent_ms.into());
            if let Some(last) = now.checked_sub(ago)
                && self.segments.back().is_none_or(|seen| *seen < last)
            {
                self.note_segment(last);
            }
            self.info = info;
        }
        self.stage = Stage::Ended;
        let segments = std::mem::take(&mut self.segments).into();
        self.ended = Some(Ended { how, at: now, segments, unanswered: self.waiting.len() });
        self.waiting.clear();
    }

    /// The longest gap since this was last asked, with what waits now.
    pub(super) fn take_longest_lately(&mut self, now: Instant) -> Duration {
        std::mem::take(&mut self.longest_lately).max(self.waits(now))
    }

    pub(super) fn seen(&self, now: Instant) -> Seen {
        let latest = self.socket.as_ref().and_then(|socket| socket::info(socket).ok());
        let waits = self.waits(now);
        Seen {
            client: self.client,
            host: self.host,
            longest_gap: self.longest.max(waits),
            waits,
            sent: self.sent,
            answered: self.answered,
            retransmitted: latest.unwrap_or(self.info).retransmitted,
            ended: self.ended.clone(),
        }
    }
}

/// The n-th byte of a connection.
fn number(n: u64) -> u8 {
    // Only the low byte is meant.
    n as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_counts_from_the_first_segment_after_healing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ended = Ended {
            how: How::Reset,
            at: at(1405),
            segments: vec![at(200), at(600), at(1400)],
            unanswered: 3,
        };
        assert_eq!(ended.told_after(at(500)), Duration::from_millis(805));
        assert_eq!(ended.told_after(at(1000)), Duration::from_millis(5));
        assert_eq!(ended.told_after(at(1500)), Duration::ZERO);
    }
}
