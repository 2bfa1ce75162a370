//! A whole lab: what to build, building it, and waiting for the cluster in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bridge::Switch;
use crate::definition::Definition;
use crate::host::Host;
use crate::janitor::{self, Janitor};
use crate::netns::Netns;
use crate::topology::{self, Bystanders};
use crate::wait::{Hopeless, poll_until};

/// How long a cluster may take to agree. Generous: other work may hold both cores.
const SETTLE: Duration = Duration::from_secs(60);

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster; one namespace is made for each of its hosts, which must be named `h1`, `h2`, ….
    pub definition: Definition,
    /// Every host has a second card, on a network for gossip alone.
    pub gossip_network: bool,
    /// With this, a second router stands before the clients and its link to them has this MTU.
    pub narrow_mtu: Option<u16>,
    /// With this, the namespaces are named `om-LABEL-…` instead of by number and process, an older lab of
    /// that name is removed first, and [`Lab::keep`] works.
    pub label: Option<String>,
}

impl Plan {
    /// `count` equal hosts and nothing unusual.
    #[must_use]
    pub fn hosts(count: u8) -> Self {
        let definition = Definition::equal_hosts(count);
        Self { definition, gossip_network: false, narrow_mtu: None, label: None }
    }

    /// The same hosts with another lease than the default, which a busy machine may not keep.
    #[must_use]
    pub fn lease(mut self, lease: &str) -> Self {
        self.definition.lease = Some(lease.to_owned());
        self
    }

    /// The same hosts, gossiping on a network that is for nothing else.
    #[must_use]
    pub fn gossip_apart(mut self) -> Self {
        self.definition.gossip_apart();
        self.gossip_network = true;
        self
    }
}

/// A lab. Dropping it removes everything; so does the death of this process.
#[derive(Debug)]
pub struct Lab {
    // Order matters: programs end first, then the janitor removes what they ran in.
    hosts: Vec<Host>,
    bystanders: Bystanders,
    switch: Switch,
    definition: Definition,
    prefix: String,
    dir: PathBuf,
    janitor: Janitor,
}

/// The secret of every lab's cluster. Nothing but tests depends on it.
const SECRET: &str = "6f6e656d6163206c61622c206e6f742061207365637265742c20666f72207465";

impl Lab {
    /// Builds the network and writes the hosts' files. No nameserver and no agent runs yet.
    ///
    /// # Errors
    /// When the caller is not root or a tool is missing. What was built by then is removed.
    pub fn build(plan: &Plan) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        ensure!(nix::unistd::geteuid().is_root(), "the lab makes network namespaces: run it as root");
        janitor::sweep();
        let prefix = match &plan.label {
            Some(label) => format!("om-{label}-"),
            None => format!("om{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        };
        let dir = janitor::directory(&prefix);
        let lock = plan.label.as_ref().map(|_| janitor::lock(&prefix)).transpose()?;
        if lock.is_some() {
            // One that was kept.
            janitor::remove(&prefix)?;
        }
        let janitor = Janitor::hire(&prefix, &dir, lock)?;
        fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let bystanders = topology::build(&prefix, plan.narrow_mtu)?;
        let mut hosts = Vec::new();
        for (index, member) in plan.definition.hosts.iter().enumerate() {
            let number = u8::try_from(index + 1)?;
            ensure!(member.name == format!("h{number}"), "host {number} of a lab is named h{number}");
            let outlives = plan.label.is_some();
            hosts.push(Host::build(
                &prefix,
                number,
                &dir,
                &bystanders.switch,
                &plan.definition,
                SECRET,
                plan.gossip_network,
                outlives,
            )?);
        }
        let switch = Switch::new(bystanders.switch.clone());
        Ok(Self { hosts, bystanders, switch, definition: plan.definition.clone(), prefix, dir, janitor })
    }

    /// Builds the lab, starts a nameserver and an agent on every host, and waits until the cluster agrees.
    ///
    /// # Errors
    /// When a part fails or the cluster does not settle; the state of every host is then printed.
    pub fn start(plan: &Plan) -> Result<Self> {
        let lab = Self::build(plan)?;
        lab.start_nameservers()?;
        lab.start_agents()?;
        lab.wait_settled()?;
        Ok(lab)
    }

    /// Starts the nameserver of every host.
    ///
    /// # Errors
    /// At the first that does not come up.
    pub fn start_nameservers(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::start_nameserver)
    }

