//! The loop, and the carrying out.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::libc;
use onemac_core::node::{Action, Change, Event, Input, Node, Recipients};
use onemac_core::report::{HostState, Report};
use onemac_core::time::Time;
use tokio::sync::{mpsc, watch};

use super::life::Keeper;
use super::lists::Lists;
use super::looks::Looks;
use super::orders::Desk;
use super::systemd::Systemd;
use super::{Signals, Terms, answers, story};
use crate::clock;
use crate::control::server::Question;
use crate::failure::{Failure, Result};
use crate::gossip::beacon::Beacon;
use crate::gossip::letter::Letter;
use crate::gossip::seal::Kind;
use crate::gossip::spread::Spread;
use crate::gossip::wire::{Datagram, Incoming, Wire};
use crate::gossip::words::{Errand, Way, Words};
use crate::kernel::ears::Ears;
use crate::kernel::netfilter::Said;
use crate::kernel::{self, Footing, Kernel};
use crate::log::Losses;
use crate::record::Recorder;

/// Two signals to end within this time are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);

/// How often the loop looks after its own log.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// For so long the status tells of lines of the log that were not written.
const LOSSES_STAND: Duration = Duration::from_secs(600);
const LOG_WARNING: &str = "log";
/// The keys of the warnings about the second path for reports.
const BEACON_WARNING: &str = "beacon";
const SENDING_WARNING: &str = "beacon sending";
/// For so long after the last failure to send there the status tells of it: large reports may fail and small ones not.
const FAILURE_STANDS: Duration = Duration::from_secs(10);

/// How often words of names that are in no definition are told of at most.
const NAMELESS: Duration = Duration::from_secs(60);
/// So many frames are heard at a time.
const FRAMES: usize = 64;

/// For so long the end of an agent may wait for its recording.
const LAST_ENTRIES: Duration = Duration::from_secs(1);

/// All that can wake the loop.
pub struct Inputs {
    /// What the gossip socket has received.
    pub incoming: mpsc::Receiver<Incoming>,
    /// Where chitchat's datagrams go from there.
    pub gossip_in: mpsc::Sender<Datagram>,
    /// What anti-entropy has brought.
    pub spread_words: mpsc::UnboundedReceiver<Vec<u8>>,
    /// Words that came over the service wire.
    pub beacon_words: mpsc::Receiver<Vec<u8>>,
    /// Told of frames of others, of whatever kind, if no such words come.
    pub frames: mpsc::Receiver<()>,
    /// Whether clients reach this host, and by which device.
    pub footing: watch::Receiver<Footing>,
    /// What the kernel did.
    pub said: mpsc::UnboundedReceiver<Said>,
    /// Operators.
    pub questions: mpsc::Receiver<Question>,
    /// The operator's wish to end.
    pub signals: Signals,
}

/// All ways in which reports leave.
pub struct Voices {
    /// What is said and heard.
    pub words: Words,
    /// Directly.
    pub wire: Arc<Wire>,
    /// Anti-entropy.
    pub spread: Spread,
    /// On the service wire.
    pub beacon: Beacon,
}

/// What is known of the service device when the loop begins.
pub struct Senses {
    /// Whether others are heard.
    pub ears: Ears,
    /// What clients' packets need.
    pub footing: Footing,
}

/// The core and its hands.
pub struct Driver {
    pub(super) node: Node,
    pub(super) terms: Terms,
    pub(super) kernel: Arc<Kernel>,
    pub(super) voices: Voices,
    pub(super) keeper: Keeper,
    pub(super) desk: Desk,
    pub(super) looks: Looks,
    pub(super) lists: Lists,
    pub(super) recorder: Recorder,
    /// Not before then is the second path opened anew.
    beacon_due: Time,
    /// When a report could last not be sent on the service wire.
    sending_failed: Option<Time>,
    /// What the loop was last told of the ground: it does not wait for whoever is at work there.
    pub(super) footing: Footing,
    pub(super) ears: Ears,
    pub(super) lease_until: Option<Time>,
    born: Time,
    systemd: Systemd,
    /// When to see to what is around the agent.
    housekeeping: Time,
    losses: Losses,
    losses_told: Time,
    /// Not before then words of names that are in no definition are told of again.
    nameless_due: Time,
    /// The last thing told was that the kernel refuses.
    refused: bool,
    /// The lease was renewed just now.
    renewed: bool,
    stop: bool,
}

