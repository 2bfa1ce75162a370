//! ARP and neighbour discovery: whoever asks, one host answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use onemac_test_env::frames::{self, Injector, mac};
use onemac_test_env::{Capture, Lab, Plan, addr, neighbour_v4, neighbour_v6};
use pnet::util::MacAddr;

const ASKERS: u8 = 50;
const PATIENCE: Duration = Duration::from_secs(20);

/// Who answered whom with which MAC address for the shared address: by asker, the hosts' own MACs.
type Answers = BTreeMap<IpAddr, Vec<MacAddr>>;

fn answers(tap: &[onemac_test_env::Frame]) -> Result<Answers> {
    let mut answers = Answers::new();
    for frame in tap.iter().filter(|frame| !frame.outgoing) {
        let told = frames::arp(&frame.data)
            .filter(|arp| arp.reply && arp.sender == addr::VIP4)
            .map(|arp| (IpAddr::from(arp.target), arp.sender_mac))
            .or_else(|| {
                let (asker, target, link) = frames::neighbour_advert(&frame.data)?;
                (target == addr::VIP6).then_some((IpAddr::from(asker), link))
            });
        if let (Some((asker, link)), Some((source, _))) = (told, frames::ends(&frame.data)) {
            ensure!(link == mac(addr::CLUSTER_MAC), "{asker} was told {link}");
            answers.entry(asker).or_default().push(source);
        }
    }
    Ok(answers)
}

/// Every asker asks once; fails unless each has one answer.
fn ask_all(lab: &Lab, destination: Option<MacAddr>) -> Result<BTreeSet<MacAddr>> {
    let tap = Capture::start(lab.neighbour(), "eth0")?;
    let wire = Injector::open(lab.neighbour(), "eth0")?;
    let source = mac(addr::NEIGHBOUR_MAC);
    let (v4, v6) = (neighbour_v4(ASKERS), neighbour_v6(ASKERS));
    for asker in &v4 {
        let mut frame = frames::arp_request(source, *asker, addr::VIP4);
        if let Some(destination) = destination {
            frame[..6].copy_from_slice(&destination.octets());
        }
        wire.send(&frame)?;
    }
    for asker in &v6 {
        let mut frame = frames::neighbour_solicitation(source, *asker, addr::VIP6);
        if let Some(destination) = destination {
            frame[..6].copy_from_slice(&destination.octets());
        }
        wire.send(&frame)?;
    }
    let all = usize::from(ASKERS) * 2;
    lab.wait_until("every asker has an answer", PATIENCE, || {
        let told = tap.count(|frame| {
            !frame.outgoing
                && (frames::arp(&frame.data).is_some_and(|arp| arp.reply && arp.sender == addr::VIP4)
                    || frames::neighbour_advert(&frame.data)
                        .is_some_and(|(_, target, _)| target == addr::VIP6))
        });
        ensure!(told >= all, "{told} answers to {all} questions");
        Ok(true)
    })?;
    // A second answer would come from another host at the same moment: half a second is an age for it.
    std::thread::sleep(Duration::from_millis(500));
    let answers = answers(&tap.stop()?)?;
    let askers = v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from));
    let mut who = BTreeSet::new();
    for asker in askers {
        let hosts = answers.get(&asker).cloned().unwrap_or_default();
        ensure!(hosts.len() == 1, "{asker} was answered by {hosts:?}");
        who.extend(hosts);
    }
    Ok(who)
}

#[test]
fn one_host_answers_each_asker_and_the_askers_are_shared_and_heal() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(4))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let all: BTreeSet<MacAddr> = lab.hosts().iter().map(|host| mac(&host.mac())).collect();
    // 100 askers: that one of four hosts has none of them is a chance of 4·(3/4)^100.
    assert_eq!(ask_all(&lab, None)?, all);
    // Entries are refreshed by frames to the cluster MAC itself.
    assert_eq!(ask_all(&lab, Some(mac(addr::CLUSTER_MAC)))?, all);
    lab.host(3).power_off()?;
    lab.wait_settled()?;
    let three: BTreeSet<MacAddr> =
        all.iter().copied().filter(|host| *host != mac(&lab.host(3).mac())).collect();
    assert_eq!(ask_all(&lab, None)?, three);
    Ok(())
}

#[test]
fn hosts_answer_for_their_own_address_with_their_own_mac_only() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let tap = Capture::start(lab.neighbour(), "eth0")?;
    let wire = Injector::open(lab.neighbour(), "eth0")?;
    let source = mac(addr::NEIGHBOUR_MAC);
    for host in lab.hosts() {
        wire.send(&frames::arp_request(source, addr::NEIGHBOUR4, host.v4()))?;
        wire.send(&frames::neighbour_solicitation(source, addr::NEIGHBOUR6, host.v6()))?;
    }
    for host in lab.hosts() {
        lab.wait_until("the host answers for its own addresses", PATIENCE, || {
            let arps = tap.count(|frame| {
                frames::arp(&frame.data).is_some_and(|arp| arp.reply && arp.sender == host.v4())
            });
            let adverts = tap
                .count(|frame| frames::neighbour_advert(&frame.data).is_some_and(|told| told.1 == host.v6()));
            Ok(arps > 0 && adverts > 0)
        })?;
    }
    std::thread::sleep(Duration::from_millis(300));
    let frames_seen = tap.stop()?;
    for host in lab.hosts() {
        let own = mac(&host.mac());
        let told: Vec<MacAddr> = frames_seen
            .iter()
            .filter(|frame| !frame.outgoing)
            .filter_map(|frame| {
                let arp = frames::arp(&frame.data).filter(|arp| arp.reply && arp.sender == host.v4());
                let advert = frames::neighbour_advert(&frame.data).filter(|told| told.1 == host.v6());
                arp.map(|arp| arp.sender_mac).or(advert.map(|told| told.2))
            })
            .collect();
        assert_eq!(told, [own, own], "{}", host.name());
    }
    Ok(())
}
