use super::*;
use crate::gossip::BODY_MAX;
use crate::gossip::body::{self, Said};
use onemac_core::report::{Claims, INCARNATION_MAX};
use onemac_core::slices::SliceSet;
use onemac_core::view::{DefinitionId, ViewId};

const BEAT_MS: u64 = 100;

fn at(ms: u64) -> Time {
    Time(1_000_000_000_000 + ms * 1_000_000)
}

fn name(n: usize) -> String {
    format!("h{n}")
}

/// Hosts, their words, and the ways between them.
struct Net {
    now: u64,
    hosts: Vec<Words>,
    reports: Vec<Report>,
    /// What each core has heard of each host.
    heard: Vec<BTreeMap<String, (Report, u64)>>,
    /// No way from the first to the second: by frames, by datagrams.
    frames_cut: Vec<(usize, usize)>,
    datagrams_cut: Vec<(usize, usize)>,
    /// The words of the last round, with who said them, and by which way.
    last: Vec<(usize, Option<usize>, Vec<u8>)>,
}

impl Net {
    fn new(count: usize) -> Self {
        let mut net = Net {
            now: 0,
            hosts: Vec::new(),
            reports: Vec::new(),
            heard: vec![BTreeMap::new(); count],
            frames_cut: Vec::new(),
            datagrams_cut: Vec::new(),
            last: Vec::new(),
        };
        for n in 0..count {
            net.hosts.push(net.start(n, n as u8, count));
            let stamp = Stamp { incarnation: 1000, seq: 0 };
            net.reports.push(Report::plain(name(n), stamp, DefinitionId([0; 16]), HostState::Serving));
        }
        net
    }

    fn start(&self, n: usize, run: u8, count: usize) -> Words {
        let mut words = Words::new(&name(n), [run; 8], Duration::from_millis(BEAT_MS), at(self.now));
        words.meet((0..count).map(name), Duration::from_millis(BEAT_MS));
        words.set_apart(false);
        words
    }

    fn deliver(&mut self, from: usize, to: usize, by_frame: bool, word: &[u8]) {
        let cut = if by_frame { &self.frames_cut } else { &self.datagrams_cut };
        if from == to || cut.contains(&(from, to)) {
            return;
        }
        let sender = name(from);
        let way = if by_frame { Way::Frame } else { Way::From(&sender) };
        let Some(heard) = self.hosts[to].hear(at(self.now), way, word) else { return };
        if let Some(Word::Report(report)) = heard.word {
            // As the core does.
            self.reports[to].heard.insert(report.host.clone(), report.stamp);
            self.heard[to].insert(report.host.clone(), ((*report).clone(), self.now));
        }
        for Errand { to: next, words } in heard.errands {
            let next: usize = next[1..].parse().unwrap();
            for word in words {
                self.last.push((to, Some(next), word.clone()));
                self.deliver(to, next, false, &word);
            }
        }
    }

    /// The next heartbeat of everybody.
    fn beat(&mut self) {
        self.now += BEAT_MS;
        self.last.clear();
        for n in 0..self.hosts.len() {
            self.speak(n, &Recipients::All);
        }
    }

    fn speak(&mut self, n: usize, to: &Recipients) {
        self.reports[n].stamp.seq += 1;
        let report = self.reports[n].clone();
        let saying = self.hosts[n].say(at(self.now), &report, to).unwrap();
        for word in saying.words {
            assert!(word.len() <= CONTENT_MAX, "{}", word.len());
            if saying.to_all {
                self.last.push((n, None, word.clone()));
                (0..self.hosts.len()).for_each(|to| self.deliver(n, to, true, &word));
            }
            for to in &saying.direct {
                let to = to[1..].parse().unwrap();
                self.last.push((n, Some(to), word.clone()));
                self.deliver(n, to, false, &word);
            }
        }
    }

    fn beats(&mut self, count: usize) {
        (0..count).for_each(|_| self.beat());
    }

    /// For how many milliseconds a host has not heard anything of another one that was said since.
    fn silence(&self, at: usize, of: usize) -> u64 {
        self.now - self.heard[at].get(&name(of)).map_or(0, |(_, when)| *when)
    }

    fn cut(&mut self, a: usize, b: usize) {
        for link in [(a, b), (b, a)] {
            self.frames_cut.push(link);
            self.datagrams_cut.push(link);
        }
    }

    fn ensure_all_heard(&self, within_ms: u64) {
        for at in 0..self.hosts.len() {
            for of in (0..self.hosts.len()).filter(|&of| of != at) {
                assert!(
                    self.silence(at, of) <= within_ms,
                    "{at} has not heard {of} for {} ms",
                    self.silence(at, of)
                );
            }
        }
    }
}

