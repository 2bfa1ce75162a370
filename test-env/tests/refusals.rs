//! When it can not or must not work: a clear word, the right exit code, and nothing left half-made.

use std::os::unix::fs::chown;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::{Host, Lab, Plan, Snapshot, addr, binary, owned_slices};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Fails unless nothing of an agent is to be seen on the host and all else is as before.
fn ensure_untouched(host: &Host, before: &Snapshot) -> Result<()> {
    let rules = host.netns().run("nft", &["list", "ruleset"])?;
    ensure!(rules.trim().is_empty(), "rules were left:\n{rules}");
    let links = host.netns().run("ip", &["-o", "link", "show"])?;
    ensure!(!links.contains("onemac0"), "a device was left:\n{links}");
    ensure!(!host.run_dir().join("sock").exists(), "a control socket was left");
    before.ensure_same(&Snapshot::take(host.netns())?, "after the refusal")
}

/// Starts the agent where it must refuse to run; fails unless it ends with that code, says all these words,
/// and leaves nothing.
fn ensure_refuses(host: &Host, code: i32, words: &[&str]) -> Result<()> {
    let before = Snapshot::take(host.netns())?;
    host.start_agent()?;
    let status = host.wait_agent_exit(PATIENCE)?;
    let said = host.agent_log(50);
    ensure!(status.code() == Some(code), "ended with {status} instead of {code}, and said:\n{said}");
    for word in words {
        ensure!(said.contains(word), "did not say {word:?} but:\n{said}");
    }
    ensure!(!said.contains("panicked"), "{said}");
    ensure_untouched(host, &before)
}

#[test]
fn without_its_interface() -> Result<()> {
    let mut plan = Plan::hosts(1);
    plan.definition.hosts[0].interface = "eth7".to_owned();
    let lab = Lab::build(&plan)?;
    ensure_refuses(lab.host(1), 1, &["eth7"])
}

#[test]
fn with_its_card_in_a_bridge() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    // The kernel gives frames of a device to one taker only; this is found out after the rules are made.
    host.netns().ip("link add br9 type bridge\nlink set eth0 master br9")?;
    ensure_refuses(host, 1, &["onemac0", "bridge"])
}

#[test]
fn with_a_foreign_device_of_its_name() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    host.netns().ip("link add onemac0 type veth peer name other\nlink set onemac0 up")?;
    let before = host.netns().run("ip", &["link"])?;
    host.start_agent()?;
    let status = host.wait_agent_exit(PATIENCE)?;
    let said = host.agent_log(20);
    ensure!(status.code() == Some(1) && said.contains("onemac0"), "ended with {status} and said:\n{said}");
    assert_eq!(before, host.netns().run("ip", &["link"])?);
    let rules = host.netns().run("nft", &["list", "ruleset"])?;
    ensure!(rules.trim().is_empty(), "rules were left:\n{rules}");
    let clean = host.onemac(&["clean"])?;
    assert_eq!(before, host.netns().run("ip", &["link"])?, "{clean:?}");
    Ok(())
}

#[test]
fn with_a_shared_address_on_the_host_itself() -> Result<()> {
    for (address, device) in
        [("192.0.2.53/32", "lo"), ("192.0.2.53/24", "eth0"), ("2001:db8:0:1::53/64", "eth0")]
    {
        let lab = Lab::build(&Plan::hosts(1))?;
        let host = lab.host(1);
        host.netns().ip(&format!("addr add {address} dev {device}"))?;
        let words = [address.split('/').next().unwrap_or_default(), device];
        ensure_refuses(host, 1, &words).with_context(|| format!("{address} on {device}"))?;
    }
    Ok(())
}

#[test]
fn without_root() -> Result<()> {
    const NOBODY: u32 = 65534;
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    // All files are nobody's, so that rights over the network are all that is missing.
    for path in [host.dir().to_owned(), host.run_dir(), host.definition_path(), host.dir().join("secret.key")]
    {
        chown(&path, Some(NOBODY), Some(NOBODY))?;
    }
    let program = lab.dir().join("onemac");
    std::fs::copy(binary()?, &program)?;
    let before = Snapshot::take(host.netns())?;
    for command in ["run", "clean"] {
        let mut process = host.netns().command("timeout");
        process.args(["-k", "1", "20", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        process.arg(&program).arg(command);
        if command == "run" {
            process.args(["--host", "h1", "--config"]).arg(host.definition_path());
        }
        let output = process.arg("--run-dir").arg(host.run_dir()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{command} ended with {} and said:\n{said}", output.status);
        ensure!(said.contains("root") || said.contains("CAP_NET_ADMIN"), "{command} said:\n{said}");
        ensure_untouched(host, &before).context(command)?;
    }
    Ok(())
}

#[test]
fn with_a_shared_address_already_elsewhere_on_the_wire() -> Result<()> {
    for vip in [format!("{}/24", addr::VIP4), format!("{}/64 nodad", addr::VIP6)] {
        let lab = Lab::build(&Plan::hosts(1))?;
        lab.neighbour().ip(&format!("addr add {vip} dev eth0"))?;
        let address = vip.split('/').next().unwrap_or_default();
        ensure_refuses(lab.host(1), 1, &[address, addr::NEIGHBOUR_MAC])?;
        // It was the stranger's presence alone.
        lab.neighbour().ip(&format!("addr del {} dev eth0", vip.trim_end_matches(" nodad")))?;
        lab.host(1).start_agent()?;
        lab.wait_settled()?;
    }
    Ok(())
}

#[test]
fn with_an_agent_on_the_host_already() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(2))?;
    let host = lab.host(1);
    let rules = host.netns().run("nft", &["list", "chains"])?;
    for run_dir in [host.run_dir(), host.dir().join("run2")] {
        let mut second = host.netns().command("timeout");
        second.args(["-k", "1", "20"]).arg(binary()?);
        second.args(["run", "--host", "h1", "--config"]).arg(host.definition_path());
        let output = second.arg("--run-dir").arg(&run_dir).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "ended with {} and said:\n{said}", output.status);
        ensure!(said.contains("another"), "said:\n{said}");
    }
    // The first one lives, answers, and serves.
    assert_eq!(rules, host.netns().run("nft", &["list", "chains"])?);
    lab.wait_settled()?;
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 1, "clean under a running agent: {clean:?}");
    lab.wait_settled()?;
    Prober::new(lab.clients(), 50, 50).udp()?.ensure_once("UDP")
}

