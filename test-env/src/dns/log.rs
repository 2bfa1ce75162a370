//! What the clients noted, and the questions put to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// One answer to one query.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// The host that gave it.
    pub who: Arc<str>,
}

/// One query and what came back.
#[derive(Clone, Debug)]
pub struct QueryLog {
    /// When it was sent.
    pub sent: Instant,
    /// Every answer, in the order in which they came. One is right.
    pub answers: Vec<Answer>,
}

/// All queries of one client, in the order in which they were sent.
#[derive(Clone, Debug)]
pub struct ClientLog {
    /// Its address.
    pub client: IpAddr,
    /// Its queries.
    pub queries: Vec<QueryLog>,
    /// What went wrong in a way that is not silence: refused, reset, an answer from the wrong address.
    pub errors: Vec<String>,
}

/// All clients.
#[derive(Clone, Debug)]
pub struct Log {
    /// One entry a client.
    pub clients: Vec<ClientLog>,
}

/// How many v4 and v6 clients each host served last.
pub type Shares = BTreeMap<String, (usize, usize)>;

impl ClientLog {
    /// The host that answered this client last.
    #[must_use]
    pub fn server(&self) -> Option<&Arc<str>> {
        self.queries.iter().rev().find_map(|query| query.answers.first()).map(|answer| &answer.who)
    }

    /// When the client was served again for good: the first answer after the last query since `cut` that
    /// stayed without one. `None` where none of its queries stayed without an answer. A client still
    /// without answers at the end of the log counts as served never: `Some(None)`.
    #[must_use]
    pub fn served_again(&self, cut: Instant) -> Option<Option<Instant>> {
        let last_lost =
            self.queries.iter().rposition(|query| query.sent >= cut && query.answers.is_empty())?;
        let after = &self.queries[last_lost + 1..];
        Some(after.iter().filter_map(|query| query.answers.first()).map(|answer| answer.at).min())
    }

    /// The longest time between two answers, or between `from` and the first, or the last and `to`.
    #[must_use]
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Instant> =
            self.queries.iter().flat_map(|query| &query.answers).map(|answer| answer.at).collect();
        times.retain(|at| (from..to).contains(at));
        times.push(to);
        times.sort();
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in times {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }
}

