//! What an agent learns of its own hearing and of its kernel's lease: seen by what its core was told.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use onemac_test_env::dns::Prober;
use onemac_test_env::frames::{Injector, mac};
use onemac_test_env::{Host, Lab, Plan, Surroundings, addr, generation, owned_slices};

const PATIENCE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(100);
/// Of a lab's hosts, by default, in seconds.
const HEARTBEAT: f64 = 0.1;
/// IEEE 802's second ethertype for local experiments: nobody's here.
const STRANGE: [u8; 2] = [0x88, 0xb6];

const FRAMES: &str = "the service device has received frames";
const RENEWED: &str = "the kernel has taken the renewal";
const HEARTBEATS: &str = "a heartbeat has left";

/// An agent, and all that its core is told.
struct Recorded<'a> {
    host: &'a Host,
    recording: PathBuf,
}

impl<'a> Recorded<'a> {
    fn start(host: &'a Host) -> Result<Self> {
        let recording = host.dir().join("recording");
        let arguments = vec!["--record".into(), recording.clone().into()];
        host.start_agent_in(Surroundings { arguments, ..Surroundings::default() })?;
        Ok(Self { host, recording })
    }

    /// When, in seconds of its life, its core was told something.
    fn told(&self, what: &str) -> Result<Vec<f64>> {
        if fs::metadata(&self.recording).map_or(true, |file| file.len() == 0) {
            return Ok(Vec::new());
        }
        let (program, recording) = (self.host.program()?, self.recording.display().to_string());
        let program = program.to_str().context("a strange path")?;
        let replay = self.host.netns().run(program, &["replay", "--all", &recording])?;
        let lines = replay.lines().filter(|line| line.contains(what));
        lines.map(|line| Ok(line.split_whitespace().next().context("an empty line")?.parse()?)).collect()
    }

    /// Waits until it was told so often more, and returns when.
    fn wait_for(&self, lab: &Lab, what: &str, more: usize) -> Result<Vec<f64>> {
        let before = self.told(what)?.len();
        lab.wait_until(&format!("{more} times more: {what}"), PATIENCE, || {
            Ok(self.told(what)?.len() >= before + more)
        })?;
        Ok(self.told(what)?.split_off(before))
    }
}

/// The switch lets nothing but strange frames through to a host; what it sends itself goes out as ever.
fn deafen(lab: &Lab, host: &Host) -> Result<()> {
    let [a, b] = STRANGE;
    let rules = format!(
        "add table netdev deaf; \
         add chain netdev deaf out {{ type filter hook egress device {} priority 0; }}; \
         add rule netdev deaf out ether type != {{ 0x{a:02x}{b:02x}, 8021q }} drop",
        host.port()
    );
    lab.switch().netns().run("nft", &[&rules]).map(drop)
}

fn hear_again(lab: &Lab) -> Result<()> {
    lab.switch().netns().run("nft", &["delete table netdev deaf"]).map(drop)
}

fn strange_frame(from: &str, vlan: Option<u8>) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac(from).octets());
    frame.extend(vlan.into_iter().flat_map(|vlan| [0x81, 0, 0, vlan]));
    frame.extend(STRANGE);
    frame.resize(60, 0);
    frame
}

fn ensure_once_a_heartbeat(told: &[f64]) -> Result<()> {
    let span = told.last().context("nothing was told")? - told.first().context("nothing was told")?;
    let most = 2.0 + span / HEARTBEAT;
    ensure!(told.len() as f64 <= most, "{} times in {span} s: {told:?}", told.len());
    Ok(())
}

#[test]
fn frames_of_others_are_told_once_a_heartbeat_and_its_own_never() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let host = lab.host(1);
    deafen(&lab, host)?;
    let agent = Recorded::start(host)?;
    agent.wait_for(&lab, HEARTBEATS, 30)?;
    ensure!(agent.told(FRAMES)?.is_empty(), "it hears nothing, and was told of frames");

    // What the switch sends back is not of others, and another VLAN is another wire.
    let port = Injector::open(lab.switch().netns(), &host.port())?;
    for frame in [strange_frame(&host.mac(), None), strange_frame(addr::NEIGHBOUR_MAC, Some(7))] {
        for _ in 0..100 {
            port.send(&frame)?;
            sleep(Duration::from_millis(10));
        }
    }
    agent.wait_for(&lab, HEARTBEATS, 5)?;
    ensure!(agent.told(FRAMES)?.is_empty(), "frames that are not of others' hosts were told");

    // Any frame of anybody on this wire will do: no other agent lives. 802.1p's priority alone makes no VLAN.
    for vlan in [None, Some(0)] {
        let before = agent.told(FRAMES)?.len();
        lab.wait_until("frames of a stranger", PATIENCE, || {
            (0..20).try_for_each(|_| port.send(&strange_frame(addr::NEIGHBOUR_MAC, vlan)))?;
            Ok(agent.told(FRAMES)?.len() > before + 10)
        })?;
    }
    ensure_once_a_heartbeat(&agent.told(FRAMES)?)?;

    // A neighbour that lives, and has nothing to say but that.
    hear_again(&lab)?;
    lab.host(2).start_agent()?;
    lab.wait_settled()?;
    ensure_once_a_heartbeat(&agent.wait_for(&lab, FRAMES, 20)?)?;
    deafen(&lab, host)?;
    agent.wait_for(&lab, HEARTBEATS, 5)?;
    let before = agent.told(FRAMES)?.len();
    agent.wait_for(&lab, HEARTBEATS, 20)?;
    ensure!(agent.told(FRAMES)?.len() == before, "it hears nothing again, and was told of frames");
    Ok(())
}

