//! What a crowd tells of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::connection::{How, Seen};

/// A crowd at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// Connections that live, stalled ones among them.
    pub alive: usize,
    /// Living connections that have waited for an answer longer than the crowd's patience.
    pub stalled: usize,
    /// Connections that the client ended in order.
    pub closed: usize,
    /// Connections that the other side reset.
    pub reset: usize,
    /// Connections that the other side ended.
    pub eof: usize,
    /// Connections on which a byte was lost, doubled or changed.
    pub garbled: usize,
    /// Connections that ended by another error, those that were never connected among them.
    pub error: usize,
    /// The longest time that any of them was without an answer to a byte.
    pub longest_gap: Duration,
    /// Living connections by the number of their host.
    pub by_host: BTreeMap<u8, usize>,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that came back.
    pub answered: u64,
    /// Segments that the clients' kernel sent again.
    pub retransmitted: u64,
    /// Those that did not end as they should, in words; the first few.
    pub broken: Vec<String>,
}

/// So many broken connections are told in words.
const EXAMPLES: usize = 5;

impl Report {
    pub(super) fn of(all: &[Seen], patience: Duration) -> Self {
        let ended = |wanted: fn(How) -> bool| {
            all.iter().filter(|seen| seen.ended.as_ref().is_some_and(|ended| wanted(ended.how))).count()
        };
        let living = || all.iter().filter(|seen| seen.ended.is_none());
        let mut by_host = BTreeMap::new();
        for host in living().filter_map(|seen| seen.host) {
            *by_host.entry(host).or_default() += 1;
        }
        let is_broken = |seen: &&Seen| {
            seen.waits > patience || seen.ended.as_ref().is_some_and(|ended| ended.how != How::Closed)
        };
        Self {
            alive: living().count(),
            stalled: living().filter(|seen| seen.waits > patience).count(),
            closed: ended(|how| how == How::Closed),
            reset: ended(|how| how == How::Reset),
            eof: ended(|how| how == How::Eof),
            garbled: ended(|how| how == How::Garbled),
            error: ended(|how| matches!(how, How::Error(_))),
            longest_gap: all.iter().map(|seen| seen.longest_gap).max().unwrap_or_default(),
            by_host,
            sent: all.iter().map(|seen| seen.sent).sum(),
            answered: all.iter().map(|seen| seen.answered).sum(),
            retransmitted: all.iter().map(|seen| u64::from(seen.retransmitted)).sum(),
            broken: all.iter().filter(is_broken).take(EXAMPLES).map(Seen::to_string).collect(),
        }
    }

    /// Connections that ended otherwise than in order.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.reset + self.eof + self.garbled + self.error
    }

    /// Fails when a connection was broken or stands still.
    ///
    /// # Errors
    /// With the report.
    pub fn ensure_unbroken(&self, when: &str) -> Result<()> {
        ensure!(self.lost() == 0 && self.stalled == 0, "{when}: connections were broken: {self}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alive, stalled, closed, reset, eof, garbled, error, .. } = self;
        let gap = self.longest_gap.as_secs_f64();
        write!(
            out,
            "{alive} alive ({stalled} stalled), {closed} closed, {reset} reset, {eof} ended by the server, "
        )?;
        write!(out, "{garbled} garbled, {error} other errors; longest gap {gap:.3} s; ")?;
        write!(out, "{} of {} bytes answered, ", self.answered, self.sent)?;
        write!(out, "{} segments sent again; by host:", self.retransmitted)?;
        for (host, count) in &self.by_host {
            write!(out, " h{host} {count}")?;
        }
        self.broken.iter().try_for_each(|broken| write!(out, "\n  {broken}"))
    }
}