#[test]
fn a_report_arrives_as_it_was_said_and_a_heartbeat_of_sixteen_hosts_is_small() {
    let mut net = Net::new(16);
    net.beats(10);
    net.ensure_all_heard(0);
    for at in 0..16 {
        for of in (0..16).filter(|&of| of != at) {
            let heard = &net.heard[at][&name(of)].0;
            // What others said since then it had not heard yet.
            assert_eq!(heard.stamp, net.reports[of].stamp);
            assert_eq!(heard.heard.len(), 15);
        }
    }
    // Once to everybody, and no word to one; also after an hour.
    net.now += 3_600_000;
    for report in &mut net.reports {
        report.stamp.seq += 36_000;
        report.heard.values_mut().for_each(|stamp| stamp.seq += 36_000);
    }
    net.beats(10);
    assert_eq!(net.last.len(), 16);
    for (_, to, word) in &net.last {
        assert!(to.is_none());
        // With the authentication and the length of a frame.
        assert!(2 + 16 + word.len() <= 100, "{} bytes", word.len());
    }
}

#[test]
fn with_one_link_of_three_cut_for_good_each_hears_the_other_by_the_third() {
    let mut net = Net::new(3);
    net.beats(20);
    net.cut(0, 1);
    for beat in 1..50 {
        net.beat();
        // The answers, too, are fresh: half a lease at most.
        net.ensure_all_heard(if beat < 6 { 400 } else { 100 });
        let answer = net.heard[0][&name(1)].0.heard[&name(0)].seq;
        assert!(net.reports[0].stamp.seq - answer <= 5, "beat {beat}");
    }
    // And a body that changes.
    net.reports[0].weight = 7;
    net.beats(3);
    assert_eq!(net.heard[1][&name(0)].0.weight, 7);
}

#[test]
fn who_starts_while_a_link_is_cut_is_heard_by_way_of_others() {
    let mut net = Net::new(4);
    net.cut(0, 1);
    net.beats(15);
    net.ensure_all_heard(100);
}

#[test]
fn of_a_row_of_hosts_the_last_hears_the_first() {
    let mut net = Net::new(4);
    for (a, b) in [(0, 2), (0, 3), (1, 3)] {
        net.cut(a, b);
    }
    net.beats(20);
    net.ensure_all_heard(300);
}

#[test]
fn whoever_hears_only_one_of_two_networks_misses_nothing() {
    for frames in [true, false] {
        let mut net = Net::new(5);
        net.beats(20);
        for other in 1..5 {
            let links = [(0, other), (other, 0)];
            if frames { &mut net.frames_cut } else { &mut net.datagrams_cut }.extend(links);
        }
        for beat in 0..30 {
            net.beat();
            net.ensure_all_heard(if beat < 5 { 300 } else { 0 });
        }
        // Nor does it if it starts then.
        net.hosts[0] = net.start(0, 77, 5);
        net.reports[0].stamp = Stamp { incarnation: 2000, seq: 0 };
        net.reports[0].heard.clear();
        net.heard[0].clear();
        net.beats(8);
        net.ensure_all_heard(100);
        assert!((1..5).all(|at| net.heard[at][&name(0)].0.stamp.incarnation == 2000));
    }
}

#[test]
fn with_a_network_of_its_own_every_heartbeat_goes_by_both() {
    let mut net = Net::new(3);
    net.beats(10);
    net.hosts.iter_mut().for_each(|words| words.set_apart(true));
    net.beat();
    assert_eq!(net.last.len(), 3 + 6);
}

#[test]
fn a_lost_body_is_asked_for_and_nothing_is_told_without_it() {
    let mut net = Net::new(2);
    net.beats(10);
    net.reports[0].weight = 9;
    net.frames_cut.push((0, 1));
    let before = net.heard[1][&name(0)].0.stamp;
    net.beat();
    net.frames_cut.clear();
    // The heartbeat alone is nothing.
    net.now += BEAT_MS;
    net.speak(0, &Recipients::All);
    assert_eq!(net.heard[1][&name(0)].0.stamp, before);
    net.beat();
    net.beat();
    assert_eq!((net.silence(1, 0), net.heard[1][&name(0)].0.weight), (0, 9));
}

/// A host has spoken to another one by frames; what it said, in order.
fn recorded(net: &mut Net) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for _ in 0..20 {
        net.beat();
        words.extend(
            net.last
                .iter()
                .filter(|(from, to, _)| (*from, *to) == (0, None))
                .map(|(_, _, word)| word.clone()),
        );
    }
    words
}

