//! What the numbered clients noted, and the questions put to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub client: u16,
    pub number: u32,
    pub host: u8,
    /// Microseconds from the start, by the kernel that received it.
    pub at_us: u64,
    /// It came from the shared address that was asked.
    pub from_vip: bool,
}

/// All that was sent and answered.
#[derive(Clone, Debug)]
pub struct Tally {
    clients: Vec<IpAddr>,
    started: Instant,
    started_unix: Duration,
    sent: Vec<u32>,
    /// By client, then in the order of arrival.
    answers: Vec<Vec<Answer>>,
    strange: usize,
}

/// A number that was answered twice.
#[derive(Clone, Debug)]
pub struct Twice {
    /// Whose.
    pub client: IpAddr,
    /// Which.
    pub number: u32,
    /// The hosts that answered, and when, from the start of the clients.
    pub answers: Vec<(u8, Duration)>,
}

/// How long a client had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Silence {
    /// For how long. The time between two queries of a client is in it.
    pub length: Duration,
    /// When it began, from the start of the clients.
    pub from: Duration,
    /// Whose.
    pub client: IpAddr,
}

impl Tally {
    pub(super) fn new(
        clients: Vec<IpAddr>,
        (started, started_unix): (Instant, Duration),
        sent: Vec<u32>,
        all: Vec<Answer>,
    ) -> Self {
        let mut answers = vec![Vec::new(); clients.len()];
        let mut strange = 0;
        for answer in all {
            let client = usize::from(answer.client);
            if answer.from_vip && sent.get(client).is_some_and(|&sent| answer.number < sent) {
                answers[client].push(answer);
            } else {
                strange += 1;
            }
        }
        Self { clients, started, started_unix, sent, answers, strange }
    }

    /// Numbers sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.iter().map(|&sent| sent as usize).sum()
    }

    /// Wall clock time, from 1970 on, at so long after the start of the clients: to find it in a log.
    #[must_use]
    pub fn unix(&self, since_start: Duration) -> Duration {
        self.started_unix + since_start
    }

    /// Numbers without an answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        let answered: usize = self
            .answers
            .iter()
            .map(|answers| {
                let mut numbers: Vec<u32> = answers.iter().map(|answer| answer.number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                numbers.len()
            })
            .sum();
        self.sent() - answered
    }

    /// Numbers with more than one answer.
    #[must_use]
    pub fn twice(&self) -> Vec<Twice> {
        let mut found = Vec::new();
        for (client, answers) in self.clients.iter().zip(&self.answers) {
            let mut by_number: BTreeMap<u32, Vec<(u8, Duration)>> = BTreeMap::new();
            for answer in answers {
                let at = Duration::from_micros(answer.at_us);
                by_number.entry(answer.number).or_default().push((answer.host, at));
            }
            let twice = by_number.into_iter().filter(|(_, answers)| answers.len() > 1);
            found.extend(twice.map(|(number, answers)| Twice { client: *client, number, answers }));
        }
        found
    }

    /// Fails if a number was answered twice, or an answer came that nobody had asked for.
    ///
    /// # Errors
    /// With the first of them.
    pub fn ensure_never_twice(&self, what: &str) -> Result<()> {
        let twice = self.twice();
        let some: Vec<String> = twice.iter().take(10).map(ToString::to_string).collect();
        ensure!(
            twice.is_empty(),
            "{what}: {} of {} numbers answered twice:\n  {}",
            twice.len(),
            self.sent(),
            some.join("\n  ")
        );
        ensure!(self.strange == 0, "{what}: {} answers to numbers nobody sent", self.strange);
        Ok(())
    }

    /// The longest time that any client was without an answer in a span of time.
    #[must_use]
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Option<Silence> {
        let [from, to] = [from, to].map(|moment| moment.saturating_duration_since(self.started));
        self.clients
            .iter()
            .zip(&self.answers)
            .flat_map(|(client, answers)| gaps(*client, answers, from, to))
            .map(|(gap, _)| gap)
            .max()
    }

    /// Every time longer than `least` in which a client was without an answer in a span of time, and the
    /// number of the host that ended it.
    #[must_use]
    pub fn silences(&self, from: Instant, to: Instant, least: Duration) -> Vec<(Silence, Option<u8>)> {
        let [from, to] = [from, to].map(|moment| moment.saturating_duration_since(self.started));
        let each = self.clients.iter().zip(&self.answers);
        each.flat_map(|(client, answers)| gaps(*client, answers, from, to))
            .filter(|(gap, _)| gap.length > least)
            .collect()
    }

    /// How many clients each host answered last, by the host's number.
    #[must_use]
    pub fn shares(&self) -> BTreeMap<u8, usize> {
        let mut shares = BTreeMap::new();
        for last in self.answers.iter().filter_map(|answers| answers.last()) {
            *shares.entry(last.host).or_default() += 1;
        }
        shares
    }
}