impl Driver {
    /// Everything is there; nothing has been said yet.
    pub fn new(
        node: Node,
        terms: Terms,
        kernel: Arc<Kernel>,
        voices: Voices,
        Senses { ears, footing }: Senses,
        keeper: Keeper,
        recorder: Recorder,
    ) -> Self {
        Driver {
            node,
            terms,
            kernel,
            voices,
            keeper,
            desk: Desk::new(),
            looks: Looks::new(),
            lists: Lists::default(),
            recorder,
            footing,
            beacon_due: Time::default(),
            sending_failed: None,
            ears,
            lease_until: None,
            born: clock::now(),
            systemd: Systemd::open(clock::now()),
            housekeeping: clock::now(),
            losses: Losses::default(),
            losses_told: Time::default(),
            nameless_due: Time::default(),
            refused: false,
            renewed: false,
            stop: false,
        }
    }

    /// Runs until the core says stop, or nothing can go on.
    pub async fn drive(mut self, inputs: Inputs) -> Result<()> {
        let ended = self.turn(inputs).await;
        self.recorder.finish(LAST_ENTRIES);
        ended
    }

    async fn turn(&mut self, mut inputs: Inputs) -> Result<()> {
        let mut gossip_ended = Box::pin(self.voices.spread.ended());
        let mut told_to_leave = None;
        let mut frames = Vec::new();
        self.carry_out().await;
        while !self.stop {
            if let Some(words) = self.stand_on() {
                inputs.beacon_words = words;
            }
            let wait = self.node.next_deadline().since(clock::now());
            let look = self.looks.due();
            let until_look = look.map_or(Duration::MAX, |due| due.since(clock::now()));
            tokio::select! {
                () = tokio::time::sleep(wait) => self.feed(Input::Tick).await,
                () = tokio::time::sleep(until_look), if look.is_some() => {
                    self.looks.start(&self.terms, self.lists.wanted());
                }
                looked = self.looks.result(&self.node) => if let Some((look, clients)) = looked {
                    match clients {
                        Some((definition, clients)) => self.answer_lists(look.at, definition, &clients),
                        // Asked for while that look was under way.
                        None if self.lists.wanted() => self.looks.hurry(),
                        None => {}
                    }
                    self.feed(Input::Looked(look)).await;
                },
                Some(message) = inputs.incoming.recv() => match message {
                    Incoming::Word(from, word) => {
                        self.hear(Way::From(&from), &word);
                        self.follow_up().await;
                    }
                    Incoming::Stranger(host) => self.feed(Input::Stranger { host }).await,
                    Incoming::Letter(from, letter) => self.letter(from, letter).await,
                    // chitchat falling behind loses datagrams, as a network would.
                    Incoming::Gossip(datagram) => drop(inputs.gossip_in.try_send(datagram)),
                },
                // What came together is one step's work.
                1.. = inputs.beacon_words.recv_many(&mut frames, FRAMES) => {
                    self.heard_frame();
                    frames.drain(..).for_each(|word| self.hear(Way::Frame, &word));
                    self.follow_up().await;
                }
                Some(word) = inputs.spread_words.recv() => {
                    self.hear(Way::Spread, &word);
                    self.follow_up().await;
                }
                Some(()) = inputs.frames.recv() => {
                    self.heard_frame();
                    self.follow_up().await;
                }
                said = inputs.said.recv() => match said {
                    Some(Said::Committed { change, ok }) => self.feed(Input::Committed { change, ok }).await,
                    Some(Said::Renewed { until }) => self.feed(Input::Renewed { until }).await,
                    None => return Err(Failure::failed("the netfilter thread has ended unexpectedly")),
                },
                Some((fine, answer)) = self.desk.checked.1.recv() => self.tried_out(fine, answer),
                Ok(()) = inputs.footing.changed() => {
                    self.footing = inputs.footing.borrow_and_update().clone();
                    let Footing { mac, up, .. } = self.footing;
                    self.find_gossip();
                    self.feed(Input::Mac(mac)).await;
                    self.feed(Input::Link { up }).await;
                }
                Some(question) = inputs.questions.recv() => self.answer(question).await,
                Some(()) = inputs.signals.hangup.recv() => match self.reload().await {
                    Ok(said) => tracing::info!("{said}"),
                    Err(why) => tracing::error!("{why}"),
                },
                () = inputs.signals.end.wished() => {
                    // A supervisor and a process group often signal the same wish twice.
                    // It may have been asked to stay in between.
                    match told_to_leave.filter(|_| self.node.state() == HostState::Leaving) {
                        Some(at) if clock::now().since(at) < SAME_WISH => continue,
                        Some(_) => {
                            tracing::warn!("told twice to end: ending without a hand-over");
                            return Ok(());
                        }
                        None => told_to_leave = Some(clock::now()),
                    }
                    self.systemd.stopping(clock::now());
                    if let Some(cost) = self.cost_of_leaving() {
                        tracing::warn!("{}; to take the leave back, `onemac resume`; {}", cost.what, cost.advice);
                    }
                    self.feed(Input::Leave).await;
                }
                ended = &mut gossip_ended => {
                    let why = ended.err().map_or_else(|| "without a reason".into(), |e| format!("{e:#}"));
                    return Err(Failure::failed(format_args!("gossip has ended: {why}")));
                }
            }
        }
        // The last word is on its way through the socket's queue; nothing waits for it any more.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Tells the core something and does what it then wants.
    pub async fn feed(&mut self, input: Input) {
        self.handle(input);
        self.follow_up().await;
    }

    /// Does what the core wants after it was told something.
    async fn follow_up(&mut self) {
        self.carry_out().await;
        self.looks.consider(&self.node);
        self.forget_leavers();
        self.keep_house();
        if std::mem::take(&mut self.renewed) && self.may_restart() {
            self.restart().await;
        }
    }

    /// The core is told of frames once a heartbeat, however many come.
    fn heard_frame(&mut self) {
        if self.ears.is_news(clock::now()) {
            self.handle(Input::Frame);
        }
    }

    fn handle(&mut self, input: Input) {
        let now = clock::now();
        if !self.admits(now, &input) {
            return;
        }
        if let Err(why) = self.recorder.told(now, &input) {
            self.terms.warnings.raise(
                "recording",
                why,
                "start the agent with --record to a disk that has room and time",
            );
        }
        self.node.handle(now, input);
    }

    /// Whether what a host says is for the core: that of hosts of the definition, the staged one, or the one before,
    /// until they have gone. Whoever else knows the secret runs by a definition that has nothing to do with ours.
    fn admits(&mut self, now: Time, input: &Input) -> bool {
        let host = match input {
            Input::Heard(report) => &report.host,
            Input::OtherVersion { host, .. } => host,
            _ => return true,
        };
        if self.terms.definition.hosts.iter().any(|h| h.name == *host) || self.desk.knows(host) {
            return true;
        }
        if now >= self.nameless_due {
            self.nameless_due = now + NAMELESS;
            tracing::warn!(
                "{host} speaks, with our secret, and is not in the definition: not listened to; compare the \
                 definitions of all hosts, then `onemac reload`, or stop the agent there"
            );
        }
        false
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Publish { report, to } => self.publish(&report, &to).await,
                Action::Apply(change) => self.apply(change),
                Action::Renew { lease_until } => {
                    self.lease_until = Some(lease_until);
                    self.kernel.netfilter.renew(lease_until);
                    self.renewed = true;
                }
                Action::Ask { host, round, slices } => {
                    let letter = Letter::List { round, slices }.encode();
                    self.voices.wire.send_to_hosts(Some(&host), Kind::Letter, &letter);
                }
                Action::Remember(memory) => {
                    let began = clock::now();
                    self.keeper.keep(memory);
                    self.look_at_run_dir(clock::now().since(began));
                }
                Action::Changed(_) => self.change_definition().await,
                Action::Note(event) => {
                    // A kernel that goes on refusing is asked ten times a second.
                    let refused = event == Event::KernelRefused;
                    match story::tell(&event) {
                        _ if refused && self.refused => {}
                        (story::Volume::Info, text) => tracing::info!("{text}"),
                        (story::Volume::Warn, text) => tracing::warn!("{text}"),
                    }
                    self.refused = refused;
                }
                Action::Stop => self.stop = true,
            }
        }
    }

    /// The service device is another one, or has another address: the second path for reports goes by it.
    fn stand_on(&mut self) -> Option<mpsc::Receiver<Vec<u8>>> {
        let Footing { up, index, mac, name } = &self.footing;
        if !up || self.voices.beacon.is_on(*index, *mac) || clock::now() < self.beacon_due {
            return None;
        }
        self.beacon_due = clock::now() + HOUSEKEEPING;
        match Beacon::open(*index, *mac, &self.terms.secrets.keys()) {
            Ok((beacon, words)) => {
                self.voices.beacon = beacon;
                self.terms.warnings.clear(BEACON_WARNING);
                Some(words)
            }
            Err(error) => {
                self.terms.warnings.raise(
                    BEACON_WARNING,
                    format!("cannot open the second path for reports on {name}: {error}"),
                    "gossip is the only path for reports; the agent tries again every second",
                );
                None
            }
        }
    }

    /// Looks whether gossip has a network of its own.
    pub(super) fn find_gossip(&mut self) {
        let apart = !is_on(self.terms.host.gossip.ip(), &self.footing.name);
        self.voices.words.set_apart(apart);
    }

    /// A word has come in.
    fn hear(&mut self, way: Way<'_>, word: &[u8]) {
        let now = clock::now();
        let Some(heard) = self.voices.words.hear(now, way, word) else { return };
        for Errand { to, words } in heard.errands {
            for word in words {
                self.voices.wire.send_to_hosts(Some(&to), Kind::Report, &word);
            }
        }
        if let Some(word) = heard.word {
            self.handle(word.into_input());
        }
    }

    /// Sends words on the service wire; whether all left.
    fn send_on_service_wire(&mut self, words: &[Vec<u8>]) -> bool {
        let now = clock::now();
        let sent = words.iter().try_for_each(|word| self.voices.beacon.send(word));
        match &sent {
            Ok(()) => {
                if self.sending_failed.is_some_and(|at| now.since(at) > FAILURE_STANDS) {
                    self.sending_failed = None;
                    self.terms.warnings.clear(SENDING_WARNING);
                }
            }
            // The queue of the device is full for a moment; or it is down or gone, which is told by who looks after it.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ENETDOWN | libc::ENXIO)
                ) => {}
            Err(error) => {
                self.sending_failed = Some(now);
                self.terms.warnings.raise(
                    SENDING_WARNING,
                    format!("cannot send reports on the service wire, by {}: {error}", self.footing.name),
                    "gossip is the only path for this host's reports; see `ip link`, the MTU must be 1280 or more",
                );
            }
        }
        sent.is_ok()
    }

    async fn publish(&mut self, report: &Report, to: &Recipients) {
        let at = clock::now();
        let Some(saying) = self.voices.words.say(at, report, to) else {
            tracing::error!("our report is too large to be sent; the lease will run out");
            return;
        };
        let mut left = saying.to_all && self.send_on_service_wire(&saying.words);
        for host in &saying.direct {
            for word in &saying.words {
                left |= self.voices.wire.send_to_hosts(Some(host), Kind::Report, word);
            }
        }
        if left {
            self.handle(Input::Sent { at });
        }
        if let Some(word) = saying.spread {
            self.voices.spread.publish(&word).await;
        }
    }

    fn apply(&mut self, change: Change) {
        self.lease_until = change.lease_until;
        let services = kernel::services(&self.terms, &change.slices, &|host| self.node.mac_of(host));
        let elsewhere = self.lists.elsewhere(&change.slices);
        self.kernel.netfilter.change(change.id, services, elsewhere, change.lease_until);
    }

    async fn answer(&mut self, question: Question) {
        match question {
            Question::Wish(wish, answer) => self.wish(wish, answer).await,
            Question::Reload(answer) => {
                let result = self.reload().await;
                drop(answer.send(result));
            }
            Question::Restart(answer) => self.want_restart(answer),
            Question::Status(to) => drop(to.send(self.status())),
            Question::Slices(to) => drop(to.send(answers::slices(&self.node, &self.terms.definition))),
            Question::Owner(client, service, to) => drop(to.send(self.owner(client, service))),
        }
    }

    /// Tells systemd, and what has become of the log, when it is time. The core's deadlines, several a second, see to it.
    fn keep_house(&mut self) {
        let now = clock::now();
        if self.systemd.due().is_some_and(|due| now >= due) {
            let line = self.line(now);
            self.systemd.speak(now, line);
        }
        if now >= self.housekeeping {
            self.housekeeping = now + HOUSEKEEPING;
            self.tell_losses(now);
        }
    }

    /// How we are, for `systemctl status`.
    fn line(&self, now: Time) -> String {
        let status = self.node.status(now);
        let alive = status.hosts.iter().filter(|h| h.alive).count();
        let owned: u32 = status.services.iter().map(|s| s.owned).sum();
        format!(
            "{:?}, {owned} of {} slices, {alive} of {} hosts alive",
            status.state,
            self.terms.definition.slices,
            status.hosts.len()
        )
        .to_lowercase()
    }

    /// The loop waits for the run directory, because a next agent must not take up an older life than the others have
    /// heard of.
    fn look_at_run_dir(&self, took: Duration) {
        if took > self.terms.definition.timing.heartbeat {
            self.terms.warnings.raise(
                "run directory",
                format!("a write to the run directory took {} ms; one that takes a lease costs this host its slices", took.as_millis()),
                "put the run directory on a tmpfs, as /run is (--run-dir)",
            );
        }
    }

    /// Warns of lines of the log that were not written.
    fn tell_losses(&mut self, now: Time) {
        let losses = self.terms.log.losses();
        let warnings = &self.terms.warnings;
        if losses.goes_on {
            warnings.raise(
                LOG_WARNING,
                "lines of this agent's log are left out: whatever reads its standard error has stalled or gone",
                "look at the journal (systemctl status systemd-journald) or the program and the disk that the log goes to",
            );
        } else if losses != self.losses {
            self.losses_told = now;
            warnings.raise(
                LOG_WARNING,
                format!("{} lines of this agent's log were not written; new lines are", losses.lines),
                "look for what stopped the reader of its standard error: the journal, a pipe, a full disk",
            );
        } else if losses.lines > 0 && now.since(self.losses_told) > LOSSES_STAND {
            warnings.clear(LOG_WARNING);
        }
        self.losses = losses;
    }

    /// Whether this agent runs for longer than a hundred heartbeats.
    pub(super) fn lived_long(&self) -> bool {
        clock::now().since(self.born) > self.terms.definition.timing.heartbeat * 100
    }

    /// How many datagrams failed authentication, were replayed, came from nowhere known.
    pub(super) fn wire_counts(&self) -> [u64; 4] {
        let c = &self.voices.wire.counts;
        [&c.forged, &c.replayed, &c.unknown, &c.unreadable].map(|n| n.load(Ordering::Relaxed))
    }
}

/// Whether a device has this address. Of one that cannot be looked at nobody knows.
fn is_on(address: IpAddr, device: &str) -> bool {
    let Ok(mut all) = getifaddrs() else { return false };
    all.any(|it| {
        let has = it.address.is_some_and(|has| match address {
            IpAddr::V4(address) => has.as_sockaddr_in().is_some_and(|has| has.ip() == address),
            IpAddr::V6(address) => has.as_sockaddr_in6().is_some_and(|has| has.ip() == address),
        });
        has && it.interface_name == device
    })
}