#[test]
fn what_was_recorded_is_refused_by_the_same_run_and_by_the_next() {
    let mut net = Net::new(2);
    let words = recorded(&mut net);
    let mut last = 0;
    for word in &words {
        let heard = net.hosts[1].hear(at(net.now), Way::Frame, word);
        assert!(heard.is_none_or(|heard| heard.word.is_none()), "a second time");
    }
    // A fresh host: the dead one is not brought to life, for as long as the recording lasts.
    net.hosts[1] = net.start(1, 99, 2);
    for word in &words {
        net.now += BEAT_MS;
        let heard = net.hosts[1].hear(at(net.now), Way::Frame, word);
        assert!(heard.is_none_or(|heard| heard.word.is_none()), "to the next run");
        last += 1;
    }
    assert!(last >= 20);
    // It lives after all, and names the new run.
    net.reports[1].stamp = Stamp { incarnation: 2000, seq: 0 };
    net.heard[1].clear();
    net.datagrams_cut.extend([(0, 1), (1, 0)]);
    net.beats(4);
    assert_eq!((net.silence(1, 0), net.silence(0, 1)), (0, 0));
}

#[test]
fn anti_entropy_brings_a_body_and_no_life() {
    let mut net = Net::new(2);
    net.now += BEAT_MS;
    let report = net.reports[0].clone();
    let spread = net.hosts[0].say(at(net.now), &report, &Recipients::All).unwrap().spread.unwrap();
    let heard = net.hosts[1].hear(at(net.now), Way::Spread, &spread).unwrap();
    assert!(heard.word.is_none());
    // Then a heartbeat is enough.
    net.speak(0, &Recipients::One(name(1)));
    assert_eq!(net.silence(1, 0), 0);
}

#[test]
fn a_heartbeat_goes_with_no_body_of_another_life_and_no_life_is_too_large() {
    let mut net = Net::new(2);
    net.beats(5);
    let words = &net.hosts[0];
    let (mut beat, body) = (words.beat.clone().unwrap(), words.body.clone().unwrap());
    beat.stamp.incarnation += 1;
    let word = beat.write("h0", BEAT);
    let heard = net.hosts[1].hear(at(net.now), Way::From("h0"), &word).unwrap();
    assert!(heard.word.is_none());
    assert_eq!(body.report(beat.stamp, &beat.answers), None);
    beat.stamp.incarnation = INCARNATION_MAX + 1;
    assert!(net.hosts[1].hear(at(net.now), Way::From("h0"), &beat.write("h0", BEAT)).is_none());
    let mut said = Said { run: [0; 8], runs: Vec::new(), report: net.reports[0].clone() };
    said.report.heard.insert("h1".into(), Stamp { incarnation: INCARNATION_MAX + 1, seq: 0 });
    assert!(Body::read(postcard::to_extend(&said, Vec::new()).unwrap()).is_none());
}

#[test]
fn another_version_reads_who_speaks_and_so_do_we() {
    let mut net = Net::new(2);
    net.beats(5);
    let (_, _, word) = &net.last[0];
    let (header, _) = Header::read(word).unwrap();
    let stamp = net.reports[0].stamp;
    assert_eq!(header, Header { version: VERSION, part: Part::Serves, stamp, host: "h0" });
    let stamp = Stamp { seq: stamp.seq + 1, ..stamp };
    let theirs = Header { version: 2, part: Part::Candidate, stamp, host: "h0" }.write();
    for (times, way) in [Way::Frame, Way::From("h0")].into_iter().enumerate() {
        let heard = net.hosts[1].hear(at(net.now), way, &theirs);
        let other = Word::Other { host: "h0".into(), stamp, part: Part::Candidate, version: 2 };
        let expected = (times == 0).then_some(other);
        assert_eq!(heard.and_then(|heard| heard.word), expected, "once");
    }
    // Who speaks another version says nothing of what it hears: it is spoken to directly.
    assert_eq!(net.hosts[1].unreached(at(net.now)), ["h0"]);
}

#[test]
fn rubbish_is_no_word() {
    let mut net = Net::new(2);
    net.beats(5);
    let (_, _, word) = net.last[0].clone();
    for cut in 0..word.len() {
        let heard = net.hosts[1].hear(at(net.now), Way::From("h0"), &word[..cut]);
        assert!(heard.is_none_or(|heard| heard.word.is_none()), "{cut}");
    }
    assert!(net.hosts[1].hear(at(net.now), Way::Frame, &[255; 64]).is_none());
}