impl Log {
    /// Queries sent.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.clients.iter().map(|client| client.queries.len()).sum()
    }

    /// Queries that got exactly one answer.
    #[must_use]
    pub fn answered_once(&self) -> usize {
        self.each_query().filter(|query| query.answers.len() == 1).count()
    }

    /// Queries that got no answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.each_query().filter(|query| query.answers.is_empty()).count()
    }

    /// Fails unless every query got exactly one answer, and that from the right address.
    ///
    /// # Errors
    /// With what was lost, doubled or wrong.
    pub fn ensure_once(&self, what: &str) -> Result<()> {
        let wrong = [
            (
                "lost a query, served at last by",
                self.losers().iter().map(|loser| format!("{loser:?}")).collect(),
            ),
            ("answered twice", self.duplicates()),
            ("errors", self.errors()),
        ];
        for (how, cases) in wrong {
            let some = cases.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
            ensure!(
                cases.is_empty(),
                "{what}: {}: {} of {} queries:\n  {some}",
                how,
                cases.len(),
                self.queries()
            );
        }
        Ok(())
    }

    /// Fails if a query got two answers, or one from a wrong address; lost ones are let pass.
    ///
    /// # Errors
    /// With the queries.
    pub fn ensure_never_twice(&self, what: &str) -> Result<()> {
        let (twice, errors) = (self.duplicates(), self.errors());
        ensure!(twice.is_empty(), "{what}: {} answered twice:\n  {}", twice.len(), twice.join("\n  "));
        ensure!(errors.is_empty(), "{what}: {}", errors.join("\n  "));
        Ok(())
    }

    /// Clients none of whose queries was answered.
    #[must_use]
    pub fn unserved(&self) -> Vec<IpAddr> {
        self.clients.iter().filter(|client| client.server().is_none()).map(|client| client.client).collect()
    }

    /// Queries with more than one answer, as sentences. Two hosts answering the same query is what must
    /// never be.
    #[must_use]
    pub fn duplicates(&self) -> Vec<String> {
        let mut found = Vec::new();
        for client in &self.clients {
            for query in client.queries.iter().filter(|query| query.answers.len() > 1) {
                let who: Vec<String> = query
                    .answers
                    .iter()
                    .map(|answer| {
                        format!("{} after {:?}", answer.who, answer.at.saturating_duration_since(query.sent))
                    })
                    .collect();
                found.push(format!("{}: {}", client.client, who.join(", ")));
            }
        }
        found
    }

    /// Clients at least one of whose queries got no answer, and the hosts that answered them at last.
    #[must_use]
    pub fn losers(&self) -> Vec<(IpAddr, Option<&str>)> {
        self.clients
            .iter()
            .filter(|client| client.queries.iter().any(|query| query.answers.is_empty()))
            .map(|client| (client.client, client.server().map(|who| &**who)))
            .collect()
    }

    /// Every error of every client, as sentences.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.clients
            .iter()
            .flat_map(|client| client.errors.iter().map(move |error| format!("{}: {error}", client.client)))
            .collect()
    }

    /// Who served how many.
    #[must_use]
    pub fn shares(&self) -> Shares {
        let mut shares = Shares::new();
        for client in &self.clients {
            if let Some(who) = client.server() {
                let entry = shares.entry(who.to_string()).or_default();
                if client.client.is_ipv4() { entry.0 += 1 } else { entry.1 += 1 }
            }
        }
        shares
    }

    /// The host that served a client last.
    #[must_use]
    pub fn server_of(&self, client: IpAddr) -> Option<&str> {
        self.clients.iter().find(|log| log.client == client)?.server().map(|who| &**who)
    }

    /// How long after `cut` the last client was served again, and how many clients had lost queries.
    /// `None` when a client is still without answers.
    #[must_use]
    pub fn healed(&self, cut: Instant) -> Option<(Duration, usize)> {
        let mut last = Duration::ZERO;
        let mut hit = 0;
        for at in self.clients.iter().filter_map(|client| client.served_again(cut)) {
            hit += 1;
            last = last.max(at?.saturating_duration_since(cut));
        }
        Some((last, hit))
    }

    /// The longest silence of any client in a span of time, and whose it was.
    #[must_use]
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Option<(Duration, IpAddr)> {
        self.clients.iter().map(|client| (client.longest_silence(from, to), client.client)).max()
    }

    fn each_query(&self) -> impl Iterator<Item = &QueryLog> {
        self.clients.iter().flat_map(|client| &client.queries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(start: Instant, queries: &[(u64, &[u64])]) -> ClientLog {
        let at = |ms: u64| start + Duration::from_millis(ms);
        ClientLog {
            client: "198.18.0.1".parse().unwrap(),
            queries: queries
                .iter()
                .map(|(sent, answers)| QueryLog {
                    sent: at(*sent),
                    answers: answers.iter().map(|ms| Answer { at: at(*ms), who: "h1".into() }).collect(),
                })
                .collect(),
            errors: Vec::new(),
        }
    }

    #[test]
    fn healing_counts_from_the_cut_to_the_first_answer_after_the_last_lost_query() {
        let start = Instant::now();
        let cut = start + Duration::from_millis(100);
        let log =
            client(start, &[(0, &[]), (110, &[111]), (210, &[]), (310, &[]), (410, &[415]), (510, &[511])]);
        assert_eq!(log.served_again(cut), Some(Some(start + Duration::from_millis(415))));
        let undisturbed = client(start, &[(0, &[]), (110, &[111])]);
        assert_eq!(undisturbed.served_again(cut), None);
        let dead = client(start, &[(110, &[111]), (210, &[])]);
        assert_eq!(dead.served_again(cut), Some(None));
        assert_eq!(
            Log { clients: vec![log, undisturbed.clone()] }.healed(cut),
            Some((Duration::from_millis(315), 1))
        );
        assert_eq!(Log { clients: vec![undisturbed, dead] }.healed(cut), None);
    }

    #[test]
    fn silence_reaches_to_both_ends_of_the_span() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let log = client(start, &[(0, &[300]), (0, &[400]), (0, &[450])]);
        assert_eq!(log.longest_silence(start, at(1000)), Duration::from_millis(550));
        assert_eq!(log.longest_silence(start, at(460)), Duration::from_millis(300));
        assert_eq!(log.longest_silence(at(350), at(460)), Duration::from_millis(50));
    }

    #[test]
    fn a_second_answer_is_a_duplicate_and_not_an_answer_once() {
        let start = Instant::now();
        let log = Log { clients: vec![client(start, &[(0, &[1, 2]), (10, &[11]), (20, &[])])] };
        assert_eq!((log.queries(), log.answered_once(), log.lost()), (3, 1, 1));
        assert_eq!(log.duplicates().len(), 1);
    }
}
