//! What is around the agent stalls, floods or is broken: the loop goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::flood::{Flood, kinds};
use onemac_test_env::frames::{Injector, mac, udp_datagram};
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::{Host, Lab, Plan, Surroundings, addr, neighbour_v4};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the lease of a lab here.
const A_WHILE: Duration = Duration::from_secs(5);

/// The warnings of a host's status, each in one line.
fn warnings(host: &Host) -> Result<Vec<String>> {
    let status = host.status()?;
    let warnings = status["warnings"].as_array().context("no warnings")?;
    Ok(warnings.iter().map(|w| format!("{}; {}", w["what"], w["do"])).collect())
}

fn wait_for_warning(lab: &Lab, host: &Host, words: &str) -> Result<()> {
    lab.wait_until(&format!("a warning: {words}"), PATIENCE, || {
        let warnings = warnings(host)?;
        ensure!(warnings.iter().any(|w| w.contains(words)), "{warnings:?}");
        Ok(true)
    })
    .map(drop)
}

/// The machine may stand still for a second or two.
fn patient(hosts: u8) -> Plan {
    Plan::hosts(hosts).lease("3s")
}

/// A host whose lease runs out, or that does not run for so long, begins another life.
fn lives(lab: &Lab) -> Result<Vec<u64>> {
    lab.hosts().iter().map(Host::incarnation).collect()
}

/// Fails unless all hosts go on as they are for a while.
fn ensure_all_go_on(lab: &Lab) -> Result<()> {
    let before = lives(lab)?;
    let until = Instant::now() + A_WHILE;
    while Instant::now() < until {
        let anew = lab.hosts().iter().zip(&before).zip(lives(lab)?).find(|((_, was), is)| *was != is);
        if let Some(((host, _), _)) = anew {
            bail!("{} began anew\n{}", host.name(), host.agent_log(20));
        }
        sleep(Duration::from_millis(100));
    }
    lab.wait_settled().map(drop)
}

fn with(environment: &[(&str, &str)]) -> Surroundings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).into());
    Surroundings { environment: environment.iter().map(owned).collect(), ..Surroundings::default() }
}

