//! The log: lines to standard error that hold nobody up.
//!
//! Whatever reads our standard error (a pipe, the journal, a file on a full disk) may stall, and the loop must not
//! stall with it. So lines wait in a bounded queue for a thread of their own. A line that finds no room is left out and
//! counted; the loop tells.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many lines may wait: minutes of a busy agent, and some hundred KiB.
const QUEUE: usize = 2048;

/// The queue of lines. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// The queue has changed.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// A line has been taken out and is not written yet.
    writing: bool,
    /// The queue was full and has not been half empty since.
    full: bool,
    /// The last line could not be written.
    failed: bool,
    /// Lines left out, or that could not be written.
    lost: u64,
}

/// What has become of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// How many lines were not written so far.
    pub lines: u64,
    /// More would be lost now.
    pub goes_on: bool,
}

impl Log {
    /// Writes to standard error, from a thread of its own.
    ///
    /// Not by [`io::stderr`], whose lock would be held for as long as a write stalls.
    pub fn to_stderr() -> io::Result<Self> {
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(mut reader: impl Write + Send + 'static) -> io::Result<Self> {
        let log = Log(Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() }));
        let shared = log.clone();
        thread::Builder::new().name("log".into()).spawn(move || shared.write_on(&mut reader))?;
        Ok(log)
    }

    /// Queues a line, or counts it. Never waits for the reader.
    pub fn line(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.full {
            queue.lost += 1;
            return;
        }
        queue.lines.push_back(line.to_vec());
        queue.full = queue.lines.len() >= QUEUE;
        self.0.changed.notify_all();
    }

    /// What was lost so far.
    pub fn losses(&self) -> Losses {
        let queue = self.queue();
        Losses { lines: queue.lost, goes_on: queue.full || queue.failed }
    }

    /// Waits until all lines are written, at most so long; whether they are.
    pub fn finish(&self, limit: Duration) -> bool {
        let busy = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        let waited = self.0.changed.wait_timeout_while(self.queue(), limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn write_on(&self, reader: &mut impl Write) {
        loop {
            let waiting = self.0.changed.wait_while(self.queue(), |queue| queue.lines.is_empty());
            let mut queue = waiting.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = queue.lines.pop_front() else { continue };
            // Not at the first free place: the gaps would be many and small.
            queue.full &= queue.lines.len() > QUEUE / 2;
            queue.writing = true;
            drop(queue);
            let written = reader.write_all(&line);
            let mut queue = self.queue();
            queue.writing = false;
            queue.failed = written.is_err();
            if queue.failed {
                queue.lost += 1;
            }
            self.0.changed.notify_all();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while the lock was held leaves a queue of whole lines.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For `tracing`, which writes a line at a time.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    #[test]
    fn a_reader_that_stalls_loses_lines_and_they_are_counted() {
        let (reader, writer) = io::pipe().unwrap();
        let log = Log::to(writer).unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        // More than a pipe (64 KiB) and the queue hold.
        let sent = 4 * QUEUE as u64;
        (0..sent).for_each(|_| log.line(&line));
        let lost = log.losses().lines;
        assert!(lost > 0 && log.losses().goes_on);
        assert!(!log.finish(Duration::from_millis(50)));

        let reading = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map(Result::unwrap);
            lines.take_while(|line| line != "after").collect::<Vec<_>>()
        });
        while log.losses().goes_on {
            thread::yield_now();
        }
        log.line(b"after\n");
        let lines = reading.join().unwrap();
        assert_eq!(lines.iter().filter(|line| line.len() == 99).count() as u64, sent - lost);
        assert_eq!(log.losses(), Losses { lines: lost, goes_on: false });
    }

    #[test]
    fn a_reader_that_has_gone_costs_lines_only() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let log = Log::to(writer).unwrap();
        log.line(b"to nobody\n");
        assert!(log.finish(Duration::from_secs(10)));
        assert_eq!(log.losses(), Losses { lines: 1, goes_on: true });
    }
}
