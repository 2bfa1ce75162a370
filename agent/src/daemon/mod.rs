//! The daemon: one loop that waits, feeds the core, carries out what the core decides.

mod answers;
mod driver;
mod incarnation;
mod leaving;
mod life;
mod lists;
mod lock;
mod looks;
mod memory;
mod orders;
pub mod priority;
mod secrets;
pub mod story;
mod systemd;

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use onemac_core::node::{Input, Memory};
use onemac_definition::{Definition, Host};
use onemac_rules::Wanted;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::driver::{Driver, Inputs, Senses, Voices};
use self::life::Keeper;
pub use self::life::forget;
pub use self::lock::Lock;
use crate::clock;
use crate::control::{server, socket_path};
use crate::failure::{Failure, Result};
use crate::gossip::beacon::Beacon;
use crate::gossip::spread::{Identity, Spread};
use crate::gossip::wire::{Incoming, Wire};
use crate::gossip::words::Words;
use crate::kernel::ears;
use crate::kernel::netfilter::Said;
use crate::kernel::{Footing, Found, Kernel, SHARED_DEVICE, conntrack};
use crate::log::Log;
use crate::random;
use crate::record::{Entry, Recorder, Start};
use crate::secret::Secrets;
use crate::setup;
use crate::warnings::Warnings;

/// What an agent runs by.
pub(crate) struct Terms {
    pub definition: Definition,
    pub host: Host,
    pub secrets: Secrets,
    /// Which run of the program this is; grows with every start.
    pub run: u64,
    /// Where the definition was read.
    pub file: PathBuf,
    /// The program's own file, which an upgrade may have replaced.
    pub program: PathBuf,
    /// What is wrong with this machine.
    pub warnings: Warnings,
    /// Where the log's lines wait.
    pub log: Log,
}

/// What has been opened before anything is made in the kernel.
struct Doors {
    wire: Arc<Wire>,
    incoming: mpsc::Receiver<Incoming>,
    questions: mpsc::Receiver<server::Question>,
    signals: Signals,
    recorder: Recorder,
}

/// Runs the agent until it is told to leave.
///
/// Whatever can fail for a reason of the operator's is tried before anything is made.
pub async fn run(
    file: &Path,
    host: Option<&str>,
    record: Option<&Path>,
    run_dir: &Path,
    log: Log,
) -> Result<()> {
    let definition = setup::load_definition(file)?;
    setup::refuse_what_is_to_come(file, &definition)?;
    let host = setup::pick_host(&definition, host)?.clone();
    let secrets = Secrets::load(&setup::secret_path(file, &definition))?;
    let recorder = open_recorder(record)?;
    let _lock = Lock::take()?;
    let warnings = Warnings::default();
    memory::lock(&warnings);
    fs::create_dir_all(run_dir).map_err(|e| {
        Failure::failed(format_args!("cannot make the run directory {}: {e}", run_dir.display()))
    })?;
    let terms = Terms {
        definition,
        host,
        secrets,
        run: incarnation::next(run_dir)?,
        file: absolute(file),
        program: std::env::current_exe().map_err(Failure::failed)?,
        warnings: warnings.clone(),
        log,
    };
    let (wire, incoming) = open_wire(&terms).await?;
    let questions = server::open(&socket_path(run_dir))?;
    let doors = Doors { wire, incoming, questions, signals: Signals::open()?, recorder };

    let cluster = setup::cluster(&terms.definition, &terms.secrets);
    let keeper = Keeper::new(run_dir, &terms.host.name, cluster.definition, warnings.clone());
    let kept = keeper.found();
    let wanted = wanted(&terms.definition, &terms.host, &terms.secrets);
    let hosts: Vec<IpAddr> = terms.definition.hosts.iter().map(|h| h.gossip.ip()).collect();
    let kernel = Kernel::bring_up(wanted, run_dir, kept.is_some(), &hosts, warnings).await;
    let result = match kernel {
        Ok((kernel, found, said)) => {
            let kernel = Arc::new(kernel);
            let memory = kept.and_then(|life| life.memory);
            let served = serve(terms, Arc::clone(&kernel), found, said, memory, keeper, doors).await;
            let failures = kernel.tear_down().await;
            failures.iter().for_each(|failure| tracing::error!("{failure}"));
            served.and(failures.into_iter().next().map_or(Ok(()), Err))
        }
        Err(error) => Err(error),
    };
    let _ = fs::remove_file(socket_path(run_dir));
    life::forget(run_dir);
    result
}

/// As it will still be right when the program is started anew from another directory.
fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.into())
}

