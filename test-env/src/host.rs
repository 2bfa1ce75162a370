//! One cluster member of a lab.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::{Agent, binary};
use crate::bridge::Switch;
use crate::definition::Definition;
use crate::netns::Netns;
use crate::numbered::Responder;
use crate::process::{Process, shell_code, tail};
use crate::server::Server;
use crate::tcp::EchoServer;
use crate::{nameserver, topology};

/// How long an orderly leave may take before it counts as hung.
const LEAVE: Duration = Duration::from_secs(30);

/// A host: a namespace with a card on the switch, a directory with configuration and logs, and the
/// programs that run on it.
#[derive(Debug)]
pub struct Host {
    number: u8,
    netns: Netns,
    dir: PathBuf,
    switch: Netns,
    vips: Vec<IpAddr>,
    gossip_network: bool,
    outlives: bool,
    programs: Mutex<Programs>,
}

#[derive(Debug, Default)]
struct Programs {
    agent: Option<Agent>,
    nameserver: Option<Process>,
    responder: Option<Responder>,
    echo: Option<EchoServer>,
    /// The host's own program, where it has one.
    program: Option<PathBuf>,
}

/// What is around an agent, where that is not as usual.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Where its standard error goes, if not to its log.
    pub errors: Option<Stdio>,
    /// More variables of its environment.
    pub environment: Vec<(String, OsString)>,
    /// More arguments.
    pub arguments: Vec<OsString>,
}

