//! What is said, and what is heard: heartbeats, bodies, and words that are passed on. Pure: bytes in, bytes out.
//!
//! A word is [`Header`], then one of: a heartbeat; a heartbeat and its body; a piece of a body (docs/wire.md has the
//! bytes). The same words go by frames to all and by datagrams to one. A datagram is for this run of its receiver
//! alone ([`super::seal`]); a frame is for anybody, so what comes by frames is believed of a host only after it has
//! named our run. From then on a later word was said later.
//!
//! A heartbeat also names the hosts that its speaker does not hear as it should, and so each learns what to do: send
//! directly, send the body, pass on what a third one says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use onemac_core::node::Recipients;
use onemac_core::report::{HostState, Part, Report, Stamp};
use onemac_core::time::Time;

use super::body::{Body, Digest, Run};
use super::pieces::{self, Partial};
use super::{CONTENT_MAX, Header, VERSION, Word};

/// What follows the header.
const BEAT: u8 = 0;
const BEAT_AND_BODY: u8 = 1;
const PIECE: u8 = 2;

/// What a host lacks of another one, if not nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// It hears its datagrams alone.
    Frames,
    /// It hears it, but lacks its body, or has no proof that it speaks now.
    Body,
    /// It hears it by way of others only.
    Way,
    /// It does not hear it, or lacks a body that should come by way of others.
    Words,
}

const LACKS: [Lack; 4] = [Lack::Frames, Lack::Body, Lack::Way, Lack::Words];
/// The bits of a host's tag; the other two are for what is lacking of it.
const TAG: u16 = !3;

/// Who is not heard for so many half heartbeats is missed: one lost word is not enough.
const MISSED: u32 = 5;
/// So many hosts pass on the words of one to another: one may die.
const CARRIERS: usize = 2;
/// So many hosts that are not heard are sent a word directly with a heartbeat, in turn.
const KNOCKS: usize = 8;
/// So many errands are done between two heartbeats: in a common start everybody lacks everything, and then what all
/// say to all is enough.
const ERRANDS: usize = 32;
/// For so many heartbeats of its run nobody need pass words on to a host.
const SETTLING: u32 = 5;
/// How many hosts are remembered: more than a definition has. Only who knows the secret adds one.
const EARS: usize = 1024;
/// In a heartbeat the number of hosts of which something is lacking takes one byte.
const LACKS_MAX: usize = 255;

/// By which way a word came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    /// A frame on the service wire.
    Frame,
    /// A datagram from this host.
    From(&'a str),
    /// Anti-entropy: it may be old.
    Spread,
}

/// What came of a word.
#[derive(Debug, Default)]
pub struct Heard {
    /// For the core.
    pub word: Option<Word>,
    /// To be sent directly.
    pub errands: Vec<Errand>,
}

/// Words for one host.
#[derive(Debug, PartialEq, Eq)]
pub struct Errand {
    /// Which one.
    pub to: String,
    /// The words.
    pub words: Vec<Vec<u8>>,
}

/// How to say a report.
#[derive(Debug)]
pub struct Saying {
    /// What to say.
    pub words: Vec<Vec<u8>>,
    /// Whether by frames, to all.
    pub to_all: bool,
    /// To whom directly.
    pub direct: Vec<String>,
    /// There is a new body: what to put where anti-entropy finds it.
    pub spread: Option<Vec<u8>>,
}

/// A heartbeat.
#[derive(Clone, Debug)]
struct Beat {
    stamp: Stamp,
    part: Part,
    digest: Digest,
    lacks: Vec<(u16, Lack)>,
    answers: Vec<u8>,
}