/// The times between answers, and to both ends of the span, with the host that ended each.
fn gaps(client: IpAddr, answers: &[Answer], from: Duration, to: Duration) -> Vec<(Silence, Option<u8>)> {
    let mut times: Vec<(Duration, Option<u8>)> = answers
        .iter()
        .map(|answer| (Duration::from_micros(answer.at_us), Some(answer.host)))
        .filter(|(at, _)| (from..to).contains(at))
        .chain([(to, None)])
        .collect();
    times.sort_unstable();
    let mut last = from;
    let gap = |(at, host)| {
        let gap = Silence { length: at - last, from: last, client };
        last = at;
        (gap, host)
    };
    times.into_iter().map(gap).collect()
}

impl fmt::Display for Twice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} number {}:", self.client, self.number)?;
        self.answers.iter().try_for_each(|(host, at)| write!(out, " h{host} at {:.6} s", at.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(client: u16, number: u32, host: u8, at_ms: u64) -> Answer {
        Answer { client, number, host, at_us: at_ms * 1000, from_vip: true }
    }

    fn tally(started: Instant, sent: &[u32], answers: Vec<Answer>) -> Tally {
        let clients = (1..=sent.len() as u8).map(|n| IpAddr::from([198, 18, 0, n])).collect();
        Tally::new(clients, (started, Duration::ZERO), sent.to_vec(), answers)
    }

    #[test]
    fn a_number_with_two_answers_is_found_whoever_gave_them() {
        let now = Instant::now();
        let log = tally(now, &[2, 2], vec![answer(0, 0, 1, 1), answer(1, 0, 1, 1), answer(0, 0, 2, 9)]);
        let twice = log.twice();
        assert_eq!(twice.len(), 1);
        assert_eq!(twice[0].to_string(), "198.18.0.1 number 0: h1 at 0.001000 s h2 at 0.009000 s");
        assert!(log.ensure_never_twice("here").is_err());
        assert_eq!((log.sent(), log.lost()), (4, 2));
        assert!(tally(now, &[1], vec![answer(0, 0, 1, 1), answer(0, 0, 1, 2)]).twice().len() == 1);
    }

    #[test]
    fn an_answer_to_a_number_never_sent_is_strange() {
        let now = Instant::now();
        assert!(tally(now, &[1], vec![answer(0, 0, 1, 1)]).ensure_never_twice("here").is_ok());
        assert!(tally(now, &[1], vec![answer(0, 1, 1, 1)]).ensure_never_twice("here").is_err());
        let elsewhere = Answer { from_vip: false, ..answer(0, 0, 1, 1) };
        assert!(tally(now, &[1], vec![elsewhere]).ensure_never_twice("here").is_err());
    }

    #[test]
    fn silence_is_the_longest_gap_of_any_client_within_the_span() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let log = tally(now, &[9, 9], vec![answer(0, 0, 1, 100), answer(0, 1, 1, 180), answer(1, 0, 1, 150)]);
        let longest = log.longest_silence(now, at(200)).unwrap();
        assert_eq!(
            (longest.length, longest.client),
            (Duration::from_millis(150), "198.18.0.2".parse().unwrap())
        );
        assert_eq!(log.longest_silence(at(90), at(180)).unwrap().length, Duration::from_millis(80));
    }
}