fn owned_by(lab: &Lab, hosts: &[usize]) -> Result<u64> {
    hosts.iter().map(|host| owned_slices(&lab.host(*host).status()?)).sum()
}

/// The wire is broken one way: whoever takes its own deafness for the death of all others takes all slices.
#[test]
fn a_host_that_hears_nothing_gives_its_share_up_and_says_so() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let watch = Prober::new(lab.clients(), 100, 100).watch(EVERY)?;
    let host = lab.host(1);
    deafen(&lab, host)?;
    lab.wait_until("the others have its share", PATIENCE, || {
        let (others, own) = (owned_by(&lab, &[2, 3])?, owned_slices(&host.status()?)?);
        ensure!(others == 1024 && own == 0, "the others own {others} slices, and it {own}");
        Ok(true)
    })?;
    let lives = [lab.host(2).incarnation()?, lab.host(3).incarnation()?];
    let text = host.onemac(&["status"])?.stdout;
    let words = [
        "! hears nothing: no frame of another host has come in by eth0 for",
        "-> look at the cable, the switch port and the VLAN",
    ];
    ensure!(words.iter().all(|words| text.contains(words)), "{text}");
    Prober::new(lab.clients(), 100, 100).udp()?.ensure_once("while one is deaf")?;
    hear_again(&lab)?;
    lab.wait_settled()?;
    for (number, life) in [2, 3].into_iter().zip(lives) {
        let other = lab.host(number);
        ensure!(other.incarnation()? == life, "it cost {} its life:\n{}", other.name(), other.agent_log(30));
    }
    sleep(EVERY * 5);
    watch.stop()?.ensure_never_twice("with one that was deaf")
}

/// One thread of an agent stands still, as in a call that the kernel does not answer, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn thread(agent: Pid, name: &str) -> Result<Self> {
        for task in fs::read_dir(format!("/proc/{agent}/task"))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim() == name {
                let thread =
                    Pid::from_raw(task.file_name().and_then(|n| n.to_str()).context("no id")?.parse()?);
                ptrace::seize(thread, ptrace::Options::empty())?;
                ptrace::interrupt(thread)?;
                let status = waitpid(thread, Some(WaitPidFlag::__WALL))?;
                ensure!(matches!(status, WaitStatus::PtraceEvent(..)), "{name}: {status:?}");
                return Ok(Self(thread));
            }
        }
        anyhow::bail!("the agent has no thread {name}")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
fn only_what_the_kernel_has_taken_is_told_as_renewed() -> Result<()> {
    // The machine may stand still for a second or two.
    let lab = Lab::build(&Plan::hosts(2).lease("3s"))?;
    lab.host(2).start_agent()?;
    let host = lab.host(1);
    let agent = Recorded::start(host)?;
    lab.wait_settled()?;
    agent.wait_for(&lab, RENEWED, 10)?;

    // Somebody's rules take the frames that renew: a transaction does it, and is told alike.
    let strict = format!(
        "add table netdev strict; \
         add chain netdev strict out {{ type filter hook egress device eth0 priority 0; }}; \
         add rule netdev strict out ether daddr {} drop",
        host.mac()
    );
    host.netns().run("nft", &[&strict])?;
    let before = generation(host.netns())?;
    lab.wait_until("renewals by transactions", PATIENCE, || Ok(generation(host.netns())? >= before + 10))?;
    agent.wait_for(&lab, RENEWED, 10)?;

    // Neither does it: nothing is told, and the loop does not wait.
    let stopped = Stopped::thread(host.agent_pid().context("no agent")?, "netfilter")?;
    agent.wait_for(&lab, "h2 says", 2)?;
    let before = agent.told(RENEWED)?.len();
    agent.wait_for(&lab, "h2 says", 50)?;
    ensure!(agent.told(RENEWED)?.len() == before, "nothing renews, and renewals were told");
    drop(stopped);
    host.netns().run("nft", &["delete table netdev strict"])?;
    agent.wait_for(&lab, RENEWED, 10)?;
    lab.wait_settled().map(drop)
}

#[test]
fn a_kernel_that_takes_no_renewals_costs_its_host_its_own_share_alone() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let watch = Prober::new(lab.clients(), 100, 100).watch(EVERY)?;
    let host = lab.host(1);
    let stopped = Stopped::thread(host.agent_pid().context("no agent")?, "netfilter")?;
    lab.wait_until("the others have its share", PATIENCE, || {
        let others = owned_by(&lab, &[2, 3])?;
        ensure!(others == 1024, "the others own {others} slices");
        Ok(true)
    })?;
    Prober::new(lab.clients(), 100, 100).udp()?.ensure_once("while one takes no renewals")?;
    drop(stopped);
    lab.wait_settled()?;
    sleep(EVERY * 5);
    watch.stop()?.ensure_never_twice("with one whose kernel stood still")
}