impl Beat {
    fn write(&self, host: &str, kind: u8) -> Vec<u8> {
        let Beat { stamp, part, digest, .. } = *self;
        let mut bytes = Header { version: VERSION, part, stamp, host }.write();
        bytes.push(kind);
        bytes.extend_from_slice(&digest);
        bytes.push(self.lacks.len() as u8);
        for &(tag, lack) in &self.lacks {
            bytes.extend_from_slice(&(tag | lack as u16).to_le_bytes());
        }
        bytes.extend_from_slice(&(self.answers.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.answers);
        bytes
    }

    /// And what follows it.
    fn read<'a>(header: &Header<'_>, bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (digest, bytes) = bytes.split_first_chunk()?;
        let (count, bytes) = bytes.split_first()?;
        let (lacks, bytes) = bytes.split_at_checked(usize::from(*count) * 2)?;
        let lack = |entry: &[u8]| {
            let entry = u16::from_le_bytes([entry[0], entry[1]]);
            (entry & TAG, LACKS[usize::from(entry & !TAG)])
        };
        let lacks = lacks.chunks_exact(2).map(lack).collect();
        let (length, bytes) = bytes.split_first_chunk()?;
        let (answers, rest) = bytes.split_at_checked(u16::from_le_bytes(*length).into())?;
        let Header { stamp, part, .. } = *header;
        Some((Beat { stamp, part, digest: *digest, lacks, answers: answers.to_vec() }, rest))
    }

    /// The words of this heartbeat, and of its body.
    fn words(&self, host: &str, body: Option<&Body>) -> Vec<Vec<u8>> {
        let Some(body) = body else { return vec![self.write(host, BEAT)] };
        let mut whole = self.write(host, BEAT_AND_BODY);
        if whole.len() + body.bytes.len() <= CONTENT_MAX {
            whole.extend_from_slice(&body.bytes);
            return vec![whole];
        }
        let Beat { stamp, part, digest, .. } = *self;
        let mut head = Header { version: VERSION, part, stamp, host }.write();
        head.push(PIECE);
        head.extend_from_slice(&digest);
        let pieces = pieces::split(&body.bytes, CONTENT_MAX - head.len());
        let pieces = pieces.iter().map(|piece| [&head[..], piece].concat());
        std::iter::once(self.write(host, BEAT)).chain(pieces).collect()
    }
}

/// What is known of the words of another host.
#[derive(Debug)]
struct Ear {
    tag: u16,
    /// The newest word that was heard, believed or not.
    newest: Stamp,
    /// It has shown that it speaks during our run.
    proven: bool,
    run: Option<Run>,
    body: Option<Arc<Body>>,
    partial: Option<Partial>,
    /// The newest heartbeat.
    beat: Option<Beat>,
    /// The report of that is with the core.
    told: bool,
    /// When it was last heard by a frame, by a datagram of its own, by way of others.
    frame: Option<Time>,
    datagram: Option<Time>,
    passed_on: Option<Time>,
    /// By its last word.
    lacks: HashMap<u16, Lack>,
}

impl Ear {
    fn new(host: &str) -> Self {
        Ear {
            tag: tag(host),
            newest: Stamp::default(),
            proven: false,
            run: None,
            body: None,
            partial: None,
            beat: None,
            told: true,
            frame: None,
            datagram: None,
            passed_on: None,
            lacks: HashMap::new(),
        }
    }

    fn last(&self) -> Option<Time> {
        self.frame.max(self.datagram).max(self.passed_on)
    }

    fn note(&mut self, now: Time, host: &str, way: Way<'_>) {
        match way {
            Way::Frame => self.frame = Some(now),
            Way::From(from) if from == host => self.datagram = Some(now),
            Way::From(_) => self.passed_on = Some(now),
            Way::Spread => {}
        }
    }

    /// Takes a body in that came with this word. If it names our run, what is later than that was said in our run.
    fn learn(&mut self, host: &str, stamp: Stamp, bytes: Vec<u8>, us: Run) {
        let Some(body) = Body::read(bytes).filter(|body| body.said.report.host == host) else { return };
        if !self.proven && body.said.runs.contains(&us) {
            self.proven = true;
            self.newest = self.newest.max(stamp);
        }
        self.run = Some(body.said.run);
        self.body = Some(Arc::new(body));
    }

