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
    /// By client: when each number was sent, microseconds from the start.
    sent: Vec<Vec<u64>>,
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

/// How long a client waited: from a number that it sent until that or a later one was answered. What the
/// clients themselves did not send in time, on a busy machine, is no silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Silence {
    /// For how long.
    pub length: Duration,
    /// When the number was sent, from the start of the clients.
    pub from: Duration,
    /// Whose.
    pub client: IpAddr,
}

impl Tally {
    pub(super) fn new(
        clients: Vec<IpAddr>,
        (started, started_unix): (Instant, Duration),
        sent: Vec<Vec<u64>>,
        all: Vec<Answer>,
    ) -> Self {
        let mut answers = vec![Vec::new(); clients.len()];
        let mut strange = 0;
        for answer in all {
            let client = usize::from(answer.client);
            if answer.from_vip && sent.get(client).is_some_and(|sent| (answer.number as usize) < sent.len()) {
                answers[client].push(answer);
            } else {
                strange += 1;
            }
        }
        Self { clients, started, started_unix, sent, answers, strange }
    }

    /// When the clients began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Numbers sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.iter().map(Vec::len).sum()
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

    /// The longest silence of any client that began in a span of time.
    #[must_use]
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Option<Silence> {
        self.silences(from, to, Duration::ZERO).into_iter().map(|(silence, _)| silence).max()
    }

    /// The silences of at least this length that began in a span of time, and the hosts that ended them, if
    /// any did.
    #[must_use]
    pub fn silences(&self, from: Instant, to: Instant, least: Duration) -> Vec<(Silence, Option<u8>)> {
        let span = [from, to].map(|moment| moment.saturating_duration_since(self.started));
        (0..self.clients.len())
            .flat_map(|client| self.silences_of(client, span))
            .filter(|(silence, _)| silence.length >= least)
            .collect()
    }

    /// One for each number that was answered, and one for each row of such as were not.
    fn silences_of(&self, client: usize, [from, to]: [Duration; 2]) -> Vec<(Silence, Option<u8>)> {
        let sent = &self.sent[client];
        let mut answered: Vec<Option<(Duration, u8)>> = vec![None; sent.len()];
        for answer in &self.answers[client] {
            // The first one counts: answers are in the order of arrival.
            let at = Duration::from_micros(answer.at_us);
            answered[answer.number as usize].get_or_insert((at, answer.host));
        }
        let mut found = Vec::new();
        // From the back: the end of a silence is the first answer to this number or to a later one.
        let mut end: Option<(Duration, u8)> = None;
        for (number, &sent_us) in sent.iter().enumerate().rev() {
            end = answered[number].into_iter().chain(end).min();
            let began = Duration::from_micros(sent_us);
            let within_row = number > 0
                && answered[number - 1].is_none()
                && Duration::from_micros(sent[number - 1]) >= from;
            if (from..to).contains(&began) && !within_row {
                let length = end.map_or(to, |(at, _)| at).saturating_sub(began);
                let silence = Silence { length, from: began, client: self.clients[client] };
                found.push((silence, end.map(|(_, host)| host)));
            }
        }
        found
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

    /// Each client sends so many numbers, one every 100 ms.
    fn tally(started: Instant, counts: &[u64], answers: Vec<Answer>) -> Tally {
        let clients = (1..=counts.len() as u8).map(|n| IpAddr::from([198, 18, 0, n])).collect();
        let sent = counts.iter().map(|&count| (0..count).map(|n| n * 100_000).collect()).collect();
        Tally::new(clients, (started, Duration::ZERO), sent, answers)
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
    fn a_silence_lasts_from_a_number_without_answer_to_the_first_answer_to_a_later_one() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let first = [answer(0, 0, 1, 1), answer(0, 3, 2, 305), answer(0, 4, 2, 410)];
        let second = [answer(1, 0, 1, 7), answer(1, 1, 1, 102)];
        let log = tally(now, &[5, 2], [first.as_slice(), &second].concat());
        let longest = log.longest_silence(now, at(500)).unwrap();
        assert_eq!((longest.length, longest.from), (ms(205), ms(100)));
        assert_eq!(longest.client, IpAddr::from([198, 18, 0, 1]));
        assert_eq!(log.silences(now, at(500), ms(200)), vec![(longest, Some(2))]);
        // Answers that were waited for are told where nothing was lost.
        assert_eq!(log.longest_silence(at(300), at(500)).unwrap().length, ms(10));
        assert_eq!(log.longest_silence(now, at(50)).unwrap().length, ms(7));
    }

    #[test]
    fn a_silence_that_nobody_ends_lasts_to_the_end() {
        let now = Instant::now();
        let end = now + Duration::from_millis(350);
        let log = tally(now, &[3], vec![answer(0, 0, 1, 1)]);
        assert_eq!(log.longest_silence(now, end).unwrap().length, Duration::from_millis(250));
    }
}
