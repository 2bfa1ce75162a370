//! Who knows what: what has reached whom, directly or by way of others, and which hosts are apart.

use crate::clock::At;

/// News of a host: from which of its lives, and of which moment. What a life says is not listened to where a
/// later one is known, so the life comes first.
pub type News = (u64, At);

/// What makes a partition, in true time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Apart {
    /// For how long one side has heard nothing.
    pub deaf: At,
    /// For how long nothing has been heard of it.
    pub mute: At,
}

/// What is excused of two hosts although they are not apart now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum After {
    /// Nothing, or what an earlier excuse allows.
    #[default]
    Nothing,
    /// They were apart when one of them stopped, and no news has come since.
    NoNews,
    /// News had come, and before it can have taken effect its reader has stopped.
    Stopped,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    after: After,
    /// Until then the effects of the time when they were apart last.
    until: At,
}

/// Two hosts are *apart* while the agents of both run, one has had no news of the other for [`Apart::deaf`], and
/// the other none of it for [`Apart::mute`]. Hosts of two versions are apart if one has had no news for that long,
/// for only the older one gives way. It is over when the first news has come to either; what follows
/// from that takes the time that its reader's kernel needs.
#[derive(Debug)]
pub struct Knowledge {
    hosts: usize,
    /// Row: who knows; column: of whom.
    known: Vec<News>,
    /// When an agent has last read news.
    heard: Vec<At>,
    /// Since when each host's agent runs without having been stopped.
    runs: Vec<Option<At>>,
    /// Which version of the protocol each host's agent speaks.
    versions: Vec<u8>,
    pairs: Vec<Pair>,
    apart: Apart,
}

impl Knowledge {
    /// At the beginning nobody has news of anybody.
    pub fn new(hosts: usize, apart: Apart) -> Self {
        Knowledge {
            hosts,
            known: vec![(0, 0); hosts * hosts],
            heard: vec![0; hosts * hosts],
            runs: vec![None; hosts],
            versions: vec![0; hosts],
            pairs: vec![Pair::default(); hosts * hosts],
            apart,
        }
    }

    fn of(&self, a: usize, b: usize) -> usize {
        a * self.hosts + b
    }

    fn pair(&mut self, a: usize, b: usize) -> &mut Pair {
        &mut self.pairs[a.min(b) * self.hosts + a.max(b)]
    }

    /// From when the newest news of `of` is that has reached `host`.
    pub fn known(&self, host: usize, of: usize) -> At {
        self.known[self.of(host, of)].1
    }

    /// An agent has read news of `of`. What follows from that is done after at most `takes`.
    pub fn reached(&mut self, to: usize, of: usize, news: News, now: At, takes: At) {
        let i = self.of(to, of);
        let known = self.known[i];
        if to == of || news <= known {
            return;
        }
        let apart = self.are_apart(to, of, now);
        let pair = self.pair(to, of);
        if apart || pair.after == After::NoNews {
            *pair = Pair { after: After::Nothing, until: now + takes };
        }
        self.known[i] = (news.0, news.1.max(known.1));
        self.heard[i] = now;
    }

    /// An agent has started; it knows nothing of the others' lives any more.
    pub fn starts(&mut self, host: usize, version: u8, now: At, takes: At) {
        self.versions[host] = version;
        self.runs(host, now, takes);
        let row = host * self.hosts;
        self.known[row..row + self.hosts].iter_mut().for_each(|news| news.0 = 0);
        for other in 0..self.hosts {
            let pair = self.pair(host, other);
            if pair.after == After::NoNews {
                // Nor does its kernel go on with what it has found.
                *pair = Pair { after: After::Nothing, until: now + takes };
            }
        }
    }

    /// An agent can act again. What it has to do is done after at most `takes`.
    pub fn runs(&mut self, host: usize, now: At, takes: At) {
        self.runs[host].get_or_insert(now);
        for other in 0..self.hosts {
            let pair = self.pair(host, other);
            if pair.after == After::Stopped {
                *pair = Pair { after: After::Nothing, until: now + takes };
            }
        }
    }

    /// An agent cannot act any more.
    pub fn stops(&mut self, host: usize, now: At) {
        for other in 0..self.hosts {
            let apart = self.are_apart(host, other, now);
            let pair = self.pair(host, other);
            match pair.after {
                After::Nothing if apart => pair.after = After::NoNews,
                After::Nothing if now <= pair.until => pair.after = After::Stopped,
                _ => {}
            }
        }
        self.runs[host] = None;
    }

    /// A kernel is late with what its agent wants done: it takes so long from now.
    pub fn delayed(&mut self, host: usize, now: At, takes: At) {
        for other in 0..self.hosts {
            let pair = self.pair(host, other);
            if now <= pair.until {
                pair.until = pair.until.max(now + takes);
            }
        }
    }

    /// Whether two hosts cannot hear each other now, in neither direction.
    pub fn are_apart(&self, a: usize, b: usize, now: At) -> bool {
        let (Some(runs_a), Some(runs_b)) = (self.runs[a], self.runs[b]) else { return false };
        let silence = |host, of, since: At| now.saturating_sub(self.heard[self.of(host, of)].max(since));
        let (of_b, of_a) = (silence(a, b, runs_a), silence(b, a, runs_b));
        let cannot_agree = self.versions[a] != self.versions[b];
        a != b && (of_a.min(of_b) >= self.apart.deaf || cannot_agree) && of_a.max(of_b) >= self.apart.mute
    }

    /// Whether what two hosts do then is put down to their having been apart. `then` is now or earlier, and since
    /// the last time that they were apart.
    pub fn is_excused(&self, a: usize, b: usize, then: At) -> bool {
        let pair = self.pairs[a.min(b) * self.hosts + a.max(b)];
        pair.after != After::Nothing || then <= pair.until || self.are_apart(a, b, then)
    }
}