#[test]
fn with_a_secret_that_others_can_read_or_that_is_none() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    let host = lab.host(1);
    let good = std::fs::read_to_string(host.dir().join("secret.key"))?;
    for mode in [0o644, 0o640, 0o604] {
        host.write_secret(good.trim(), mode)?;
        ensure_refuses(host, 2, &["secret.key", "chmod"])?;
    }
    host.write_secret("short", 0o600)?;
    ensure_refuses(host, 2, &["secret.key", "64 hex digits"])?;
    std::fs::remove_file(host.dir().join("secret.key"))?;
    ensure_refuses(host, 2, &["secret.key", "keygen"])
}

#[test]
fn with_a_wrong_definition_or_host_name() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let host = lab.host(1);
    let mut definition = lab.definition().clone();
    definition.more = "slizes: 3\n".to_owned();
    host.write_definition(&definition)?;
    ensure_refuses(host, 2, &["slizes", "slices"])?;
    definition.more.clear();
    definition.hosts[0].name = "other".to_owned();
    host.write_definition(&definition)?;
    ensure_refuses(host, 2, &["h1", "other"])?;
    // This host under another's name: the gossip address is not here.
    definition.hosts[0].name = "h2".to_owned();
    definition.hosts[1].name = "h1".to_owned();
    host.write_definition(&definition)?;
    ensure_refuses(host, 1, &["192.0.2.12"])
}

/// What `status` says is wrong, all in one.
fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

/// One host of three is apart for a reason that it and the others name; the two others serve all.
fn ensure_apart(lab: &Lab, apart: usize, reason: &str) -> Result<()> {
    let outsider = lab.host(apart);
    let name = outsider.name();
    lab.wait_until("the host that is apart says why and holds nothing", PATIENCE, || {
        let status = outsider.status()?;
        ensure!(problems(&status).contains(reason), "problems: {}", problems(&status));
        ensure!(owned_slices(&status)? == 0, "it owns {}", status["services"]);
        ensure!(status["state"] != "serving", "it is {}", status["state"]);
        Ok(true)
    })?;
    lab.wait_until("the others serve all and name it", PATIENCE, || {
        let mut owned = 0;
        for host in lab.hosts().iter().filter(|host| host.name() != name) {
            let status = host.status()?;
            owned += owned_slices(&status)?;
            let told = problems(&status);
            ensure!(
                told.contains(reason) && told.contains(&name),
                "{} tells of problems {told}",
                host.name()
            );
        }
        Ok(owned == u64::from(lab.definition().slices))
    })?;
    let log = Prober::new(lab.clients(), 60, 60).udp()?;
    log.ensure_once("UDP")?;
    ensure!(!log.shares().contains_key(&name), "{name} serves: {:?}", log.shares());
    Ok(())
}

#[test]
fn with_a_wrong_secret_on_one_host() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let good = std::fs::read_to_string(lab.host(2).dir().join("secret.key"))?;
    lab.host(2).write_secret(&"ab".repeat(32), 0o600)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    ensure_apart(&lab, 2, "secret")?;
    lab.host(2).write_secret(good.trim(), 0o600)?;
    ensure!(lab.host(2).stop_agent()?.success(), "{}", lab.host(2).agent_log(20));
    lab.host(2).start_agent()?;
    lab.wait_settled()?;
    Ok(())
}

#[test]
fn with_another_definition_on_one_host() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let mut other = lab.definition().clone();
    other.hosts[0].weight = 7;
    lab.host(3).write_definition(&other)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    ensure_apart(&lab, 3, "definition")?;
    lab.host(3).write_definition(lab.definition())?;
    ensure!(lab.host(3).stop_agent()?.success(), "{}", lab.host(3).agent_log(20));
    lab.host(3).start_agent()?;
    lab.wait_settled()?;
    Ok(())
}

#[test]
fn commands_without_an_agent_say_so() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(1))?;
    for command in [&["status"][..], &["status", "--json"], &["slices"], &["owner", "198.18.0.1"]] {
        let ended = lab.host(1).onemac(command)?;
        ensure!(ended.code == 3, "{command:?}: {ended:?}");
        ensure!(ended.stdout.is_empty() && ended.stderr.contains("agent"), "{command:?}: {ended:?}");
    }
    Ok(())
}
