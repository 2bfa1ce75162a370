//! What an operator says to a running cluster, and what it answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::{Host, Lab, Plan, addr, owned_slices};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a command on a host; fails unless it ends with that code and says all these words.
fn says(host: &Host, code: i32, arguments: &[&str], words: &[&str]) -> Result<String> {
    let ended = host.onemac(arguments)?;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    ensure!(ended.code == code, "{arguments:?} ended with {:?} and said:\n{said}", ended.code);
    for word in words {
        ensure!(said.contains(word), "{arguments:?} did not say {word:?} but:\n{said}");
    }
    Ok(said)
}

fn row(status: &Value, host: &str) -> Result<Value> {
    let rows = status["hosts"].as_array().context("no hosts")?;
    rows.iter().find(|h| h["name"] == host).cloned().context("no such host")
}

fn wait_for(lab: &Lab, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    lab.wait_until(what, PATIENCE, &mut condition).map(drop)
}

/// A client's connection to the echo server of whichever host is meant to serve it; it lives until dropped.
fn connect(lab: &Lab, client: Ipv4Addr) -> Result<TcpStream> {
    lab.clients().within(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((client, 0)).into())?;
        socket
            .connect_timeout(&SocketAddr::from((addr::VIP4, onemac_test_env::tcp::PORT)).into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).context("no answer on a living connection")
}

/// The host that owns a client.
fn owner(lab: &Lab, client: IpAddr) -> Result<String> {
    let ended = lab.host(1).onemac(&["owner", &client.to_string(), "--json"])?;
    let answer: Value = serde_json::from_str(&ended.stdout)?;
    Ok(answer["owner"].as_str().context("nobody owns the client")?.to_owned())
}

#[test]
fn drain_resume_and_weight_here_and_elsewhere() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(3))?;
    let here = lab.host(1);
    says(here, 2, &["drain", "--host", "h9"], &["h9", "h1, h2, h3"])?;
    says(here, 2, &["drain", "--service", "dns"], &["dns", "default"])?;
    says(here, 2, &["weight", "h2", "101"], &["101"])?;
    says(here, 0, &["resume"], &["h1"])?;

    says(here, 0, &["drain", "--host", "h2", "--wait"], &["h2 is drained", "h2 has no connections left"])?;
    let status = here.status()?;
    ensure!(row(&status, "h2")?["state"] == "draining", "{status}");
    ensure!(owned_slices(&lab.host(2).status()?)? == 0);
    lab.wait_settled()?;
    says(here, 0, &["drain"], &["h1"])?;
    says(lab.host(3), 1, &["drain"], &["no other host", "h3", "resume"])?;
    says(lab.host(3), 1, &["weight", "h3", "0"], &["no other host"])?;
    says(lab.host(3), 0, &["resume", "--host", "h1"], &["h1"])?;
    says(here, 0, &["resume", "--host", "h2"], &["h2"])?;
    says(here, 0, &["weight", "h3", "2"], &["h3", "2"])?;
    wait_for(&lab, "h3 to own half", || Ok(owned_slices(&lab.host(3).status()?)? == 512))?;
    ensure!(row(&here.status()?, "h3")?["weight"] == 2);

    // A host that is not there can not be told, and that is said.
    lab.host(2).kill_agent();
    wait_for(&lab, "h2 to be gone", || Ok(row(&here.status()?, "h2")?["alive"] == false))?;
    says(here, 1, &["drain", "--host", "h2"], &["h2", "not heard"])?;
    Ok(())
}

