//! What systemd is told: that we are ready, that we live, how we are. It never waits for systemd.
//!
//! The messages are those of the crate `sd_notify`; its sending would wait for a systemd that is busy.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use onemac_core::time::Time;
use sd_notify::NotifyState;

/// The line of `systemctl status` changes at most so often.
const LINE: Duration = Duration::from_secs(1);
/// What systemd had no room for is said again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// The way to systemd, and what is still to be said.
pub struct Systemd {
    /// None where we do not run under systemd.
    to: Option<(UnixDatagram, SocketAddr)>,
    /// A third of the time after which the watchdog would end us.
    beat: Option<Duration>,
    /// The next sign of life.
    beat_due: Time,
    /// When to look again for what is to be said.
    due: Time,
    ready: bool,
    stopping: bool,
    told: String,
}

impl Systemd {
    /// Ready is what will be said first.
    pub fn open(now: Time) -> Self {
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| match way(&name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!("cannot notify systemd at {}: {error}", name.display());
                None
            }
        });
        let beat = sd_notify::watchdog_enabled().map(|limit| limit / 3);
        Systemd { to, beat, beat_due: now, due: now, ready: true, stopping: false, told: String::new() }
    }

    /// When [`speak`](Self::speak) has something to do; `None`: never.
    pub fn due(&self) -> Option<Time> {
        self.to.as_ref().map(|_| self.due)
    }

    /// The agent has begun to leave.
    pub fn stopping(&mut self, now: Time) {
        (self.stopping, self.due) = (true, now);
    }

    /// Says what is due, if systemd has room for it. `line` is how we are.
    pub fn speak(&mut self, now: Time, line: String) {
        let Some((socket, systemd)) = &self.to else { return };
        let beats = self.beat.is_some() && now >= self.beat_due;
        let changed = line != self.told;
        let words = [
            self.ready.then_some(NotifyState::Ready),
            self.stopping.then_some(NotifyState::Stopping),
            beats.then_some(NotifyState::Watchdog),
            changed.then_some(NotifyState::Status(&line)),
        ];
        let message: String = words.into_iter().flatten().map(|word| format!("{word}\n")).collect();
        if !message.is_empty()
            && let Err(error) = socket.send_to_addr(message.as_bytes(), systemd)
        {
            tracing::debug!("systemd was not told: {error}");
            self.due = now + AGAIN;
            return;
        }
        (self.ready, self.stopping) = (false, false);
        self.told = line;
        if let Some(beat) = self.beat.filter(|_| beats) {
            self.beat_due = now + beat;
        }
        let next = now + LINE;
        self.due = if self.beat.is_some() { next.min(self.beat_due) } else { next };
    }
}

fn way(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