/// The agent's life, with everything made.
async fn serve(
    terms: Terms,
    kernel: Arc<Kernel>,
    found: Found,
    said: mpsc::UnboundedReceiver<Said>,
    memory: Option<Box<Memory>>,
    keeper: Keeper,
    mut doors: Doors,
) -> Result<()> {
    let Terms { definition, host, .. } = &terms;
    let (gossip_in, gossip_queue) = mpsc::channel(256);
    let (word_in, spread_words) = mpsc::unbounded_channel();
    let me = Identity {
        cluster: definition.cluster.clone(),
        host: host.name.clone(),
        address: host.gossip,
        incarnation: terms.run,
    };
    let seeds: Vec<SocketAddr> =
        definition.hosts.iter().map(|h| h.gossip).filter(|a| *a != host.gossip).collect();
    let interval = definition.timing.heartbeat;
    let spread = Spread::start(me, &seeds, Arc::clone(&doors.wire), gossip_queue, word_in).await;
    let spread = spread.map_err(|e| Failure::failed(format_args!("cannot start to gossip: {e:#}")))?;
    let footing = kernel.footing().await;
    let Footing { up, index, mac, .. } = footing;
    let (beacon, beacon_words) = Beacon::open(index, mac, &terms.secrets.keys()).map_err(|e| {
        Failure::failed(format_args!("cannot open the second path for reports on {}: {e}", host.interface))
    })?;

    conntrack::tell(&setup::follow(definition).services.into_iter().collect::<Vec<_>>());
    conntrack::watch(terms.warnings.clone());

    let start = Start {
        with: onemac_core::node::Start {
            host: host.name.clone(),
            mac,
            cluster: setup::cluster(definition, &terms.secrets),
            timing: setup::timing(definition),
            partition: setup::partition(definition),
            follow: setup::follow(definition),
            incarnation: terms.run,
            leftover: found.slices,
            lease_until: found.lease_until,
            memory,
        },
        at: clock::now(),
    };
    let node = start.node();
    // The queue is empty.
    let _ = doors.recorder.note(Entry::Start(Box::new(start)));
    let Doors { wire, incoming, questions, signals, recorder } = doors;
    let known = footing.clone();
    let footing = kernel.guard(footing);
    let (ears, frames) = ears::open(footing.clone(), interval, &terms.warnings)?;
    let mut words = Words::new(&terms.host.name, random::bytes()?, interval, clock::now());
    words.meet(wire.peers().into_values(), interval);
    let inputs =
        Inputs { incoming, gossip_in, spread_words, beacon_words, frames, footing, said, questions, signals };
    let voices = Voices { words, wire, spread, beacon };
    let mut driver =
        Driver::new(node, terms, kernel, voices, Senses { ears, footing: known }, keeper, recorder);
    driver.find_gossip();
    if !up {
        driver.feed(Input::Link { up }).await;
    }
    driver.drive(inputs).await
}

fn open_recorder(path: Option<&Path>) -> Result<Recorder> {
    let Some(path) = path else { return Ok(Recorder::off()) };
    Recorder::open(path)
        .map_err(|e| Failure::failed(format_args!("cannot record to {}: {e}", path.display())))
}

/// The other hosts by address.
fn peers(definition: &Definition, me: &str) -> HashMap<SocketAddr, String> {
    let others = definition.hosts.iter().filter(|h| h.name != me);
    others.map(|h| (h.gossip, h.name.clone())).collect()
}

async fn open_wire(terms: &Terms) -> Result<(Arc<Wire>, mpsc::Receiver<Incoming>)> {
    let me = &terms.host;
    let peers = peers(&terms.definition, &me.name);
    let wire = Wire::open(me.gossip, terms.secrets.keys(), terms.run, peers).await;
    let wire = wire.map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::AddrNotAvailable => "that address is not on this host: is --host right?",
            std::io::ErrorKind::AddrInUse => "another program has this port: another agent on this host?",
            _ => "see `gossip` of this host in the definition",
        };
        Failure::failed(format_args!("cannot listen for gossip at {}: {e}; {advice}", me.gossip))
    })?;
    let incoming = wire.listen();
    Ok((wire, incoming))
}

/// What this host wants of its kernel before anything is decided: to accept nothing.
pub fn wanted(definition: &Definition, host: &Host, secrets: &Secrets) -> Wanted {
    Wanted {
        device: host.interface.clone(),
        // Read from the device when it is looked up.
        device_mac: onemac_rules::MacAddr([0; 6]),
        shared: SHARED_DEVICE.into(),
        second_mask: true,
        cluster_mac: definition.mac.octets().into(),
        vips: definition.vips.clone(),
        slices: definition.slices,
        seed: secrets.hash_seed(),
        services: setup::kernel_services(definition),
        elsewhere: Default::default(),
        inside: Default::default(),
        gossip: Some(host.gossip),
        lease: None,
        longest_lease: definition.timing.lease,
        // A random one when it is installed.
        token: Default::default(),
    }
}

/// The signals that mean something.
pub struct Signals {
    /// The operator's wish to end.
    pub end: End,
    /// The operator has another definition.
    pub hangup: Signal,
}

/// The signals that end an agent in order.
pub struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> Result<Self> {
        let open =
            |kind| signal(kind).map_err(|e| Failure::failed(format_args!("cannot watch for signals: {e}")));
        let end =
            End { terminate: open(SignalKind::terminate())?, interrupt: open(SignalKind::interrupt())? };
        Ok(Signals { end, hangup: open(SignalKind::hangup())? })
    }
}

impl End {
    /// Waits for the operator's wish to end.
    async fn wished(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {},
            _ = self.interrupt.recv() => {},
        }
    }
}