/// What the largest definition lets a host say: 256 hosts and 64 services with the longest names, 4,096 slices; each of
/// which may be accepted, moving, ready, and relayed to any other host.
fn largest() -> Report {
    let host = |n: usize| format!("{n:0>63}");
    let service = |n: usize| format!("{n:0>32}");
    let of_all = |set: &dyn Fn(usize) -> SliceSet| (0..64).map(|n| (service(n), set(n))).collect::<Claims>();
    // Every other one on average, by hash: neither form of a set is short.
    let half = |salt: usize| -> SliceSet {
        (0..4096u32).filter(|s| (s.wrapping_mul(2_654_435_761) >> 7) as usize % 2 == salt % 2).collect()
    };
    let stamp = Stamp { incarnation: INCARNATION_MAX, seq: u64::MAX >> 1 };
    let to = |n: usize| {
        of_all(&|service| (0..4096).filter(|s| (s * 37 + service as u32) as usize % 255 == n).collect())
    };
    Report {
        mac: [2; 6],
        weight: 100,
        view: Some(ViewId([2; 16])),
        drained: (0..64).map(service).collect(),
        staged: Some(DefinitionId([3; 16])),
        claims: of_all(&half),
        relayed: (0..255).map(|n| (host(n), to(n))).collect(),
        ready: of_all(&half),
        moving: of_all(&half),
        heard: (0..255).map(|n| (host(n), stamp)).collect(),
        ..Report::plain(host(255), stamp, DefinitionId([1; 16]), HostState::Serving)
    }
}

#[test]
fn the_largest_report_of_the_largest_definition_goes_through_in_pieces_in_any_order() {
    let mut report = largest();
    let host = report.host.clone();
    let beat = Duration::from_millis(BEAT_MS);
    let mut speaker = Words::new(&host, [1; 8], beat, at(0));
    let mut listener = Words::new("h1", [2; 8], beat, at(0));
    speaker.meet((0..255).map(|n| format!("{n:0>63}")), beat);
    // As many runs as there are hosts.
    for n in 0..255u8 {
        let mut ear = Ear::new("");
        ear.run = Some([n; 8]);
        speaker.ears.insert(format!("{n:0>63}"), ear);
    }
    let mut words = speaker.say(at(0), &report, &Recipients::All).unwrap().words;
    assert!(words.iter().all(|word| word.len() <= CONTENT_MAX));
    let size = speaker.body.as_ref().unwrap().bytes.len();
    println!("{size} bytes in {} pieces", words.len() - 1);
    assert!((BODY_MAX / 2..=BODY_MAX).contains(&size), "{size}");
    // A third is lost, the rest comes backwards; what is missing comes with the next time that the body is sent.
    words.reverse();
    let hear =
        |listener: &mut Words, word: &[u8]| listener.hear(at(0), Way::From(&host), word).and_then(|h| h.word);
    for (_, word) in words.iter().enumerate().filter(|(n, _)| n % 3 != 0 || *n == words.len() - 1) {
        assert_eq!(hear(&mut listener, word), None);
    }
    report.stamp.seq += 1;
    speaker.told = false;
    let again = speaker.say(at(0), &report, &Recipients::All).unwrap().words;
    let heard: Vec<_> = again.iter().filter_map(|word| hear(&mut listener, word)).collect();
    assert_eq!(heard, [Word::Report(Arc::new(report))]);
    let held = &listener.ears[&host];
    assert!(held.partial.is_none());
}

#[test]
fn of_a_piece_that_is_none_nothing_is_kept() {
    let stamp = Stamp { incarnation: 1, seq: 1 };
    let mut slot = None;
    for piece in [&[0, 0, 255, 255][..], &[1, 0, 1, 0], &[0, 0, 0, 0], &[0, 0]] {
        assert_eq!(Partial::take(&mut slot, [0; 8], stamp, piece), None);
        assert!(slot.is_none(), "{piece:?}");
    }
    let bytes = vec![7; 5000];
    let pieces = pieces::split(&bytes, 1100);
    assert_eq!(pieces.len(), 5);
    let take = |slot: &mut Option<Partial>, seq, digest, piece: &[u8]| {
        Partial::take(slot, digest, Stamp { incarnation: 1, seq }, piece)
    };
    assert_eq!(take(&mut slot, 5, body::digest(&bytes), &pieces[0]), None);
    assert_eq!(take(&mut slot, 4, [9; 8], &pieces[1]), None, "an earlier one displaces nothing");
    let rest: Vec<_> =
        pieces[1..].iter().filter_map(|p| take(&mut slot, 6, body::digest(&bytes), p)).collect();
    assert_eq!(rest, [bytes]);
}