#[test]
fn a_drain_that_waits_tells_what_is_left_and_a_leave_can_be_taken_back() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(2))?;
    lab.start_echoes()?;
    let client = Ipv4Addr::new(198, 18, 0, 77);
    let name = owner(&lab, client.into())?;
    let host = lab.host_named(&name)?;
    let mut stream = connect(&lab, client)?;
    ask(&mut stream)?;

    let program = host.program()?;
    let run_dir = host.run_dir();
    let mut waiting = host
        .netns()
        .command(program.to_str().context("a strange path")?)
        .args(["drain", "--wait", "--run-dir"])
        .arg(&run_dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(waiting.stdout.take().context("no pipe")?).lines();
    let told =
        lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("1 connection left on slice"));
    ensure!(told.is_some(), "it did not tell what is left");
    ensure!(row(&host.status()?, &name)?["connections"] == 1, "{}", host.status()?);
    let status = host.status()?;
    ensure!(
        status["moving"][0]["connections"] == 1 || status["moving"].as_array().is_some_and(|m| m.len() > 1)
    );
    ask(&mut stream)?;
    ensure!(waiting.try_wait()?.is_none(), "it did not wait");

    // The agent is told to end, stays for the connection, and is then asked to stay for good.
    host.signal_agent(nix::sys::signal::Signal::SIGTERM)?;
    wait_for(&lab, "it to leave", || Ok(host.status()?["state"] == "leaving"))?;
    ask(&mut stream)?;
    says(host, 0, &["resume"], &[&name])?;
    wait_for(&lab, "it to stay", || Ok(host.status()?["state"] == "serving"))?;
    ensure!(waiting.wait()?.code() == Some(1), "it did not notice that it waits in vain");
    ask(&mut stream)?;

    host.signal_agent(nix::sys::signal::Signal::SIGTERM)?;
    wait_for(&lab, "it to leave", || Ok(host.status()?["state"] == "leaving"))?;
    ask(&mut stream)?;
    drop(stream);
    let ended = host.wait_agent_exit(PATIENCE)?;
    ensure!(ended.success(), "{ended}: {}", host.agent_log(20));
    Ok(())
}

#[test]
fn a_definition_is_reloaded_when_all_have_it_and_a_bad_one_changes_nothing() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let (first, second) = (lab.host(1), lab.host(2));
    let mut good = lab.definition().clone();
    good.hosts.pop();
    first.write_definition(&good)?;
    second.write_definition(&good)?;
    first.start_agent()?;
    second.start_agent()?;
    let serves = |host: &Host, slices: u64| -> Result<bool> {
        Ok(host.status().and_then(|s| owned_slices(&s)).ok() == Some(slices))
    };
    wait_for(&lab, "two hosts to serve", || Ok(serves(first, 512)? && serves(second, 512)?))?;

    std::fs::write(first.definition_path(), format!("{good}\nsliices: 7\n"))?;
    says(first, 2, &["reload"], &["sliices", "slices"])?;
    let mut other = good.clone();
    other.slices = 256;
    other.heartbeat = Some("50ms".into());
    first.write_definition(&other)?;
    says(first, 2, &["reload"], &["slices", "timing.heartbeat", "nothing was changed"])?;
    first.write_definition(&good)?;
    says(first, 0, &["reload"], &["has not changed"])?;

    // Another address, another weight.
    let mut next = good.clone();
    let vip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 54));
    next.vips.push(vip);
    next.hosts[0].weight = 3;
    first.write_definition(&next)?;
    says(first, 0, &["reload"], &["h2", "onemac reload"])?;
    ensure!(first.status()?["staged"]["waits_for"][0] == "h2", "{}", first.status()?);
    ensure!(owned_slices(&first.status()?)? == 512, "half a reload changed something");
    second.write_definition(&next)?;
    second.signal_agent(nix::sys::signal::Signal::SIGHUP)?;
    wait_for(&lab, "the new weights", || Ok(serves(first, 768)? && serves(second, 256)?))?;
    let ping = || lab.clients().run("ping", &["-c1", "-W1", &vip.to_string()]).is_ok();
    wait_for(&lab, "the new address to answer", || Ok(ping()))?;

    // A third host comes, the first one goes, the address with it.
    let mut last = Plan::hosts(3).definition;
    last.hosts.remove(0);
    lab.host(3).write_definition(&last)?;
    lab.host(3).start_agent()?;
    for host in [first, second] {
        host.write_definition(&last)?;
        says(host, 0, &["reload"], &[])?;
    }
    let ended = first.wait_agent_exit(PATIENCE)?;
    ensure!(ended.success(), "{ended}: {}", first.agent_log(30));
    wait_for(&lab, "the new host to serve", || Ok(serves(second, 512)? && serves(lab.host(3), 512)?))?;
    ensure!(!ping(), "the address that was taken out still answers");
    Ok(())
}

