//! What of a report need not be said every time: all but its number and how far each host was heard.
//!
//! The numbers in `heard` are in the body as they were when it was made; a heartbeat says how much each has grown since.

use onemac_core::report::{Report, Stamp};
use serde::{Deserialize, Serialize};

use super::BODY_MAX;

/// Names one run of one agent: random, so nothing that was recorded before the run can name it.
pub type Run = [u8; 8];

/// Names a body: the first bytes of its BLAKE3. Only who knows the secret makes one that is believed.
pub type Digest = [u8; 8];

/// An answer that has grown by this since the body was made needs another body: two bytes of seven bits hold less.
const GROWTH_MAX: u64 = 1 << 14;

/// A body, as it travels.
#[derive(Debug)]
pub struct Body {
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub said: Said,
}

/// What a body says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The run of the agent that speaks.
    pub run: Run,
    /// The runs of others that it has heard of: who finds its own one here knows that this was said during its run.
    pub runs: Vec<Run>,
    /// The report, with number 0.
    pub report: Report,
}

impl Body {
    /// Of a report; `None` if it is too large.
    pub fn new(report: &Report, run: Run, runs: Vec<Run>) -> Option<Self> {
        let mut report = report.clone();
        report.stamp.seq = 0;
        let said = Said { run, runs, report };
        let bytes = postcard::to_extend(&said, Vec::new()).ok()?;
        (bytes.len() <= BODY_MAX).then(|| Body { digest: digest(&bytes), bytes, said })
    }

    /// From bytes; `None` if they are none.
    pub fn read(bytes: Vec<u8>) -> Option<Self> {
        let (said, rest): (Said, _) = postcard::take_from_bytes(&bytes).ok()?;
        let report = &said.report;
        let possible = report.stamp.is_possible() && report.heard.values().all(|stamp| stamp.is_possible());
        let ok = rest.is_empty() && possible;
        ok.then(|| Body { digest: digest(&bytes), bytes, said })
    }

    /// What a heartbeat has to say besides, for this report to be put together from it; `None` if the report needs
    /// another body.
    pub fn answers(&self, report: &Report) -> Option<Vec<u8>> {
        let base = &self.said.report;
        if base.heard.len() != report.heard.len() {
            return None;
        }
        let mut answers = Vec::with_capacity(2 * report.heard.len());
        for (was, is) in base.heard.values().zip(report.heard.values()) {
            let growth = is.seq.checked_sub(was.seq).filter(|&growth| growth < GROWTH_MAX)?;
            answers = postcard::to_extend(&growth, answers).ok()?;
        }
        let mut same = report.clone();
        same.stamp.seq = 0;
        for (is, was) in same.heard.values_mut().zip(base.heard.values()) {
            is.seq = was.seq;
        }
        (same == *base).then_some(answers)
    }

    /// The report of which a heartbeat says this. A heartbeat of another life has another body.
    pub fn report(&self, stamp: Stamp, mut answers: &[u8]) -> Option<Report> {
        let mut report = self.said.report.clone();
        if report.stamp.incarnation != stamp.incarnation {
            return None;
        }
        report.stamp = stamp;
        for heard in report.heard.values_mut() {
            let (growth, rest): (u64, _) = postcard::take_from_bytes(answers).ok()?;
            heard.seq = heard.seq.checked_add(growth)?;
            answers = rest;
        }
        answers.is_empty().then_some(report)
    }
}

/// The name of a body.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    digest
}
