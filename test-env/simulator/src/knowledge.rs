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

/// Two hosts are *apart* while the agents of both run (or one of them, and the other had waited for so long in vain
/// when it stopped: its kernel goes on for the rest of a lease), one has had no news of the other for [`Apart::deaf`], and
/// the other none of it for [`Apart::mute`]. Hosts of two versions are apart if one has had no news for that long,
/// for only the older one gives way. A word that is as old as that when it comes is no news.
///
/// It is over when the first news has come to either; what follows from that takes the time that its reader's kernel
/// needs. Until then two owners are excused; and until either has news itself, it cannot know what lives on the
/// other.
#[derive(Debug)]
pub struct Knowledge {
    hosts: usize,
    /// Row: who knows; column: of whom.
    known: Vec<News>,
    /// When an agent has last read news, by the time for which it has run: stopped or dead, it waits for nobody.
    heard: Vec<At>,
    /// Since when each host's agent runs without having been stopped.
    runs: Vec<Option<At>>,
    /// For how long it ran before.
    ran: Vec<At>,
    /// Which version of the protocol each host's agent speaks.
    versions: Vec<u8>,
    /// Of two hosts, the smaller one first.
    pairs: Vec<Pair>,
    /// Of who knows, and of whom.
    views: Vec<Pair>,
    apart: Apart,
}

impl Pair {
    fn ends(&mut self, until: At) {
        *self = Pair { after: After::Nothing, until };
    }

    fn ends_after(&mut self, after: After, until: At) {
        if self.after == after {
            self.ends(until);
        }
    }

    fn stops(&mut self, apart: bool, now: At) {
        match self.after {
            After::Nothing if apart => self.after = After::NoNews,
            After::Nothing if now <= self.until => self.after = After::Stopped,
            _ => {}
        }
    }

    fn is_excused(&self, then: At) -> bool {
        self.after != After::Nothing || then <= self.until
    }
}

impl Knowledge {
    /// At the beginning nobody has news of anybody.
    pub fn new(hosts: usize, apart: Apart) -> Self {
        Knowledge {
            hosts,
            known: vec![(0, 0); hosts * hosts],
            heard: vec![0; hosts * hosts],
            runs: vec![None; hosts],
            ran: vec![0; hosts],
            versions: vec![0; hosts],
            pairs: vec![Pair::default(); hosts * hosts],
            views: vec![Pair::default(); hosts * hosts],
            apart,
        }
    }

    fn of(&self, a: usize, b: usize) -> usize {
        a * self.hosts + b
    }

    /// What is excused of both, and of each.
    fn each(&mut self, a: usize, b: usize, does: impl Fn(&mut Pair)) {
        let (ab, ba) = (self.of(a, b), self.of(b, a));
        does(&mut self.pairs[ab.min(ba)]);
        does(&mut self.views[ab]);
        does(&mut self.views[ba]);
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
        self.known[i] = (news.0, news.1.max(known.1));
        if now.saturating_sub(news.1) >= self.apart.mute {
            return;
        }
        // An older version gives way when it hears the newer one serve, and words of that may take as long as this one.
        let latency = if self.versions[to] == self.versions[of] { 0 } else { (now - news.1) * 2 };
        let takes = takes + latency;
        let (back, apart) = (self.of(of, to), self.are_apart(to, of, now));
        for over in [&mut self.pairs[i.min(back)], &mut self.views[i]] {
            if apart || over.after == After::NoNews {
                over.ends(now + takes);
            }
        }
        if apart {
            self.views[back].after = After::NoNews;
        }
        self.heard[i] = self.has_run(to, now);
    }

    /// For how long a host's agents have run until now.
    fn has_run(&self, host: usize, now: At) -> At {
        self.ran[host] + self.runs[host].map_or(0, |since| now.saturating_sub(since))
    }

    /// An agent has started; it knows nothing of the others' lives any more.
    pub fn starts(&mut self, host: usize, version: u8, now: At, takes: At) {
        self.versions[host] = version;
        self.runs(host, now, takes);
        let row = host * self.hosts;
        self.known[row..row + self.hosts].iter_mut().for_each(|news| news.0 = 0);
        let has_run = self.has_run(host, now);
        self.heard[row..row + self.hosts].fill(has_run);
        for other in 0..self.hosts {
            // Nor does its kernel go on with what it has found.
            self.each(host, other, |p| p.ends_after(After::NoNews, now + takes));
        }
    }

    /// An agent can act again. What it has to do is done after at most `takes`.
    pub fn runs(&mut self, host: usize, now: At, takes: At) {
        self.runs[host].get_or_insert(now);
        for other in 0..self.hosts {
            self.each(host, other, |p| p.ends_after(After::Stopped, now + takes));
        }
    }

    /// An agent cannot act any more.
    pub fn stops(&mut self, host: usize, now: At) {
        for other in 0..self.hosts {
            let apart = self.are_apart(host, other, now);
            self.each(host, other, |p| p.stops(apart, now));
        }
        self.ran[host] = self.has_run(host, now);
        self.runs[host] = None;
    }

    /// A kernel is late with what its agent wants done: it takes so long from now.
    pub fn delayed(&mut self, host: usize, now: At, takes: At) {
        for other in 0..self.hosts {
            self.each(host, other, |p| {
                if now <= p.until {
                    p.until = p.until.max(now + takes);
                }
            });
        }
    }

    /// Whether two hosts cannot hear each other now, in neither direction.
    pub fn are_apart(&self, a: usize, b: usize, now: At) -> bool {
        if self.runs[a].or(self.runs[b]).is_none() {
            return false;
        }
        let silence = |host: usize, of| self.has_run(host, now).saturating_sub(self.heard[self.of(host, of)]);
        let (of_b, of_a) = (silence(a, b), silence(b, a));
        let cannot_agree = self.versions[a] != self.versions[b];
        a != b && (of_a.min(of_b) >= self.apart.deaf || cannot_agree) && of_a.max(of_b) >= self.apart.mute
    }

    /// Whether what two hosts do then is put down to their having been apart. `then` is now or earlier, and since
    /// the last time that they were apart.
    pub fn is_excused(&self, a: usize, b: usize, then: At) -> bool {
        let (ab, ba) = (self.of(a, b), self.of(b, a));
        self.pairs[ab.min(ba)].is_excused(then) || self.are_apart(a, b, then)
    }

    /// Whether a host could not know then what lives on another, since they are apart, or were and it has had no
    /// news since.
    pub fn could_not_know(&self, host: usize, of: usize, then: At) -> bool {
        self.views[self.of(host, of)].is_excused(then) || self.are_apart(host, of, then)
    }
}