#[test]
fn a_program_is_started_anew_in_the_same_life_or_not_at_all() -> Result<()> {
    // Within a lease an agent that is killed must have been started and heard again.
    let lab = Lab::build(&Plan::hosts(3).lease("10s"))?;
    let host = lab.host(2);
    let [program, other] = ["program", "other"].map(|name| lab.dir().join(name));
    std::fs::copy(host.program()?, &program)?;
    host.install_program(&program)?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let before = host.status()?;
    says(host, 0, &["restart"], &["h2", "same life"])?;
    lab.wait_settled()?;
    let after = host.status()?;
    ensure!(
        before["incarnation"] == after["incarnation"] && before["run"] != after["run"],
        "{before} {after}"
    );
    ensure!(owned_slices(&before)? == owned_slices(&after)?);

    // A definition that it could not start with: it goes on as it is.
    std::fs::write(host.definition_path(), "cluster: [")?;
    says(host, 1, &["restart"], &["does not take the definition", "goes on"])?;
    ensure!(host.status()?["run"] == after["run"]);
    host.write_definition(lab.definition())?;

    // Nor does it become a program that speaks another version of the protocol.
    let script =
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'onemac 99.0.0 (protocol 99)'; exit; fi\nexec";
    std::fs::write(&other, format!("{script} {} \"$@\"\n", program.display()))?;
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o755))?;
    host.install_program(&other)?;
    says(host, 1, &["restart"], &["onemac 99.0.0 (protocol 99)", "drain", "goes on"])?;
    host.install_program(&program)?;
    ensure!(host.status()?["run"] == after["run"]);

    // Killed and started within its lease, it goes on too; also what its operator wants of it.
    says(host, 0, &["drain"], &[])?;
    lab.wait_settled()?;
    host.kill_agent();
    host.start_agent()?;
    wait_for(&lab, "it to be back", || Ok(host.status().is_ok_and(|s| s["view"]["agreed"] == true)))?;
    let back = host.status()?;
    ensure!(back["state"] == "draining" && back["incarnation"] == before["incarnation"], "{back}");
    // What it was before is no stranger to it.
    std::thread::sleep(Duration::from_secs(2));
    let later = host.status()?;
    ensure!(later["problems"] == before["problems"], "{later}");
    Ok(())
}

/// The program that takes another's place knows what the others have answered: the lease goes on.
#[test]
fn a_restart_under_majority_keeps_its_life() -> Result<()> {
    let mut plan = Plan::hosts(3);
    plan.definition.more = "partition: majority\n".to_owned();
    let lab = Lab::start(&plan)?;
    // Half of the queries of a moment are another host's; one that has lost its lease answers none of its own.
    let watch = Prober::new(lab.clients(), 100, 100).watch(Duration::from_millis(100))?;
    for host in lab.hosts() {
        // Who counts has answered for an expiry.
        std::thread::sleep(Duration::from_secs(2));
        let before = host.status()?;
        says(host, 0, &["restart"], &[&host.name(), "same life"])?;
        lab.wait_settled()?;
        let after = host.status()?;
        ensure!(before["run"] != after["run"], "it was not started anew: {after}");
        ensure!(before["incarnation"] == after["incarnation"], "{}", host.agent_log(30));
        ensure!(owned_slices(&before)? == owned_slices(&after)?, "{before} {after}");
    }
    let log = watch.stop()?;
    log.ensure_never_twice("through the restarts")?;
    ensure!(log.lost() == 0, "{} of {} queries were lost", log.lost(), log.queries());
    Ok(())
}