    /// The report of the newest heartbeat, if that is believed, its body is there, and the core does not have it.
    fn report(&mut self) -> Option<Arc<Report>> {
        let beat = self.beat.as_ref().filter(|_| self.proven && !self.told)?;
        let body = self.body.as_ref().filter(|body| body.digest == beat.digest)?;
        let report = Arc::new(body.report(beat.stamp, &beat.answers)?);
        self.told = true;
        Some(report)
    }

    /// Its newest heartbeat with its body, for somebody else.
    fn retell(&self, host: &str, with_body: bool) -> Option<Vec<Vec<u8>>> {
        let beat = self.beat.as_ref().filter(|_| self.told)?;
        Some(beat.words(host, self.body.as_deref().filter(|_| with_body)))
    }
}

/// All that this host has said and heard.
pub struct Words {
    me: String,
    tag: u16,
    run: Run,
    heartbeat: Duration,
    /// The other hosts.
    others: Vec<String>,
    /// Gossip has a network of its own.
    apart: bool,
    ears: BTreeMap<String, Ear>,
    /// Our body.
    body: Option<Arc<Body>>,
    /// Our newest heartbeat.
    beat: Option<Beat>,
    /// That body was said to all.
    told: bool,
    /// Whose turn it is to be knocked at.
    knock: usize,
    born: Time,
    /// How many errands may be done before the next heartbeat.
    errands: usize,
}

impl Words {
    /// Of a run that begins. Frames alone are not enough until it is known where gossip goes.
    pub fn new(me: &str, run: Run, heartbeat: Duration, now: Time) -> Self {
        Words {
            me: me.into(),
            tag: tag(me),
            run,
            heartbeat,
            others: Vec::new(),
            apart: true,
            ears: BTreeMap::new(),
            body: None,
            beat: None,
            told: false,
            knock: 0,
            born: now,
            errands: ERRANDS,
        }
    }

    /// These are the other hosts, and the heartbeat, from now on.
    pub fn meet(&mut self, others: impl IntoIterator<Item = String>, heartbeat: Duration) {
        self.others = others.into_iter().filter(|other| *other != self.me).collect();
        self.others.sort_unstable();
        self.heartbeat = heartbeat;
    }

    /// Whether gossip has a network of its own: then every heartbeat goes by both, for either may be cut.
    pub fn set_apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    /// When a host was last heard by a frame.
    pub fn frame_heard(&self, host: &str) -> Option<Time> {
        self.ears.get(host)?.frame
    }

    /// How to say this report; `None` if it is too large.
    pub fn say(&mut self, now: Time, report: &Report, to: &Recipients) -> Option<Saying> {
        let all = *to == Recipients::All;
        let answers = self.answers(report)?;
        let body = self.body.clone()?;
        let lacks = self.others.iter().filter_map(|other| Some((tag(other), self.lack(now, other)?)));
        let lacks = lacks.take(LACKS_MAX).collect();
        let beat = Beat { stamp: report.stamp, part: report.part(), digest: body.digest, lacks, answers };
        let spread =
            (all && !self.told).then(|| [beat.write(&self.me, BEAT_AND_BODY), body.bytes.clone()].concat());
        let words = beat.words(&self.me, Some(&*body).filter(|_| !self.told));
        let direct = match to {
            Recipients::One(host) => vec![host.clone()],
            // Nobody can ask for a last word.
            Recipients::All if self.apart || report.state == HostState::Left => self.others.clone(),
            Recipients::All => self.unreached(now),
        };
        self.beat = Some(beat);
        self.told |= all;
        if all {
            self.errands = ERRANDS;
        }
        Some(Saying { words, to_all: all, direct, spread })
    }

    /// What the heartbeat says of this report, beside the body, which is renewed if need be.
    fn answers(&mut self, report: &Report) -> Option<Vec<u8>> {
        let mut runs: Vec<Run> = self.ears.values().filter_map(|ear| ear.run).collect();
        runs.sort_unstable();
        let fits = self.body.as_ref().filter(|body| body.said.runs == runs);
        if let Some(answers) = fits.and_then(|body| body.answers(report)) {
            return Some(answers);
        }
        let body = Arc::new(Body::new(report, self.run, runs)?);
        let answers = body.answers(report);
        self.body = Some(body);
        self.told = false;
        answers
    }

