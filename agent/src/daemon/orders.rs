//! What operators want: of this host, and of others by letter.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onemac_core::node::{Input, Memory, Staged};
use onemac_core::time::Time;
use onemac_definition::Definition;
use tokio::sync::{mpsc, oneshot};

use super::driver::Driver;
use crate::cli::protocol_of;
use crate::clock;
use crate::control::model::Wish;
use crate::control::server::Answer;
use crate::failure::{Failure, Result};
use crate::gossip;
use crate::gossip::letter::{Letter, Order};
use crate::gossip::seal::Kind;
use crate::setup;

/// How often a letter is sent, and how long an answer is waited for.
const AGAIN: Duration = Duration::from_millis(200);
const TRIES: u32 = 15;

/// For so long a restart waits for the recording, and for the log.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// For how long a restart waits for moves to end.
const SETTLE: Duration = Duration::from_secs(3);

/// What is under way for operators.
pub struct Desk {
    /// Who waits for the answer to which letter.
    letters: HashMap<u64, oneshot::Sender<std::result::Result<String, String>>>,
    last_letter: u64,
    /// The definition that waits for the others.
    pub staged: Option<Box<Definition>>,
    /// Hosts that a new definition has no more, until they have gone.
    leaving: HashMap<SocketAddr, String>,
    /// Somebody waits for this agent to start anew, and moves are waited for until then.
    pub restart: Option<(Time, Answer)>,
    /// Whether the program could be started anew, for those who asked.
    pub checked: (mpsc::UnboundedSender<Checked>, mpsc::UnboundedReceiver<Checked>),
}

/// What came of trying the program out, and who wants to know.
pub type Checked = (std::result::Result<(), String>, Answer);

impl Desk {
    /// Nothing is under way.
    pub fn new() -> Self {
        Desk {
            letters: HashMap::new(),
            last_letter: 0,
            staged: None,
            leaving: HashMap::new(),
            restart: None,
            checked: mpsc::unbounded_channel(),
        }
    }

    /// Whether a host is in the definition that waits, or has not gone yet that was in the one before.
    pub fn knows(&self, host: &str) -> bool {
        let staged = self.staged.iter().flat_map(|definition| &definition.hosts);
        staged.map(|h| &h.name).chain(self.leaving.values()).any(|name| name == host)
    }
}

impl Driver {
    pub(super) async fn wish(&mut self, wish: Wish, answer: Answer) {
        let host = match wish.host.as_deref().map(|name| self.terms.definition.host(name)) {
            None => self.terms.host.name.clone(),
            Some(Some(host)) => host.name.clone(),
            Some(None) => {
                let names: Vec<&str> = self.terms.definition.hosts.iter().map(|h| h.name.as_str()).collect();
                let wanted = wish.host.unwrap_or_default();
                let why = format!("no host `{wanted}` in the definition; its hosts are {}", names.join(", "));
                return drop(answer.send(Err(Failure::usage(why))));
            }
        };
        if let Err(why) = self.check_service(&wish.order) {
            return drop(answer.send(Err(Failure::usage(why))));
        }
        if host == self.terms.host.name {
            let result = self.obey(wish.order).await.map_err(Failure::failed);
            return drop(answer.send(result));
        }
        if !self.node.hears(&host) {
            let why = format!("{host} is not heard now, so it cannot be told; its share is with the others");
            return drop(answer.send(Err(Failure::failed(why))));
        }
        self.send_letter(host, wish.order, answer);
    }