/// How a command of the program under test ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; 128 and the signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Host {
    /// Builds the host and writes its files.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn build(
        prefix: &str,
        number: u8,
        dir: &Path,
        switch: &Netns,
        definition: &Definition,
        secret: &str,
        gossip_network: bool,
        outlives: bool,
    ) -> Result<Self> {
        let name = format!("h{number}");
        let netns = topology::build_host(switch, &format!("{prefix}{name}"), number, gossip_network)?;
        let dir = dir.join(&name);
        fs::create_dir_all(dir.join("run"))?;
        let host = Self {
            number,
            netns,
            dir,
            switch: switch.clone(),
            vips: definition.vips.clone(),
            gossip_network,
            outlives,
            programs: Mutex::default(),
        };
        host.write_secret(secret, 0o600)?;
        fs::write(host.definition_path(), definition.to_string())?;
        Ok(host)
    }

    /// Its name in the definition.
    #[must_use]
    pub fn name(&self) -> String {
        format!("h{}", self.number)
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its own IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        topology::host_v4(self.number)
    }

    /// Its own IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        topology::host_v6(self.number)
    }

    /// The MAC address of its card.
    #[must_use]
    pub fn mac(&self) -> String {
        topology::host_mac(self.number)
    }

    /// Its port on the switch.
    #[must_use]
    pub fn port(&self) -> String {
        topology::port(self.number)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The run directory of its agent.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its copy of the cluster definition.
    #[must_use]
    pub fn definition_path(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    /// Replaces its copy of the cluster definition.
    ///
    /// # Errors
    /// When the file can not be written.
    pub fn write_definition(&self, definition: &Definition) -> Result<()> {
        fs::write(self.definition_path(), definition.to_string()).context("could not write the definition")
    }

    /// Replaces its secret, 32 bytes in hex, and the file's mode.
    ///
    /// # Errors
    /// When the file can not be written.
    pub fn write_secret(&self, secret: &str, mode: u32) -> Result<()> {
        let path = self.dir.join("secret.key");
        fs::write(&path, format!("{secret}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Gives the host a program of its own, or replaces that by another: in one step, as a package's upgrade
    /// does, so that a running agent keeps the former one. The file is linked, not copied.
    ///
    /// # Errors
    /// When it is on another file system, or can not be linked for another reason.
    pub fn install_program(&self, file: &Path) -> Result<()> {
        let (new, program) = (self.dir.join("onemac.new"), self.dir.join("onemac"));
        // Renaming a file to another name of itself does nothing at all.
        let _ = fs::remove_file(&new);
        fs::hard_link(file, &new).and_then(|()| fs::rename(&new, &program)).with_context(|| {
            format!("could not put {} in the place of {}", file.display(), program.display())
        })?;
        self.programs().program = Some(program);
        Ok(())
    }

    /// The program that its agent is started from, and that its commands run.
    ///
    /// # Errors
    /// When there is none.
    pub fn program(&self) -> Result<PathBuf> {
        let own = self.programs().program.clone();
        own.map_or_else(binary, Ok)
    }

    /// Starts the agent. It runs when this returns; what it has done by then is for the caller to await.
    ///
    /// # Errors
    /// When one runs already or the program can not be started.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_in(Surroundings::default())
    }

    /// The same, with something unusual around it.
    ///
    /// # Errors
    /// As [`Self::start_agent`].
    pub fn start_agent_in(&self, surroundings: Surroundings) -> Result<()> {
        let program = self.program()?;
        let mut programs = self.programs();
        if let Some(agent) = &mut programs.agent
            && agent.process.is_running()
        {
            bail!("{} has an agent already", self.name());
        }
        let mut command = self.netns.command(&program.display().to_string());
        command.args(["run", "--host", &self.name(), "--config"]).arg(self.definition_path());
        command.arg("--run-dir").arg(self.run_dir()).env("RUST_BACKTRACE", "1");
        command.args(surroundings.arguments).envs(surroundings.environment);
        let (what, log, outlives) = ("onemac run", self.agent_log_path(), self.outlives);
        let process = match surroundings.errors {
            None => Process::start(command, what, &log, outlives)?,
            Some(errors) => Process::start_with_errors_to(command, what, &log, errors, outlives)?,
        };
        programs.agent = Some(Agent { process, paused: false });
        Ok(())
    }

    /// Whether its agent was started, has not ended, and is not stopped by SIGSTOP.
    #[must_use]
    pub fn agent_is_living(&self) -> bool {
        self.programs().agent.as_mut().is_some_and(|agent| !agent.paused && agent.process.is_running())
    }

    /// How its agent ended, if it was started and has ended without being told to.
    #[must_use]
    pub fn agent_has_died(&self) -> Option<ExitStatus> {
        self.programs().agent.as_mut()?.process.exit_status()
    }

    /// The process id of its agent, if one was started.
    #[must_use]
    pub fn agent_pid(&self) -> Option<Pid> {
        self.programs().agent.as_ref().map(|agent| agent.process.pid())
    }

    /// Sends a signal to the agent.
    ///
    /// # Errors
    /// When none runs.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        let mut programs = self.programs();
        let agent = programs.agent.as_mut().with_context(|| format!("{} has no agent", self.name()))?;
        agent.process.signal(signal)?;
        match signal {
            Signal::SIGSTOP => agent.paused = true,
            Signal::SIGCONT => agent.paused = false,
            _ => {}
        }
        Ok(())
    }

    /// Ends the agent with SIGTERM and waits for it.
    ///
    /// # Errors
    /// When none runs, or it does not end.
    pub fn stop_agent(&self) -> Result<ExitStatus> {
        self.signal_agent(Signal::SIGTERM)?;
        self.wait_agent_exit(LEAVE)
    }

    /// Waits until the agent ends by itself.
    ///
    /// # Errors
    /// When there is none or it still runs after `limit`.
    pub fn wait_agent_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let mut agent =
            self.programs().agent.take().with_context(|| format!("{} has no agent", self.name()))?;
        agent.process.wait_exit(limit)
    }

    /// Kills the agent with SIGKILL; its kernel state stays.
    pub fn kill_agent(&self) {
        self.programs().agent = None;
    }

    /// The last lines of the agent's log.
    #[must_use]
    pub fn agent_log(&self, lines: usize) -> String {
        tail(&self.agent_log_path(), lines)
    }

    /// Runs another command of the program under test on this host, with its run directory, and says how
    /// it ended.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn onemac(&self, arguments: &[&str]) -> Result<Ended> {
        // A program that hangs is killed after a while, so that a test ends and can tell.
        let mut command = self.netns.command("timeout");
        command.args(["-k", "1", "20"]).arg(self.program()?).args(arguments);
        command.arg("--run-dir").arg(self.run_dir());
        ended(&mut command)
    }

    /// The cluster as this host sees it.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn status(&self) -> Result<Value> {
        let answer = self.onemac(&["status", "--json"])?;
        if answer.code != 0 {
            bail!("status on {} ended with {}: {}", self.name(), answer.code, answer.stderr.trim());
        }
        serde_json::from_str(&answer.stdout)
            .with_context(|| format!("status on {} printed {}", self.name(), answer.stdout))
    }

    /// Which life of the host it is: one whose lease runs out, or that does not run for so long, begins another.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn incarnation(&self) -> Result<u64> {
        self.status()?["incarnation"].as_u64().context("no incarnation in the status")
    }

    /// Starts the nameserver and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_nameserver(&self) -> Result<()> {
        let server = nameserver::start(&self.netns, &self.name(), &self.vips, &self.dir, self.outlives)?;
        self.programs().nameserver = Some(server);
        Ok(())
    }

    /// Starts the [`crate::numbered`] server.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start_responder(&self) -> Result<()> {
        let responder = Responder::start(&self.netns, self.number, &self.vips)?;
        self.programs().responder = Some(responder);
        Ok(())
    }

    /// Starts the [`crate::tcp`] server.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start_echo(&self) -> Result<()> {
        let echo = EchoServer::start(&self.netns, self.number, &self.vips)?;
        self.programs().echo = Some(echo);
        Ok(())
    }

    /// The connections that its [`crate::tcp`] server has; none where there is no server.
    #[must_use]
    pub fn echo_connections(&self) -> usize {
        self.programs().echo.as_ref().map_or(0, EchoServer::open)
    }

    /// Ends all connections of its [`crate::tcp`] server, see [`EchoServer::cut`].
    pub fn cut_echo(&self, reset: bool) {
        if let Some(echo) = &self.programs().echo {
            echo.cut(reset);
        }
    }

    /// Starts a [`Server`] on the shared and on the host's own addresses.
    ///
    /// # Errors
    /// When a socket can not be opened.
    pub fn start_server(&self, port: u16) -> Result<Server> {
        let mut addresses = self.vips.clone();
        addresses.extend([IpAddr::from(self.v4()), IpAddr::from(self.v6())]);
        Server::start(&self.netns, &self.name(), &addresses, port)
    }

    /// The power goes: the agent is gone and nothing leaves or reaches the card.
    ///
    /// # Errors
    /// When the switch has no such port.
    pub fn power_off(&self) -> Result<()> {
        self.kill_agent();
        self.ports().iter().try_for_each(|port| Switch::new(self.switch.clone()).set_port(port, false))
    }

    /// The power is back: the host boots anew, with nothing left of its former kernel state and run
    /// directory, starts its nameserver if it had one, and then its agent.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn power_on(&self) -> Result<()> {
        let (had_nameserver, had_responder, had_echo) = {
            let mut programs = self.programs();
            programs.agent = None;
            let Programs { nameserver, responder, echo, .. } = &mut *programs;
            (nameserver.take().is_some(), responder.take().is_some(), echo.take().is_some())
        };
        // The other end of the cable goes with the device; a namespace lingers while a socket is open.
        self.ports().iter().try_for_each(|port| self.switch.ip(&format!("link del {port}")).map(drop))?;
        self.netns.delete()?;
        fs::remove_dir_all(self.run_dir())?;
        fs::create_dir_all(self.run_dir())?;
        topology::build_host(&self.switch, self.netns.name(), self.number, self.gossip_network)?;
        if had_nameserver {
            self.start_nameserver()?;
        }
        if had_responder {
            self.start_responder()?;
        }
        if had_echo {
            self.start_echo()?;
        }
        self.start_agent()
    }

    /// Takes the card itself out, with everything running.
    ///
    /// # Errors
    /// When there is none.
    pub fn pull_card(&self) -> Result<()> {
        self.switch.ip(&format!("link del {}", self.port())).map(drop)
    }

    /// Puts a card in again, with the host's addresses and routes, with this index or a new one.
    ///
    /// # Errors
    /// When there is one.
    pub fn put_card(&self, index: Option<u32>) -> Result<()> {
        topology::plug_host(&self.switch, &self.netns, self.number, index)
    }

    /// Makes the host's routes again, by this device.
    ///
    /// # Errors
    /// When there is no such device, or it is down.
    pub fn route_by(&self, device: &str) -> Result<()> {
        topology::route_host(&self.netns, device)
    }

    /// Takes the cable out or puts it back, with everything running.
    ///
    /// # Errors
    /// When the switch has no such port.
    pub fn set_cable(&self, plugged: bool) -> Result<()> {
        Switch::new(self.switch.clone()).set_port(&self.port(), plugged)
    }

    /// The same with the cable of its card on the network for gossip alone.
    ///
    /// # Errors
    /// When it has none.
    pub fn set_gossip_cable(&self, plugged: bool) -> Result<()> {
        Switch::new(self.switch.clone()).set_port(&topology::gossip_port(self.number), plugged)
    }

    fn ports(&self) -> Vec<String> {
        let gossip = self.gossip_network.then(|| topology::gossip_port(self.number));
        [self.port()].into_iter().chain(gossip).collect()
    }

    /// Where the agent's log is.
    #[must_use]
    pub fn agent_log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    fn programs(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the programs run on when the handle goes.
    pub(crate) fn release(self) {
        std::mem::forget(self);
    }
}

/// Runs a command to its end, whatever that is.
pub(crate) fn ended(command: &mut Command) -> Result<Ended> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("could not start {command:?}"))?;
    Ok(Ended {
        code: shell_code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