    /// Who does not hear our frames, as far as we know. Of those who are not heard at all, some.
    fn unreached(&mut self, now: Time) -> Vec<String> {
        let (mut unreached, mut silent) = (Vec::new(), Vec::new());
        for other in &self.others {
            match self.ears.get(other).filter(|ear| self.recent(now, ear.last())) {
                Some(ear) if ear.proven && !ear.lacks.contains_key(&self.tag) => {}
                Some(_) => unreached.push(other.clone()),
                None => silent.push(other),
            }
        }
        let count = silent.len().min(KNOCKS);
        unreached.extend((0..count).map(|n| silent[(self.knock + n) % silent.len()].clone()));
        self.knock = self.knock.wrapping_add(count);
        unreached
    }

    fn recent(&self, now: Time, heard: Option<Time>) -> bool {
        heard.is_some_and(|at| now.since(at) <= self.heartbeat * MISSED / 2)
    }

    /// What we lack of a host.
    fn lack(&self, now: Time, host: &str) -> Option<Lack> {
        let Some(ear) = self.ears.get(host).filter(|ear| self.recent(now, ear.last())) else {
            let settling = now.since(self.born) < self.heartbeat * SETTLING;
            return Some(if settling { Lack::Body } else { Lack::Words });
        };
        match (self.recent(now, ear.frame), self.recent(now, ear.datagram)) {
            (false, false) if ear.told => Some(Lack::Way),
            (false, false) => Some(Lack::Words),
            _ if !ear.told => Some(Lack::Body),
            (true, _) => None,
            (false, true) => Some(Lack::Frames),
        }
    }

    /// Takes in what was heard.
    pub fn hear(&mut self, now: Time, way: Way<'_>, word: &[u8]) -> Option<Heard> {
        let (header, rest) = Header::read(word)?;
        let (host, stamp) = (header.host, header.stamp);
        if !self.ears.contains_key(host) {
            if self.ears.len() >= EARS {
                self.ears.clear();
            }
            self.ears.insert(host.into(), Ear::new(host));
        }
        let us = self.run;
        let ear = self.ears.get_mut(host)?;
        if header.version != VERSION {
            let news = stamp > ear.newest && way != Way::Spread;
            return news.then(|| {
                ear.newest = stamp;
                ear.note(now, host, way);
                // What it said in our version is over.
                (ear.proven, ear.beat, ear.told) = (false, None, true);
                ear.lacks.clear();
                let Header { version, part, .. } = header;
                let word = Word::Other { host: host.into(), stamp, part, version };
                Heard { word: Some(word), errands: Vec::new() }
            });
        }
        let (kind, rest) = rest.split_first()?;
        let known = ear.body.as_ref().map(|body| body.digest);
        let mut news = false;
        if *kind == PIECE {
            let (digest, piece) = rest.split_first_chunk()?;
            if known == Some(*digest) {
                return None;
            }
            let body = Partial::take(&mut ear.partial, *digest, stamp, piece)?;
            let waits = ear.beat.as_ref().is_some_and(|beat| beat.digest == *digest);
            if !waits && stamp < ear.newest {
                return None;
            }
            ear.learn(host, stamp, body, us);
        } else {
            let (beat, body) = Beat::read(&header, rest)?;
            let waits = ear.beat.as_ref().is_some_and(|waits| waits.digest == beat.digest);
            let late = stamp < ear.newest && !(way == Way::Spread && waits);
            if late || *kind > BEAT_AND_BODY || *kind == BEAT && !body.is_empty() {
                return None;
            }
            news = stamp > ear.newest && way != Way::Spread;
            if *kind == BEAT_AND_BODY
                && known != Some(beat.digest)
                && super::body::digest(body) == beat.digest
            {
                ear.learn(host, stamp, body.to_vec(), us);
            }
            ear.note(now, host, way);
            // A datagram was made for this run, and who passes a word on vouches for it.
            ear.proven |= matches!(way, Way::From(_));
            if news {
                ear.newest = stamp;
                ear.lacks = beat.lacks.iter().copied().collect();
                ear.beat = Some(beat);
                ear.told = false;
            }
        }
        let had_body = known.is_some() && known == ear.body.as_ref().map(|body| body.digest);
        let report = ear.report();
        let mut errands = Vec::new();
        if report.is_some() {
            self.pass_on(now, host, !had_body, &mut errands);
        }
        if news && self.ears.get(host).is_some_and(|ear| ear.proven && !ear.lacks.is_empty()) {
            self.oblige(now, host, &mut errands);
        }
        errands.truncate(self.errands);
        self.errands -= errands.len();
        Some(Heard { word: report.map(Word::Report), errands })
    }