#[test]
fn a_reader_of_the_log_that_stalls_holds_nobody_up() -> Result<()> {
    let lab = Lab::build(&patient(2))?;
    let host = lab.host(1);
    let (mut log, errors) = std::io::pipe()?;
    lab.host(2).start_agent()?;
    // Thousands of lines a second, and nobody reads them.
    host.start_agent_in(Surroundings { errors: Some(errors.into()), ..with(&[("ONEMAC_LOG", "trace")]) })?;
    lab.wait_settled()?;
    wait_for_warning(&lab, host, "left out")?;
    ensure_all_go_on(&lab)?;

    // Somebody reads again, and is told.
    let stop = AtomicBool::new(false);
    scope(|scope| {
        let reader = scope.spawn(|| -> Result<String> {
            let (mut text, mut part) = (Vec::new(), vec![0; 1 << 16]);
            while !stop.load(Ordering::Relaxed) {
                let read = log.read(&mut part)?;
                text.extend_from_slice(&part[..read]);
            }
            Ok(String::from_utf8_lossy(&text).into_owned())
        });
        let told = wait_for_warning(&lab, host, "lines of this agent's log were not written");
        sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let text = reader.join().ok().context("the reader panicked")??;
        told?;
        let said = text.lines().any(|line| line.contains("WARN") && line.contains("log were not written"));
        ensure!(said, "the log does not say that lines are missing; it ends {:?}", text.lines().last());
        Ok(())
    })?;

    // Nobody reads any more: neither its last lines nor the handing over wait for that.
    wait_for_warning(&lab, host, "left out")?;
    let status = host.stop_agent()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

#[test]
fn a_reader_of_the_log_that_has_gone_ends_nobody() -> Result<()> {
    let lab = Lab::build(&patient(2))?;
    let (log, errors) = std::io::pipe()?;
    lab.host(2).start_agent()?;
    let host = lab.host(1);
    host.start_agent_in(Surroundings { errors: Some(errors.into()), ..Surroundings::default() })?;
    lab.wait_settled()?;
    drop(log);
    // It has something to say.
    lab.host(2).stop_agent()?;
    wait_for_warning(&lab, host, "left out")?;
    lab.host(2).start_agent()?;
    lab.wait_settled()?;
    ensure_all_go_on(&lab)
}

/// Everything that waits in a socket.
fn messages(systemd: &UnixDatagram) -> Result<Vec<String>> {
    let mut buffer = [0; 4096];
    let mut messages = Vec::new();
    loop {
        match systemd.recv(&mut buffer) {
            Ok(length) => messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(messages),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Leaves no room in a socket; what does it is not a message of systemd's.
fn fill(path: &Path) -> Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    loop {
        match sender.send_to(b"X_FILLED=1\n", path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_systemd_that_stalls_holds_nobody_up_and_is_told_little() -> Result<()> {
    let lab = Lab::build(&patient(2))?;
    let host = lab.host(1);
    let path = lab.dir().join("notify");
    let systemd = UnixDatagram::bind(&path)?;
    systemd.set_nonblocking(true)?;
    fill(&path)?;
    lab.host(2).start_agent()?;
    let notify = path.to_str().context("a strange path")?;
    host.start_agent_in(with(&[("NOTIFY_SOCKET", notify), ("WATCHDOG_USEC", "3000000")]))?;
    lab.wait_settled()?;
    ensure_all_go_on(&lab)?;

    // What it could not be told then, it is told now.
    let mut heard = String::new();
    lab.wait_until("systemd to hear of it", PATIENCE, || {
        heard += &messages(&systemd)?.concat();
        Ok(["READY=1\n", "WATCHDOG=1\n", "STATUS=serving, 512 of 1024 slices"]
            .iter()
            .all(|w| heard.contains(w)))
    })?;
    ensure!(heard.matches("READY=1\n").count() == 1, "{heard}");

    // At rest there is a beat at a third of three seconds.
    let (began, mut count, mut beats) = (Instant::now(), 0, 0);
    lab.wait_until("five beats", PATIENCE, || {
        let heard = messages(&systemd)?;
        count += heard.len();
        beats += heard.iter().filter(|message| message.contains("WATCHDOG=1\n")).count();
        Ok(beats >= 5)
    })?;
    let most = 3 + 2 * began.elapsed().as_secs() as usize;
    ensure!(count <= most, "{count} messages in {:?}", began.elapsed());

    fill(&path)?;
    ensure_all_go_on(&lab)?;
    let status = host.stop_agent()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

#[test]
fn a_recording_to_a_disk_that_stalls_ends_and_holds_nobody_up() -> Result<()> {
    let mut plan = patient(3);
    // Much is told in little time.
    plan.definition.heartbeat = Some("20ms".into());
    let lab = Lab::build(&plan)?;
    let host = lab.host(1);
    // A pipe with a name is what stalls like a disk, for whoever writes to it as to a file.
    let path = lab.dir().join("recording");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    let _reader = File::options().read(true).write(true).open(&path)?;
    lab.host(2).start_agent()?;
    lab.host(3).start_agent()?;
    let arguments = vec!["--record".into(), path.into()];
    host.start_agent_in(Surroundings { arguments, ..Surroundings::default() })?;
    lab.wait_settled()?;
    // More inputs than wait for a disk.
    wait_for_warning(&lab, host, "does not keep up")?;
    ensure_all_go_on(&lab)?;
    let status = host.stop_agent()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

#[test]
fn the_agents_memory_is_locked() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    host.start_agent()?;
    lab.wait_settled()?;
    let status = fs::read_to_string(format!("/proc/{}/status", host.agent_pid().context("no agent")?))?;
    let kib = |key: &str| -> Result<u64> {
        let line = status.lines().find(|line| line.starts_with(key)).with_context(|| status.clone())?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    };
    let (locked, resident) = (kib("VmLck:")?, kib("VmRSS:")?);
    ensure!(locked >= resident, "{locked} KiB are locked of {resident} KiB");
    ensure!(resident < 256 * 1024, "{resident} KiB are resident");
    ensure!(!warnings(host)?.iter().any(|w| w.contains("memory")), "{:?}", warnings(host)?);
    Ok(())
}

#[test]
fn without_a_limit_for_locked_memory_it_runs_and_says_so() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    // As under a unit that does not allow it: a limit, and no right to change it.
    let mut command = host.netns().command("prlimit");
    command.args(["--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock,-sys_resource"]);
    command.args(["--inh-caps=-ipc_lock,-sys_resource"]).arg(host.program()?);
    command.args(["run", "--host", "h1", "--config"]).arg(host.definition_path());
    command.arg("--run-dir").arg(host.run_dir());
    let _agent = onemac_test_env::Process::start(command, "onemac run", &host.agent_log_path(), false)?;
    wait_for_warning(&lab, host, "memory is not locked")
}

#[test]
fn another_user_cannot_take_the_lock() -> Result<()> {
    let lab = Lab::build(&patient(1))?;
    let host = lab.host(1);
    // Any name that anybody can take, somebody will take.
    let _squatter = host
        .netns()
        .within(|| Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name("onemac/agent")?)?))?;
    host.start_agent()?;
    lab.wait_settled()?;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for attempt in ["touch /run/onemac-lock/mine", "mv /run/onemac-lock /run/other"] {
        let mut command = host.netns().command("setpriv");
        let status = command.args(nobody).args(["sh", "-c", attempt]).stderr(Stdio::null()).status()?;
        ensure!(!status.success(), "nobody could {attempt}");
    }
    // Two agents exclude each other, wherever their run directories are.
    let other = lab.dir().join("other");
    fs::create_dir_all(&other)?;
    let mut second = host.netns().command("timeout");
    second.args(["-k", "1", "20"]).arg(host.program()?).args(["run", "--host", "h1", "--config"]);
    let output = second.arg(host.definition_path()).arg("--run-dir").arg(&other).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("another onemac agent"), "{output:?}");
    ensure_all_go_on(&lab)
}

#[test]
fn an_empty_file_of_former_settings_blocks_no_start() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    host.start_agent()?;
    lab.wait_settled()?;
    host.kill_agent();
    let file = host.run_dir().join("sysctls.json");
    ensure!(file.exists(), "there are no former settings");
    // As a full disk or a power cut leaves it.
    for broken in ["", "{ \"boot\": \"7"] {
        fs::write(&file, broken)?;
        host.start_agent()?;
        lab.wait_settled()?;
        wait_for_warning(&lab, host, "sysctls.json cannot be read")?;
        ensure!(fs::read_to_string(host.run_dir().join("sysctls.json.broken"))? == broken);
        host.kill_agent();
    }
    fs::write(&file, "")?;
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 0 && clean.stderr.contains("sysctls.json cannot be read"), "{clean:?}");
    Ok(())
}

#[test]
fn reports_larger_than_a_frame_arrive_on_the_service_wire() -> Result<()> {
    let mut plan = Plan::hosts(3);
    plan.definition.slices = 4096;
    let service = |n: u16| format!("  - {{ name: service-{n}, ports: [{}], protocols: [udp] }}\n", 1000 + n);
    plan.definition.more = format!("services:\n{}", (1..=5).map(service).collect::<String>());
    let lab = Lab::build(&plan)?;
    lab.start_agents()?;
    lab.wait_settled()?;
    // Longer than the frames of the start are remembered below.
    sleep(A_WHILE);
    lab.wait_until("frames of all hosts at all hosts", PATIENCE, || {
        for host in lab.hosts() {
            let status = host.status()?;
            for peer in status["hosts"].as_array().context("no hosts")? {
                let ms = peer["wire_ms"].as_u64();
                let fresh = peer["name"] == host.name() || ms.is_some_and(|ms| ms < 2000);
                ensure!(fresh, "at {} the frames of {} are {ms:?} ms old", host.name(), peer["name"]);
            }
        }
        Ok(true)
    })?;
    Ok(())
}

#[test]
fn what_goes_to_a_hosts_own_mac_is_answered_by_the_owner_alone() -> Result<()> {
    const PORT: u16 = 9000;
    let lab = Lab::build(&patient(3))?;
    let _servers = lab.hosts().iter().map(|host| host.start_server(PORT)).collect::<Result<Vec<_>>>()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let wire = Injector::open(lab.neighbour(), "eth0")?;
    let us = mac(addr::NEIGHBOUR_MAC);
    for client in neighbour_v4(20) {
        let socket = lab.neighbour().within(|| Ok(UdpSocket::bind((client, 0))?))?;
        let port = socket.local_addr()?.port();
        let answer = lab.host(1).onemac(&["owner", &IpAddr::V4(client).to_string(), "--json"])?;
        let owner: Value = serde_json::from_str(&answer.stdout)?;
        let owner = owner["owner"].as_str().context("no owner")?.to_owned();
        for host in lab.hosts() {
            let to = (addr::VIP4.into(), PORT);
            wire.send(&udp_datagram(us, mac(&host.mac()), (client.into(), port), to, b"whose?"))?;
        }
        // The owner's is the only answer: another would be there by the time that it has answered once more.
        let mut buffer = [0; 64];
        for round in ["to the own MAC addresses", "as a client does"] {
            socket.set_read_timeout(Some(PATIENCE))?;
            let length = socket.recv(&mut buffer)?;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            ensure!(said == format!("{owner} 6"), "{said} answers {client} {round}, whose owner is {owner}");
            if round == "to the own MAC addresses" {
                sleep(Duration::from_millis(50));
                socket.set_nonblocking(true)?;
                ensure!(socket.recv(&mut buffer).is_err(), "{client} was answered twice");
                socket.set_nonblocking(false)?;
                socket.send_to(b"whose?", (addr::VIP4, PORT))?;
            }
        }
    }
    Ok(())
}

/// How much the core of an agent that records has been told: entries of `length (4, little endian) | bytes`.
fn entries(recording: &Path) -> Result<usize> {
    let bytes = fs::read(recording)?;
    let (mut rest, mut count) = (bytes.as_slice(), 0);
    while let Some((length, more)) = rest.split_first_chunk() {
        let Some(after) = more.get(u32::from_le_bytes(*length) as usize..) else { break };
        (rest, count) = (after, count + 1);
    }
    Ok(count)
}

fn frames_sent(host: &Host) -> Result<usize> {
    Ok(host.netns().run("cat", &["/sys/class/net/eth0/statistics/tx_packets"])?.trim().parse()?)
}

#[test]
fn a_flood_that_anybody_can_send_costs_no_lease() -> Result<()> {
    const LOAD: Load = Load { v4: 20, v6: 20, every: Duration::from_millis(100) };
    let lab = Lab::build(&patient(3))?;
    lab.start_responders()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let host = lab.host(1);
    let recording = lab.dir().join("recording");
    let arguments = vec!["--record".into(), recording.clone().into()];
    let kinds = kinds(&lab, host, Surroundings { arguments, ..Surroundings::default() }, lab.host(2))?;
    let before = host.incarnation()?;
    let clients = Clients::start(lab.clients(), LOAD)?;
    let count = || -> Result<_> { Ok((entries(&recording)?, frames_sent(host)?, Instant::now())) };
    let since = |(inputs, frames, began): (usize, usize, Instant)| -> Result<(f64, f64)> {
        let a_second = |count: usize| count as f64 / began.elapsed().as_secs_f64();
        Ok((a_second(entries(&recording)? - inputs), a_second(frames_sent(host)? - frames)))
    };
    let calm = count()?;
    sleep(A_WHILE);
    let calm = since(calm)?;
    for kind in kinds {
        let busy = count()?;
        let flood = Flood::start(lab.neighbour(), kind.frames, 50_000)?;
        let until = Instant::now() + A_WHILE;
        while Instant::now() < until {
            // The others are flooded by nobody; what keeps them waiting is the machine.
            let now = host.incarnation().with_context(|| kind.name)?;
            ensure!(now == before, "{}: the host began anew\n{}", kind.name, host.agent_log(20));
            sleep(Duration::from_millis(100));
        }
        let (busy, rate) = (since(busy)?, flood.stop()?);
        println!(
            "{}, {rate} a second: (inputs, frames sent) a second {busy:?}, without it {calm:?}",
            kind.name
        );
        // Greetings have a limit of their own, 50 a second.
        let little = busy.0 < calm.0 * 2.0 + 20.0 && busy.1 < calm.1 * 2.0 + 100.0;
        ensure!(little, "{}: (inputs, frames sent) a second are {busy:?}, without it {calm:?}", kind.name);
        lab.wait_settled().context(kind.name)?;
    }
    let ended = Instant::now();
    lab.wait_until("every client is served", PATIENCE, || Ok(clients.all_answered_since(ended)))?;
    clients.stop()?.ensure_never_twice("in a flood")
}