    fn check_service(&self, order: &Order) -> std::result::Result<(), String> {
        let (Order::Drain { service } | Order::Resume { service }) = order else { return Ok(()) };
        let known = setup::services(&self.terms.definition);
        match service {
            Some(name) if !known.contains(name) => {
                Err(format!("no service `{name}`; the services are {}", known.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Does what an operator wants of this host; says what came of it, or why not.
    pub(super) async fn obey(&mut self, order: Order) -> std::result::Result<String, String> {
        self.check_service(&order)?;
        let me = self.terms.host.name.clone();
        let of = |service: &Option<String>| service.clone().unwrap_or_else(|| "everything".into());
        let (input, said) = match order {
            Order::Drain { service } => {
                self.somebody_else_serves(service.as_deref())?;
                let said = format!("{me} is drained of {}: it takes nothing new", of(&service));
                (Input::Drain { service }, said)
            }
            Order::Resume { service } => {
                let said = format!("{me} resumes {}", of(&service));
                (Input::Resume { service }, said)
            }
            Order::Weight { weight } => {
                if weight > 100 {
                    return Err(format!("a weight is 0 to 100, not {weight}"));
                }
                if weight == 0 {
                    self.somebody_else_serves(None)?;
                }
                (Input::Weight(weight), format!("{me} has the weight {weight}"))
            }
        };
        self.feed(input).await;
        Ok(said)
    }

    /// A cluster of which every host is drained would serve nobody.
    fn somebody_else_serves(&self, service: Option<&str>) -> std::result::Result<(), String> {
        let status = self.node.status(clock::now());
        let wanted = match service {
            Some(name) => vec![name.to_owned()],
            None => setup::services(&self.terms.definition),
        };
        for name in wanted {
            let serves = |h: &&onemac_core::node::HostStatus| {
                h.name != self.terms.host.name
                    && h.alive
                    && h.weight > 0
                    && h.state.is_some_and(onemac_core::report::HostState::serves)
                    && !h.drained.contains(&name)
            };
            if !status.hosts.iter().any(|h| serves(&h)) {
                return Err(format!(
                    "no other host would serve {name}: {} is the last one; start or resume another first",
                    self.terms.host.name
                ));
            }
        }
        Ok(())
    }

    fn send_letter(&mut self, host: String, order: Order, answer: Answer) {
        self.desk.last_letter += 1;
        let id = self.terms.run.wrapping_mul(1_000_000).wrapping_add(self.desk.last_letter);
        let (reply, mut replied) = oneshot::channel();
        self.desk.letters.retain(|_, waiting| !waiting.is_closed());
        self.desk.letters.insert(id, reply);
        let wire = Arc::clone(&self.voices.wire);
        let letter = Letter::Order { id, order }.encode();
        tokio::spawn(async move {
            for _ in 0..TRIES {
                wire.send_to_hosts(Some(&host), Kind::Letter, &letter);
                match tokio::time::timeout(AGAIN, &mut replied).await {
                    Ok(Ok(result)) => return drop(answer.send(result.map_err(Failure::failed))),
                    Ok(Err(_)) => break,
                    Err(_) => {}
                }
            }
            let why = format!("{host} does not answer; whether it has done it, `onemac status` will show");
            let _ = answer.send(Err(Failure::failed(why)));
        });
    }

    /// A letter has come in.
    pub(super) async fn letter(&mut self, from: String, letter: Letter) {
        match letter {
            Letter::Order { id, order } => {
                tracing::info!("{from} passes on an operator's order: {order:?}");
                let result = self.obey(order).await;
                let reply = Letter::Reply { id, result }.encode();
                self.voices.wire.send_to_hosts(Some(&from), Kind::Letter, &reply);
            }
            Letter::List { round, slices } => self.asked_for_list(from, round, slices),
            Letter::Listed(listing) => self.listed(from, listing).await,
            Letter::Reply { id, result } => {
                if let Some(waiting) = self.desk.letters.remove(&id) {
                    let _ = waiting.send(result);
                }
            }
        }
    }

    /// Reads the definition and the secret again. A bad one of either changes nothing.
    pub(super) async fn reload(&mut self) -> Result<String> {
        let file = self.terms.file.clone();
        let definition = setup::load_definition(&file)?;
        setup::refuse_what_is_to_come(&file, &definition)?;
        let me = self.terms.host.name.clone();
        let mut before = self.terms.definition.clone();
        let interface = self.footing.name.clone();
        // A device that was renamed goes by its new name in the definition too.
        let renamed = definition.host(&me).is_some_and(|host| host.interface == interface);
        if let Some(host) = before.hosts.iter_mut().find(|host| renamed && host.name == me) {
            host.interface = interface;
        }
        let keys = setup::needs_restart(&before, &definition, &me);
        if !keys.is_empty() {
            return Err(Failure::usage(format_args!(
                "{}: {} cannot change while the cluster runs; nothing was changed. Stop every agent, then start \
                 them with the new file",
                file.display(),
                keys.join(", ")
            )));
        }
        let secrets = self.read_secrets()?;
        let cluster = setup::cluster(&definition, &secrets);
        let follow = setup::follow(&definition);
        let gone = definition.host(&me).is_none();
        let same = cluster.definition == self.node.definition();
        let secret_said = self.take_up_secrets(secrets);
        self.desk.staged = (!same).then(|| Box::new(definition));
        self.feed(Input::Stage(Box::new(Staged { cluster, follow }))).await;
        let said = match self.node.staged() {
            _ if same => "the definition has not changed".into(),
            None => "the new definition is in force".into(),
            Some((_, waits)) => format!(
                "the new definition is read; it comes into force when every living host has it. Still to come: {} \
                 (`onemac reload` there)",
                waits.into_iter().collect::<Vec<_>>().join(", ")
            ),
        };
        let leaves = if gone { format!("; {me} is not in it and will leave") } else { String::new() };
        Ok(said + &secret_said.map(|said| format!("; {said}")).unwrap_or_default() + &leaves)
    }

    /// Another definition is in force: the kernel's side of it, and whom we speak to.
    pub(super) async fn change_definition(&mut self) {
        let Some(definition) = self.desk.staged.take() else { return };
        let definition = *definition;
        let before = self.voices.wire.peers();
        let me = self.terms.host.name.clone();
        let after = super::peers(&definition, &me);
        self.desk.leaving.extend(before.into_iter().filter(|(address, _)| !after.contains_key(address)));
        self.desk.leaving.retain(|address, _| !after.contains_key(address));
        let mut all = after;
        all.extend(self.desk.leaving.clone());
        self.voices.words.meet(all.values().cloned(), definition.timing.heartbeat);
        self.voices.wire.set_peers(all);
        let host = definition.host(&me).unwrap_or(&self.terms.host);
        let wanted = super::wanted(&definition, host, &self.terms.secrets);
        let services = setup::kernel_services(&self.terms.definition);
        let same = (&wanted.vips, &wanted.services, &wanted.device)
            == (&self.terms.definition.vips, &services, &self.terms.host.interface);
        let hosts = definition.hosts.iter().map(|h| h.gossip.ip());
        self.kernel.keep_apart_from(wanted.vips.iter().copied().chain(hosts).collect());
        // Rules that would be the same are not replaced. Waited for: our reports name the new definition from now on,
        // and whoever hears that must find our kernel to be by it.
        let began = clock::now();
        if !same && let Err(error) = self.kernel.change(&self.terms.definition.vips, wanted).await {
            tracing::error!("{error}");
        }
        let took = clock::now().since(began);
        if took > self.terms.definition.timing.heartbeat {
            tracing::warn!(
                "the kernel took {} ms for the new definition, more than a heartbeat; what takes a lease costs this \
                 host its slices",
                took.as_millis()
            );
        }
        if let Some(host) = definition.host(&me) {
            self.terms.host = host.clone();
        }
        self.find_gossip();
        self.terms.definition = definition;
        self.keeper.change_definition(self.node.definition());
    }

    /// Stops speaking to hosts that have left the definition and the cluster.
    pub(super) fn forget_leavers(&mut self) {
        if self.desk.leaving.is_empty() {
            return;
        }
        let gone: Vec<SocketAddr> =
            self.desk.leaving.iter().filter(|(_, h)| !self.node.hears(h)).map(|(a, _)| *a).collect();
        if gone.is_empty() {
            return;
        }
        let mut peers = self.voices.wire.peers();
        for address in gone {
            self.desk.leaving.remove(&address);
            peers.remove(&address);
        }
        self.voices.words.meet(peers.values().cloned(), self.terms.definition.timing.heartbeat);
        self.voices.wire.set_peers(peers);
    }

    /// Starts the program anew as soon as nothing moves and the lease is fresh; the kernel serves meanwhile.
    pub(super) fn want_restart(&mut self, answer: Answer) {
        if let Err(why) = self.read_secrets() {
            return drop(answer.send(Err(Failure::failed(format_args!("{why}; this agent goes on")))));
        }
        let (program, file) = (self.terms.program.clone(), self.terms.file.clone());
        let checked = self.desk.checked.0.clone();
        tokio::task::spawn_blocking(move || drop(checked.send((try_out(&program, &file), answer))));
    }

    /// The program was tried out.
    pub(super) fn tried_out(&mut self, fine: std::result::Result<(), String>, answer: Answer) {
        match fine {
            Ok(()) => self.desk.restart = Some((clock::now() + SETTLE, answer)),
            Err(why) => drop(answer.send(Err(Failure::failed(format!("{why}; this agent goes on"))))),
        }
    }

    /// Whether it is time to start anew.
    pub(super) fn may_restart(&self) -> bool {
        self.desk.restart.as_ref().is_some_and(|(until, _)| self.node.is_settled() || clock::now() >= *until)
    }

    /// Becomes the program anew. Returns only if that fails.
    pub(super) async fn restart(&mut self) {
        use std::os::unix::process::CommandExt;
        let Some((until, answer)) = self.desk.restart.take() else { return };
        self.kernel.netfilter.finish().await;
        // Who starts the program anew waits for every thread, and one that writes to a dead disk does not end.
        let stalled = match self.terms.log.finish(LAST_WORDS) {
            false if clock::now() < until => return self.desk.restart = Some((until, answer)),
            false => Some("whatever reads the log has stalled"),
            true if !self.recorder.finish(LAST_WORDS) => {
                Some("the disk of the recording has stalled, and it has ended")
            }
            true => None,
        };
        if let Some(why) = stalled {
            return drop(answer.send(Err(Failure::failed(format_args!("{why}; this agent goes on")))));
        }
        let checkpoint = self.node.checkpoint();
        if checkpoint.is_some() && !self.keeper.keep(checkpoint.clone()) {
            let why = "what the program anew has to know cannot be written to the run directory; this agent goes on";
            return drop(answer.send(Err(Failure::failed(why))));
        }
        let _ = answer.send(Ok("starting anew".into()));
        // The answer has to leave before its socket is gone.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let error = std::process::Command::new(&self.terms.program).args(std::env::args_os().skip(1)).exec();
        tracing::error!("cannot start {} anew: {error}; going on", self.terms.program.display());
        // Whoever starts later must not believe what was known now.
        self.keeper.keep(checkpoint.map(|memory| Box::new(Memory { known: Default::default(), ..*memory })));
    }
}

/// A program that cannot even read the definition would leave the kernel alone until its lease ends. One that speaks
/// another version of the protocol could not go on with this life, and its connections would break.
fn try_out(program: &Path, file: &Path) -> std::result::Result<(), String> {
    let name = program.display();
    let run = |arguments: &[&OsStr]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_err(|error| format!("cannot run {name}: {error}"))
    };
    let version = run(&["--version".as_ref()])?.stdout;
    let version = String::from_utf8_lossy(&version);
    if protocol_of(&version) != Some(gossip::VERSION) {
        return Err(format!(
            "{name} is {}, and this agent speaks protocol {}: to change over without breaking connections, \
             `onemac drain --wait`, stop the agent, start the new one; it serves when all hosts have been changed",
            version.trim(),
            gossip::VERSION
        ));
    }
    let output = run(&["check".as_ref(), file.as_os_str()])?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name} does not take the definition {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
