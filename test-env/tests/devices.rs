//! Others reach into a host's devices, addresses, settings and rules: it is put right, or the host is out and
//! comes back by itself; and somebody answers every client, once.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use onemac_test_env::numbered::{Clients, Load};
use onemac_test_env::{Chatter, FdbWatch, Host, Lab, Plan, addr, owned_slices};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const LOAD: Load = Load { v4: 40, v6: 40, every: Duration::from_millis(40) };

/// A cluster of three under the numbered clients, and a watch on the switch.
struct Scene {
    lab: Lab,
    switch: FdbWatch,
    clients: Clients,
}

impl Scene {
    fn start() -> Result<Self> {
        // The machine may stand still for a second or two.
        let lab = Lab::build(&Plan::hosts(3).lease("3s"))?;
        let switch = lab.switch().watch(lab.dir())?;
        lab.start_responders()?;
        lab.start_agents()?;
        lab.wait_settled()?;
        let clients = Clients::start(lab.clients(), LOAD)?;
        let scene = Self { lab, switch, clients };
        scene.served("at the start", &[1, 2, 3])?;
        Ok(scene)
    }

    /// Waits until all clients are answered, by all of these hosts and by no other.
    fn served(&self, when: &str, by: &[u8]) -> Result<()> {
        let from = Instant::now();
        self.lab.wait_until(&format!("{when}, {by:?} answer everybody"), PATIENCE, || {
            let serving: Vec<u8> = (1..=3).filter(|&host| self.clients.served_by(host) > 0).collect();
            ensure!(serving == by, "{serving:?} answer");
            Ok(self.clients.all_answered_since(from))
        })?;
        Ok(())
    }

    /// Nobody was answered twice but in these spans of time, and the switch never learned the cluster MAC.
    fn end(mut self, but: &[(Instant, Instant)]) -> Result<()> {
        let sightings = self.switch.sightings(addr::CLUSTER_MAC)?;
        ensure!(sightings.is_empty(), "the switch learned the cluster MAC:\n{}", sightings.join("\n"));
        let tally = self.clients.stop()?;
        let began = tally.started();
        let excused = |at: Duration| but.iter().any(|(from, to)| (*from..*to).contains(&(began + at)));
        let twice: Vec<String> = tally
            .twice()
            .iter()
            .filter(|twice| !twice.answers.iter().any(|(_, at)| excused(*at)))
            .map(ToString::to_string)
            .collect();
        eprintln!(
            "{} numbers sent, {} lost, {} answered twice",
            tally.sent(),
            tally.lost(),
            tally.twice().len()
        );
        ensure!(twice.is_empty(), "{} numbers answered twice:\n{}", twice.len(), twice.join("\n"));
        Ok(())
    }

    fn wait(&self, what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
        self.lab.wait_until(what, PATIENCE, condition).map(drop)
    }
}

/// Its life has gone on since then.
fn ensure_goes_on(host: &Host, life: u64) -> Result<()> {
    ensure!(host.incarnation()? == life, "{} has begun another life:\n{}", host.name(), host.agent_log(1000));
    Ok(())
}

/// Whether the status tells something with these words.
fn tells(host: &Host, words: &str) -> Result<bool> {
    let status = host.status()?;
    let warnings = status["warnings"].as_array().context("no warnings in the status")?;
    Ok(warnings.iter().any(|w| w["what"].as_str().is_some_and(|what| what.contains(words))))
}

fn is_out(host: &Host) -> Result<bool> {
    let status = host.status()?;
    Ok(status["state"] == "joining")
}