    /// Starts the [`crate::numbered`] server of every host.
    ///
    /// # Errors
    /// At the first that does not come up.
    pub fn start_responders(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::start_responder)
    }

    /// Starts the [`crate::tcp`] server of every host.
    ///
    /// # Errors
    /// At the first that does not come up.
    pub fn start_echoes(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::start_echo)
    }

    /// Starts the agent of every host.
    ///
    /// # Errors
    /// At the first that can not be started.
    pub fn start_agents(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::start_agent)
    }

    /// The hosts, in the order of their names.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Host `h<number>`.
    ///
    /// # Panics
    /// When the lab has no such host.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// The host of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn host_named(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name() == name).with_context(|| format!("no host {name}"))
    }

    /// The switch.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The clients' machine.
    #[must_use]
    pub fn clients(&self) -> &Netns {
        &self.bystanders.clients
    }

    /// The router on the LAN.
    #[must_use]
    pub fn router(&self) -> &Netns {
        &self.bystanders.router
    }

    /// The router before the narrow link, where the plan has one.
    #[must_use]
    pub fn far_router(&self) -> Option<&Netns> {
        self.bystanders.far_router.as_ref()
    }

    /// The machine on the LAN that is no cluster member.
    #[must_use]
    pub fn neighbour(&self) -> &Netns {
        &self.bystanders.neighbour
    }

    /// The cluster definition that the hosts were given.
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// What all namespaces of this lab start with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Waits for a condition and returns how long it took.
    ///
    /// # Errors
    /// When it does not come true within `limit`; then the state of the whole lab is printed on standard
    /// error, and the error says what was awaited and how the last look failed.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        condition: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        poll_until(limit, condition)
            .inspect_err(|error| {
                eprintln!("gave up waiting for: {what}: {error:#}\n{}", self.report());
            })
            .with_context(|| format!("waited for: {what}"))
    }

    /// Waits until all living agents are of one mind and own every slice once between them.
    ///
    /// # Errors
    /// When that does not come within a minute.
    pub fn wait_settled(&self) -> Result<Duration> {
        self.wait_until("the cluster agrees and every slice has one owner", SETTLE, || self.is_settled())
    }

    /// As [`Self::wait_settled`], where it is not sure to come: nothing is printed when it does not.
    ///
    /// # Errors
    /// With what is missing.
    pub fn settles_within(&self, limit: Duration) -> Result<()> {
        poll_until(limit, || self.is_settled()).map(drop)
    }

    /// Whether the living agents agree; what is still missing is the error.
    fn is_settled(&self) -> Result<bool> {
        let living: BTreeSet<String> =
            self.hosts.iter().filter(|host| host.agent_is_living()).map(Host::name).collect();
        for host in &self.hosts {
            if let Some(status) = host.agent_has_died() {
                let (name, log) = (host.name(), host.agent_log(10));
                return Err(Hopeless(format!(
                    "the agent of {name} has ended ({status}); its log ends:\n{log}"
                ))
                .into());
            }
        }
        ensure!(!living.is_empty(), "no agent is running");
        let mut views = BTreeSet::new();
        let mut owned = 0;
        for name in &living {
            let status = self.host_named(name)?.status()?;
            let takes_part = status["state"] == "serving" || status["state"] == "draining";
            ensure!(takes_part, "{name} is {}", status["state"]);
            ensure!(status["view"]["agreed"] == true, "{name} is not agreed: view {}", status["view"]);
            let alive: BTreeSet<String> = status["hosts"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|host| host["alive"] == true)
                .filter_map(|host| host["name"].as_str().map(str::to_owned))
                .collect();
            ensure!(alive == living, "{name} believes {alive:?} alive, not {living:?}");
            let services = status["services"].as_array().into_iter().flatten();
            let unsettled: u64 = services.filter_map(|service| service["unsettled"].as_u64()).sum();
            ensure!(unsettled == 0, "{unsettled} slices are changing hands at {name}");
            views.insert(status["view"]["id"].to_string());
            owned += owned_slices(&status)?;
        }
        ensure!(views.len() == 1, "different views: {views:?}");
        let all = u64::from(self.definition.slices);
        ensure!(owned == all, "{owned} slices are owned instead of {all}");
        Ok(true)
    }

    /// Lets a lab that has a label stand, with everything running, when this process ends.
    ///
    /// # Errors
    /// When the lab has no label: its programs would die with the thread that started them.
    pub fn keep(mut self) -> Result<()> {
        ensure!(self.prefix.starts_with("om-"), "only a lab with a label can be kept");
        self.janitor.dismiss()?;
        for host in self.hosts {
            host.release();
        }
        Ok(())
    }
}

/// How many slices of the first service a host's kernel accepts, by its own status.
///
/// # Errors
/// When the status has no such number.
pub fn owned_slices(status: &Value) -> Result<u64> {
    let owned = &status["services"][0]["owned"];
    owned.as_u64().with_context(|| format!("no number of owned slices in services: {}", status["services"]))
}
