//! Readers that stop reading: of an agent's log, and of what it tells systemd.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A reader looks so often whether it is to stall, or to end.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Wishes {
    stall: AtomicBool,
    end: AtomicBool,
}

impl Wishes {
    fn are(&self, wish: &AtomicBool) -> bool {
        wish.load(Ordering::Relaxed)
    }
}

/// A pipe that carries an agent's log to a file, until its reader stalls. Dropping it ends the reader.
#[derive(Debug)]
pub struct LogPipe {
    write: OwnedFd,
    wishes: Arc<Wishes>,
}

impl LogPipe {
    /// Lays the pipe; what comes out of it is appended to `log`.
    ///
    /// # Errors
    /// When there can be no pipe, or the file cannot be opened.
    pub fn lay(log: &Path) -> Result<Self> {
        let mut log = OpenOptions::new().create(true).append(true).open(log)?;
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let wishes = Arc::new(Wishes::default());
        spawn({
            let wishes = Arc::clone(&wishes);
            move || {
                let mut read = File::from(read);
                let mut buffer = [0; 4096];
                while !wishes.are(&wishes.end) {
                    if wishes.are(&wishes.stall) || !readable(&read) {
                        sleep(LOOK);
                        continue;
                    }
                    let Ok(length @ 1..) = read.read(&mut buffer) else { return };
                    // A log that cannot be written shows in what is missing from it.
                    let _ = log.write_all(&buffer[..length]);
                }
            }
        });
        Ok(Self { write, wishes })
    }

    /// The end that an agent writes to.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn end(&self) -> Result<OwnedFd> {
        Ok(self.write.try_clone()?)
    }

    /// The reader stops, and the pipe is full: the next line finds no room.
    ///
    /// # Errors
    /// When the pipe cannot be opened once more.
    pub fn stall(&self) -> Result<()> {
        self.wishes.stall.store(true, Ordering::Relaxed);
        // What the reader was at is done by then.
        sleep(LOOK * 5);
        // By an end of its own, so that the agent's stays a blocking one.
        let mut filler = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(format!("/proc/self/fd/{}", self.write.as_raw_fd()))?;
        for size in [4096, 1] {
            while filler.write(&vec![b'\n'; size]).is_ok() {}
        }
        Ok(())
    }

    /// The reader goes on.
    pub fn resume(&self) {
        self.wishes.stall.store(false, Ordering::Relaxed);
    }
}

impl Drop for LogPipe {
    fn drop(&mut self) {
        self.wishes.end.store(true, Ordering::Relaxed);
    }
}

fn readable(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// A systemd that listens at a socket, until it stalls. Dropping it ends it.
#[derive(Debug)]
pub struct Supervisor {
    path: PathBuf,
    heard: Arc<AtomicUsize>,
    wishes: Arc<Wishes>,
}

impl Supervisor {
    /// Begins to listen at a new socket.
    ///
    /// # Errors
    /// When there is something at that path already.
    pub fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path).with_context(|| format!("no socket at {}", path.display()))?;
        socket.set_read_timeout(Some(LOOK))?;
        let (heard, wishes) = (Arc::new(AtomicUsize::new(0)), Arc::new(Wishes::default()));
        spawn({
            let (heard, wishes) = (Arc::clone(&heard), Arc::clone(&wishes));
            move || {
                let mut buffer = [0; 4096];
                while !wishes.are(&wishes.end) {
                    if wishes.are(&wishes.stall) {
                        sleep(LOOK);
                    } else if socket.recv(&mut buffer).is_ok() {
                        heard.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(Self { path: path.to_owned(), heard, wishes })
    }

    /// The variable by which an agent finds it.
    #[must_use]
    pub fn environment(&self) -> (String, std::ffi::OsString) {
        ("NOTIFY_SOCKET".to_owned(), self.path.clone().into())
    }

    /// How many messages it has read.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }

    /// It reads nothing more; its queue fills.
    pub fn stall(&self) {
        self.wishes.stall.store(true, Ordering::Relaxed);
    }

    /// It reads again.
    pub fn resume(&self) {
        self.wishes.stall.store(false, Ordering::Relaxed);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.wishes.end.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::poll_until;

    #[test]
    fn a_stalled_pipe_takes_nothing_and_goes_on_later() -> Result<()> {
        let log = std::env::temp_dir().join(format!("onemac-pipe-{}", std::process::id()));
        let pipe = LogPipe::lay(&log)?;
        let mut end = File::from(pipe.end()?);
        end.write_all(b"before\n")?;
        let logged = |text: &str| Ok(std::fs::read_to_string(&log)?.contains(text));
        poll_until(Duration::from_secs(10), || logged("before"))?;
        pipe.stall()?;
        let mut filler = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(format!("/proc/self/fd/{}", end.as_raw_fd()))?;
        assert!(filler.write(b"x").is_err(), "there is room");
        pipe.resume();
        end.write_all(b"after\n")?;
        poll_until(Duration::from_secs(10), || logged("after"))?;
        std::fs::remove_file(&log)?;
        Ok(())
    }
}