    /// Passes on a word of `of` to those who do not hear it.
    fn pass_on(&self, now: Time, of: &str, changed: bool, errands: &mut Vec<Errand>) {
        let Some(speaker) = self.ears.get(of) else { return };
        for (to, ear) in &self.ears {
            let lack = ear.lacks.get(&speaker.tag).copied();
            if to != of && lack > Some(Lack::Body) && self.carries(now, of, to) {
                let words = speaker.retell(of, changed || lack == Some(Lack::Words));
                errands.extend(words.map(|words| Errand { to: to.clone(), words }));
            }
        }
    }

    /// Gives a host what it says it lacks: our body, the words of those whom it does not hear.
    fn oblige(&mut self, now: Time, to: &str, errands: &mut Vec<Errand>) {
        let Some(ear) = self.ears.get(to) else { return };
        if ear.lacks.get(&self.tag) == Some(&Lack::Body) {
            self.told = false;
            let words = self.beat.as_ref().map(|beat| beat.words(&self.me, self.body.as_deref()));
            errands.extend(words.map(|words| Errand { to: to.into(), words }));
        }
        for (of, speaker) in &self.ears {
            let lost = ear.lacks.get(&speaker.tag) == Some(&Lack::Words);
            if of != to && lost && self.recent(now, speaker.last()) && self.carries(now, of, to) {
                let words = speaker.retell(of, true);
                errands.extend(words.map(|words| Errand { to: to.into(), words }));
            }
        }
    }

    /// Whether it is ours to pass on words of `of` to `to`: of those who hear both, those do who hear `of` best.
    fn carries(&self, now: Time, of: &str, to: &str) -> bool {
        let Some([speaker, listener]) = self.ears.get(of).zip(self.ears.get(to)).map(|(s, l)| [s, l]) else {
            return false;
        };
        let order = |lack: Option<Lack>, tag: u16| (lack, tag ^ speaker.tag ^ listener.tag);
        let hears = |lack: Option<Lack>| lack < Some(Lack::Words);
        let reaches = |tag: u16| listener.lacks.get(&tag).copied() <= Some(Lack::Body);
        let ours = self.lack(now, of);
        if !hears(ours) || !reaches(self.tag) || !self.recent(now, listener.last()) {
            return false;
        }
        let better = self.ears.iter().filter(|(name, ear)| {
            let lack = ear.lacks.get(&speaker.tag).copied();
            name.as_str() != of
                && name.as_str() != to
                && self.recent(now, ear.last())
                && hears(lack)
                && reaches(ear.tag)
                && order(lack, ear.tag) < order(ours, self.tag)
        });
        better.take(CARRIERS).count() < CARRIERS
    }
}

/// Who speaks, in which of its words, and whether this is but a piece of a body.
pub(super) fn whose(word: &[u8]) -> Option<(&str, Stamp, bool)> {
    let (header, rest) = Header::read(word)?;
    Some((header.host, header.stamp, header.version == VERSION && rest.first() == Some(&PIECE)))
}

/// Stands for a host in the list of those that are missed. Two hosts of one tag get more than they need.
fn tag(host: &str) -> u16 {
    let hash = blake3::hash(host.as_bytes());
    u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]) & TAG
}

#[cfg(test)]
mod tests;