/// What of the shared device must be as it was: its addresses, flags and MTU, and the settings.
fn ground(host: &Host) -> Result<String> {
    let netns = host.netns();
    let json: Value = serde_json::from_str(&netns.run("ip", &["-j", "addr", "show", "dev", "onemac0"])?)?;
    let device = &json[0];
    let addresses: Vec<String> = device["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|a| format!("{}/{} {} {}", a["local"], a["prefixlen"], a["deprecated"], a["tentative"]))
        .collect();
    let settings = "cd /proc/sys/net; for s in ipv4/conf/eth0/arp_ignore ipv4/conf/eth0/arp_announce \
                    ipv4/conf/onemac0/*rp_* ipv4/conf/onemac0/forwarding ipv4/conf/onemac0/proxy_arp \
                    ipv6/conf/onemac0/accept_* ipv6/conf/onemac0/addr_gen_mode ipv6/conf/onemac0/d*; \
                    do echo $s $(cat $s); done";
    let settings = netns.run("sh", &["-c", settings])?;
    Ok(format!("{} {} {addresses:?}\n{settings}", device["flags"], device["mtu"]))
}

#[test]
fn what_others_do_to_the_shared_device_is_put_right_at_once() -> Result<()> {
    let scene = Scene::start()?;
    let blows = [
        // It says that it did not succeed if the agent is quicker.
        "ip addr flush dev onemac0 || true",
        "ip -6 addr flush dev onemac0 || true",
        "ip link set onemac0 down",
        "ip link set onemac0 down; ip link set onemac0 up",
        "ip link del onemac0",
        "ip link set onemac0 name mine0 || { ip link set onemac0 down; ip link set onemac0 name mine0; }",
        "ip addr add 10.9.9.9/32 dev onemac0",
        "ip addr del 192.0.2.53/32 dev onemac0; ip addr add 192.0.2.53/24 dev onemac0",
        "ip link set onemac0 mtu 1300",
        "ip link set onemac0 arp off",
        "ip link set eth0 mtu 1400; ip link set eth0 mtu 1500",
        // The larger one of both counts.
        "cd /proc/sys/net/ipv4/conf; echo 1 > all/rp_filter; cd onemac0; echo 1 > rp_filter; \
         echo 0 > arp_ignore; echo 1 > forwarding",
        "cd /proc/sys/net/ipv4/conf/eth0; echo 0 > arp_ignore; echo 0 > arp_announce",
        "cd /proc/sys/net/ipv6/conf/onemac0; echo 1 > disable_ipv6; echo 0 > disable_ipv6; echo 1 > accept_ra",
        "cd /proc/sys/net/ipv6/conf/onemac0; echo 1 > disable_ipv6; echo 0 > addr_gen_mode",
    ];
    let hosts = scene.lab.hosts();
    let before = hosts.iter().map(|h| Ok((h.incarnation()?, ground(h)?))).collect::<Result<Vec<_>>>()?;
    for (blow, n) in blows.iter().zip((0..3).cycle()) {
        let (host, (_, whole)) = (&hosts[n], &before[n]);
        host.netns().run("sh", &["-c", blow])?;
        // Longer than the agent looks away: what is whole now might not have been touched yet.
        sleep(Duration::from_millis(1500));
        scene.wait(&format!("{} is whole after `{blow}`", host.name()), || {
            let now = ground(host)?;
            ensure!(now == *whole, "wanted {whole}\nfound {now}");
            Ok(true)
        })?;
        scene.served(blow, &[1, 2, 3])?;
    }
    for (host, (life, _)) in hosts.iter().zip(&before) {
        let log = std::fs::read_to_string(host.agent_log_path())?;
        ensure_goes_on(host, *life)?;
        ensure!(log.contains("put right"), "{} does not tell:\n{log}", host.name());
    }
    scene.end(&[])
}

#[test]
fn who_is_fought_without_end_gives_its_slices_up_and_comes_back() -> Result<()> {
    let scene = Scene::start()?;
    let host = scene.lab.host(2);
    let stop = Arc::new(AtomicBool::new(false));
    let enemy = {
        let (stop, netns) = (Arc::clone(&stop), host.netns().clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = netns.run("ip", &["addr", "del", "192.0.2.53/32", "dev", "onemac0"]);
                sleep(Duration::from_millis(50));
            }
        })
    };
    scene.wait("h2 is out and tells why", || Ok(is_out(host)? && tells(host, "again and again")?))?;
    scene.served("while h2 is fought", &[1, 3])?;
    stop.store(true, Ordering::Relaxed);
    ensure!(enemy.join().is_ok(), "the enemy panicked");
    scene.lab.wait_settled()?;
    scene.served("after the fight", &[1, 2, 3])?;
    ensure!(!tells(host, "again and again")?, "{}", host.status()?["warnings"]);
    scene.end(&[])
}

/// A living `nft` that owns the table: the kernel takes no change of it from anybody else.
struct Owner(Child);

