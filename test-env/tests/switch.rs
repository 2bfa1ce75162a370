//! What the wire sees of the cluster MAC: asked for by everybody, sent by nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::frames::{self, mac};
use onemac_test_env::{Capture, Chatter, Host, Lab, Plan, addr};

/// Makes the shared device of a host speak: its own requests, and the listener reports of a device that
/// comes up.
fn provoke(host: &Host) -> Result<()> {
    let netns = host.netns();
    // These may go unanswered, as the reply belongs to the slice of who is asked: sending is what counts.
    for (source, target) in [("192.0.2.53", "192.0.2.1"), ("2001:db8:0:1::53", "2001:db8:0:1::1")] {
        let ping =
            format!("ping -n -c 1 -W 1 -I onemac0 {target}; ping -n -c 1 -W 1 -I {source} {target}; true");
        netns.run("sh", &["-c", &ping])?;
    }
    netns.ip("maddr add 01:00:5e:00:00:fb dev onemac0\nlink set onemac0 down\nlink set onemac0 up")?;
    Ok(())
}

#[test]
fn no_frame_escapes_the_mask_in_the_moments_of_start_stop_and_take_over() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let mut switch = lab.switch().watch(lab.dir())?;
    let host = lab.host(1);
    let chatter = Chatter::start(host);
    let step = |what: &str, act: &dyn Fn() -> Result<()>| -> Result<()> {
        act()?;
        // Every state lasts until some frames were sent in it.
        let before = chatter.sent();
        lab.wait_until(&format!("frames are sent {what}"), Duration::from_secs(20), || {
            Ok(chatter.sent() > before + 20)
        })?;
        Ok(())
    };
    for _ in 0..3 {
        step("after the start", &|| lab.start_agents())?;
        lab.wait_settled()?;
        step("after the device went down and up", &|| {
            host.netns().ip("link set onemac0 down\nlink set onemac0 up").map(drop)
        })?;
        step("after the kill", &|| {
            host.kill_agent();
            Ok(())
        })?;
        step("after the take-over", &|| host.start_agent())?;
        lab.wait_settled()?;
        for host in lab.hosts() {
            ensure!(host.stop_agent()?.success(), "{}", host.agent_log(20));
        }
        step("after a new start", &|| lab.start_agents())?;
        lab.hosts().iter().for_each(Host::kill_agent);
        for host in lab.hosts() {
            let clean = host.onemac(&["clean"])?;
            ensure!(clean.code == 0, "{clean:?}");
        }
    }
    let sightings = switch.sightings(addr::CLUSTER_MAC)?;
    ensure!(sightings.is_empty(), "the switch learned the cluster MAC:\n{}", sightings.join("\n"));
    Ok(())
}

#[test]
fn the_switch_never_learns_the_cluster_mac_whatever_happens_to_agents_and_devices() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let mut switch = lab.switch().watch(lab.dir())?;
    let taps = lab
        .hosts()
        .iter()
        .map(|host| Capture::start(lab.switch().netns(), &host.port()))
        .collect::<Result<Vec<_>>>()?;
    let clients = Prober::new(lab.clients(), 40, 40).watch(Duration::from_millis(200))?;

    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    lab.hosts().iter().try_for_each(provoke)?;

    // An orderly stop and a new start.
    lab.host(1).stop_agent()?;
    lab.wait_settled()?;
    lab.host(1).start_agent()?;
    // A kill, a device that goes down and up meanwhile, and a take-over.
    lab.host(2).kill_agent();
    provoke(lab.host(2))?;
    lab.host(2).start_agent()?;
    lab.wait_settled()?;
    // A kill and a clean.
    lab.host(3).kill_agent();
    let clean = lab.host(3).onemac(&["clean"])?;
    ensure!(clean.code == 0, "{clean:?}");
    lab.host(3).start_agent()?;
    lab.wait_settled()?;
    lab.hosts().iter().try_for_each(provoke)?;
    // The same for the card below.
    lab.host(1).set_cable(false)?;
    lab.host(1).set_cable(true)?;
    lab.host(2).netns().ip("link set eth0 promisc on\nlink set eth0 promisc off")?;
    lab.wait_settled()?;

    let log = clients.stop()?;
    ensure!(log.answered_once() > 0, "nobody was served, so nothing is shown");
    let sightings = switch.sightings(addr::CLUSTER_MAC)?;
    ensure!(sightings.is_empty(), "the switch learned the cluster MAC:\n{}", sightings.join("\n"));
    ensure!(
        !switch.sightings(&lab.host(1).mac())?.is_empty(),
        "the watch does not even see a host's own MAC"
    );
    for (tap, host) in taps.into_iter().zip(lab.hosts()) {
        let name = host.name();
        // What comes into the switch's port is what the host sent.
        for frame in tap.stop()?.iter().filter(|frame| !frame.outgoing) {
            let from = frames::ends(&frame.data).map(|(source, _)| source);
            ensure!(
                from != Some(mac(addr::CLUSTER_MAC)),
                "{name} sent a frame by the cluster MAC: {frame:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn nobody_is_told_another_mac_for_a_shared_address() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let taps = lab
        .hosts()
        .iter()
        .map(|host| Capture::start(lab.switch().netns(), &host.port()))
        .collect::<Result<Vec<_>>>()?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let prober = Prober::new(lab.clients(), 30, 30);
    prober.udp()?.ensure_once("UDP")?;
    // The hosts must ask for their router in the course of answering: each forgets it while it serves.
    for host in lab.hosts() {
        host.netns().ip("neigh flush all")?;
    }
    prober.udp()?.ensure_once("UDP after the hosts forgot their router")?;
    lab.hosts().iter().try_for_each(provoke)?;

    let cluster_mac = mac(addr::CLUSTER_MAC);
    let (mut arps, mut adverts) = (0, 0);
    for (tap, host) in taps.into_iter().zip(lab.hosts()) {
        for frame in tap.stop()?.iter().filter(|frame| !frame.outgoing) {
            if let Some(arp) = frames::arp(&frame.data).filter(|arp| arp.sender == addr::VIP4) {
                arps += 1;
                ensure!(arp.sender_mac == cluster_mac, "{} said {arp:?}", host.name());
            }
            if let Some((_, target, link)) = frames::neighbour_advert(&frame.data)
                && target == addr::VIP6
            {
                adverts += 1;
                ensure!(link == cluster_mac, "{} advertised {link} for {target}", host.name());
            }
        }
    }
    ensure!(
        arps > 0 && adverts > 0,
        "{arps} ARP messages and {adverts} advertisements: too few to show anything"
    );
    for (address, family) in [(addr::VIP4.to_string(), "-4"), (addr::VIP6.to_string(), "-6")] {
        let entry = lab.router().run("ip", &[family, "neigh", "show", &address])?;
        ensure!(entry.contains(addr::CLUSTER_MAC), "the router knows: {entry}");
    }
    Ok(())
}