impl Owner {
    fn take(host: &Host) -> Result<Self> {
        let mut child =
            host.netns().command("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let input = child.stdin.as_mut().context("nft has no input")?;
        // One line is one transaction: there is no moment for anybody in between.
        input.write_all(b"flush ruleset; add table netdev onemac { flags owner; }\n")?;
        Ok(Self(child))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rules_that_can_not_be_put_back_take_the_shared_device_down() -> Result<()> {
    let scene = Scene::start()?;
    let host = scene.lab.host(2);
    let from = Instant::now();
    let owner = Owner::take(host)?;
    scene.wait("the shared device is down", || {
        Ok(host.netns().run("ip", &["link", "show", "dev", "onemac0"])?.contains("state DOWN"))
    })?;
    // From the loss of the rules to the closing, nobody judges packets.
    let closed = Instant::now();
    scene.wait("h2 tells why it is out", || {
        Ok(is_out(host)? && tells(host, "does not hold this host's rules")?)
    })?;
    scene.served("while h2 has no rules", &[1, 3])?;
    // The kernel answers for an address of a device that is down, too, on every other card.
    let local = host.netns().run("ip", &["route", "show", "table", "local"])?;
    ensure!(!local.contains(&addr::VIP4.to_string()), "h2 still has the shared address:\n{local}");
    drop(owner);
    scene.lab.wait_settled()?;
    scene.served("with its rules again", &[1, 2, 3])?;
    ensure!(!tells(host, "rules")?, "{}", host.status()?["warnings"]);
    scene.end(&[(from, closed)])
}

#[test]
fn the_service_device_is_followed_when_it_is_renamed() -> Result<()> {
    let scene = Scene::start()?;
    let host = scene.lab.host(2);
    let chatter = Chatter::start(host);
    let life = host.incarnation()?;
    for (from, to) in [("eth0", "lan0"), ("lan0", "lan1"), ("lan1", "eth0"), ("eth0", "lan0")] {
        host.netns().ip(&format!("link set {from} name {to}"))?;
        scene.wait(&format!("the rules are for {to}"), || {
            let rules = host.netns().run("nft", &["list", "ruleset"])?;
            Ok(rules.contains(&format!("device \"{to}\"")) && !rules.contains(&format!("device \"{from}\"")))
        })?;
        host.route_by(to)?;
        scene.served(&format!("as {to}"), &[1, 2, 3])?;
        scene.wait("the status tells the name", || {
            Ok(tells(host, &format!("is now called {to}"))? == (to != "eth0"))
        })?;
    }
    let before = chatter.sent();
    scene.wait("frames go on", || Ok(chatter.sent() > before + 20))?;
    drop(chatter);
    let flushed = Instant::now();
    host.netns().run("nft", &["flush", "ruleset"])?;
    scene.wait("the rules are back", || {
        Ok(host.netns().run("nft", &["list", "ruleset"])?.contains("device \"lan0\""))
    })?;
    let flushed = (flushed, Instant::now());
    scene.served("after the rules were flushed", &[1, 2, 3])?;
    let reload = host.onemac(&["reload"])?;
    ensure!(reload.code == 0, "{reload:?}");
    ensure_goes_on(host, life)?;
    // So does an agent that is started anew.
    host.kill_agent();
    host.start_agent()?;
    scene.lab.wait_settled()?;
    scene.served("after the agent was killed", &[1, 2, 3])?;
    ensure!(tells(host, "is now called lan0")?, "{}", host.status()?["warnings"]);
    // The definition follows, on all hosts.
    let mut definition = scene.lab.definition().clone();
    definition.hosts[1].interface = "lan0".to_owned();
    for host in scene.lab.hosts() {
        host.write_definition(&definition)?;
        let reload = host.onemac(&["reload"])?;
        ensure!(reload.code == 0, "{reload:?}");
    }
    scene.lab.wait_settled()?;
    scene.wait("the status has nothing to tell", || Ok(!tells(host, "is now called")?))?;
    scene.served("with the new definition", &[1, 2, 3])?;
    ensure!(host.stop_agent()?.success(), "{}", host.agent_log(20));
    let announce = host.netns().run("cat", &["/proc/sys/net/ipv4/conf/lan0/arp_announce"])?;
    ensure!(announce.trim() == "0", "the settings of the renamed device were not put back");
    scene.end(&[flushed])
}

#[test]
fn a_host_is_out_while_its_service_device_is_gone_or_down() -> Result<()> {
    let scene = Scene::start()?;
    let host = scene.lab.host(2);
    for same_index in [false, true] {
        let link = host.netns().run("ip", &["-o", "link", "show", "dev", "eth0"])?;
        let index = link.split(':').next().filter(|_| same_index).map(str::parse).transpose()?;
        host.pull_card()?;
        scene
            .wait("h2 tells that its device is gone", || Ok(is_out(host)? && tells(host, "eth0 is gone")?))?;
        scene.served("without the card of h2", &[1, 3])?;
        host.put_card(index)?;
        scene.lab.wait_settled()?;
        scene.served("with a new card in h2", &[1, 2, 3])?;
        let beacons = |host: &Host, of: &str| -> Result<bool> {
            let status = host.status()?;
            let row = status["hosts"].as_array().into_iter().flatten().find(|row| row["name"] == of);
            Ok(row.and_then(|row| row["wire_ms"].as_u64()).is_some_and(|ms| ms < 1000))
        };
        scene.wait("reports go over the service wire both ways", || {
            Ok(beacons(host, "h1")? && beacons(scene.lab.host(1), "h2")?)
        })?;
        ensure!(!tells(host, "path")?, "{}", host.status()?["warnings"]);
    }
    host.netns().ip("link set eth0 down")?;
    scene.wait("h2 tells that its device is down", || Ok(is_out(host)? && tells(host, "eth0 is down")?))?;
    scene.served("while the card of h2 is down", &[1, 3])?;
    host.netns().ip(&format!("link set eth0 up\naddr replace {}/64 dev eth0 nodad", host.v6()))?;
    host.route_by("eth0")?;
    scene.lab.wait_settled()?;
    scene.served("with the card of h2 up", &[1, 2, 3])?;
    scene.end(&[])
}

#[test]
fn a_service_device_may_change_its_address_and_its_largest_packet() -> Result<()> {
    let scene = Scene::start()?;
    let (host, life) = (scene.lab.host(2), scene.lab.host(2).incarnation()?);
    let new = "02:00:00:00:99:02";
    host.netns().ip(&format!("link set eth0 address {new}"))?;
    scene.wait("the mask is the new address", || {
        let rules = host.netns().run("nft", &["list", "table", "netdev", "onemac"])?;
        Ok(rules.contains(&format!("ether saddr set {new}")) && !rules.contains(&host.mac()))
    })?;
    scene.served("with another MAC address", &[1, 2, 3])?;
    ensure_goes_on(host, life)?;
    // Planned moves are relayed to that address: what the old owner still gets arrives.
    let others = Clients::start(scene.lab.clients(), LOAD)?;
    for order in ["drain", "resume"] {
        let done = scene.lab.host(1).onemac(&[order])?;
        ensure!(done.code == 0, "{done:?}");
        scene.lab.wait_settled()?;
        let by: &[u8] = if order == "drain" { &[2, 3] } else { &[1, 2, 3] };
        scene.served(order, by)?;
    }
    let tally = others.stop()?;
    tally.ensure_never_twice("in planned moves")?;
    ensure!(tally.lost() == 0, "{} of {} numbers lost in planned moves", tally.lost(), tally.sent());
    let mtu = |wanted: &str| {
        scene.wait(&format!("onemac0 has MTU {wanted}"), || {
            let link = host.netns().run("ip", &["link", "show", "dev", "onemac0"])?;
            Ok(link.contains(&format!("mtu {wanted} ")))
        })
    };
    for size in ["1400", "1500", "9000", "1500"] {
        host.netns().ip(&format!("link set eth0 mtu {size}"))?;
        mtu(size)?;
        scene.served(&format!("with MTU {size}"), &[1, 2, 3])?;
    }
    ensure_goes_on(host, life)?;
    // No room for IPv6.
    host.netns().ip("link set eth0 mtu 1200")?;
    scene.wait("h2 is out", || is_out(host))?;
    scene.served("with MTU 1200", &[1, 3])?;
    host.netns().ip(&format!("link set eth0 mtu 1500\naddr replace {}/64 dev eth0 nodad", host.v6()))?;
    host.route_by("eth0")?;
    scene.lab.wait_settled()?;
    scene.served("with MTU 1500 again", &[1, 2, 3])?;
    ensure!(owned_slices(&host.status()?)? > 0, "h2 owns nothing");
    scene.end(&[])
}
