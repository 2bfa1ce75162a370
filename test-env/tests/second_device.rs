//! Other devices than the service device: whoever comes by them is not answered in the shared addresses' name, but
//! for the host's own containers.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::frames::{self, Injector, mac};
use onemac_test_env::{
    Arrivals, Capture, Host, Lab, Netns, Plan, addr, client_v4, client_v6, neighbour_v4, neighbour_v6,
};

const PATIENCE: Duration = Duration::from_secs(30);
const SECOND_MAC: &str = "02:00:00:00:02:01";
const ASKERS: u8 = 20;

/// Everybody on the LAN asks who has the shared addresses, and is told the cluster MAC, of which the second card of
/// `host` says nothing; then sends to the second card, and is not heard.
fn ensure_second_card_is_closed(lab: &Lab, arrivals: &Arrivals, from: &[IpAddr], when: &str) -> Result<()> {
    let tap = Capture::start(lab.neighbour(), "eth0")?;
    let wire = Injector::open(lab.neighbour(), "eth0")?;
    let (us, second) = (mac(addr::NEIGHBOUR_MAC), mac(SECOND_MAC));
    for to in [None, Some(second)] {
        let mut asked = Vec::new();
        for asker in neighbour_v4(ASKERS) {
            asked.push(frames::arp_request(us, asker, addr::VIP4));
        }
        for asker in neighbour_v6(ASKERS) {
            asked.push(frames::neighbour_solicitation(us, asker, addr::VIP6));
        }
        for mut question in asked {
            if let Some(to) = to {
                question[..6].copy_from_slice(&to.octets());
            }
            wire.send(&question)?;
        }
    }
    let before = arrivals.came()?;
    let mut sent = 0;
    for _ in 0..5 {
        for client in from {
            let vip: IpAddr = if client.is_ipv4() { addr::VIP4.into() } else { addr::VIP6.into() };
            wire.send(&frames::udp_datagram(us, second, (*client, 4000), (vip, 53), b"astray"))?;
            sent += 1;
        }
    }
    lab.wait_until("the second card has it all", PATIENCE, || {
        let came = arrivals.came()? - before;
        ensure!(came >= sent, "{came} of {sent}");
        Ok(true)
    })?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(arrivals.passed()? == 0, "{when}: {} packets got in by the second card", arrivals.passed()?);
    for frame in tap.stop()?.iter().filter(|frame| !frame.outgoing) {
        let told = frames::arp(&frame.data)
            .filter(|arp| arp.sender == addr::VIP4)
            .map(|arp| arp.sender_mac)
            .or_else(|| frames::neighbour_advert(&frame.data).filter(|t| t.1 == addr::VIP6).map(|t| t.2));
        ensure!(told.is_none_or(|told| told == mac(addr::CLUSTER_MAC)), "{when}: somebody was told {told:?}");
    }
    Ok(())
}

/// A second card in the switch that the first is in.
fn plug_second_card(lab: &Lab, host: &Host) -> Result<()> {
    // A macvlan on the cable, since a veth is what a container's cable is.
    lab.switch().netns().ip(&format!(
        "link add second type veth peer name cable\nlink set second master br0 up\nlink set cable up\n\
         link add link cable name eth1 address {SECOND_MAC} netns {} type macvlan mode private",
        host.netns().name()
    ))?;
    host.netns().ip("link set eth1 up").map(drop)
}

#[test]
fn a_second_card_on_the_same_wire_serves_nobody() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let host = lab.host(1);
    plug_second_card(&lab, host)?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let arrivals = Arrivals::start(host.netns(), "eth1")?;
    let on_lan: Vec<IpAddr> = vec![addr::NEIGHBOUR4.into(), addr::NEIGHBOUR6.into(), "fe80::7".parse()?];
    let far = [client_v4(10), client_v6(10)].concat();
    let all = [on_lan.clone(), far].concat();
    ensure_second_card_is_closed(&lab, &arrivals, &all, "without an address")?;
    // Clients are still shared, and not one is lost.
    let lan = neighbour_v4(ASKERS).into_iter().map(IpAddr::from);
    let lan = lan.chain(neighbour_v6(ASKERS).into_iter().map(IpAddr::from)).collect();
    lab.neighbour().ip("neigh flush all")?;
    let log = Prober::at(lab.neighbour(), lan).udp()?;
    log.ensure_once("from the LAN")?;
    ensure!(log.shares().len() == 3, "{:?}", log.shares());

    host.netns().ip("addr add 192.0.2.77/24 dev eth1\naddr add 2001:db8:0:1::77/64 dev eth1 nodad")?;
    ensure_second_card_is_closed(&lab, &arrivals, &all, "with an address in the same subnet")?;
    // The shorter way to the LAN: what strict checks would go by.
    host.netns().ip("route replace 192.0.2.200/32 dev eth1\nroute replace 2001:db8:0:1::200/128 dev eth1")?;
    ensure_second_card_is_closed(&lab, &arrivals, &on_lan, "with the route to the asker")?;
    host.netns()
        .ip("addr flush dev eth1\naddr add 10.9.9.1/24 dev eth1\naddr add 2001:db8:9::1/64 dev eth1 nodad")?;
    let other = [all.clone(), vec!["10.9.9.7".parse()?, "2001:db8:9::7".parse()?]].concat();
    ensure_second_card_is_closed(&lab, &arrivals, &other, "with an address in another subnet")?;

    host.kill_agent();
    ensure_second_card_is_closed(&lab, &arrivals, &all, "with the agent killed")?;
    lab.wait_settled()?;
    ensure_second_card_is_closed(&lab, &arrivals, &all, "with the lease over")
}

#[test]
fn a_device_that_comes_later_is_closed_from_the_start() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(2))?;
    let host = lab.host(1);
    let arrivals = Arrivals::start(host.netns(), "eth1")?;
    host.signal_agent(nix::sys::signal::Signal::SIGSTOP)?;
    plug_second_card(&lab, host)?;
    let all = [client_v4(5), client_v6(5), vec![addr::NEIGHBOUR4.into()]].concat();
    ensure_second_card_is_closed(&lab, &arrivals, &all, "while the agent stands still")?;
    host.signal_agent(nix::sys::signal::Signal::SIGCONT)?;
    lab.wait_settled()?;
    ensure_second_card_is_closed(&lab, &arrivals, &all, "while the agent runs")
}

/// A namespace behind a host: a container.
fn container(lab: &Lab, name: &str, address: &[&str], gateways: &[&str]) -> Result<Netns> {
    let netns = Netns::create(&format!("{}{name}", lab.prefix()))?;
    netns.sysctl(&[("net.ipv6.conf.default.accept_dad", "0"), ("net.ipv6.conf.all.accept_dad", "0")])?;
    lab.host(1).netns().ip(&format!("link add {name} type veth peer name eth0 netns {}", netns.name()))?;
    lab.host(1).netns().ip(&format!("link set {name} up"))?;
    netns.ip("link set lo up\nlink set eth0 up")?;
    for address in address {
        netns.ip(&format!("addr add {address} dev eth0"))?;
    }
    for gateway in gateways {
        netns.ip(&format!("route add default via {gateway}"))?;
    }
    Ok(netns)
}

fn ensure_served(lab: &Lab, asker: &Netns, addresses: &[&str], who: &str) -> Result<()> {
    let clients = addresses.iter().map(|a| Ok(a.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
    let prober = Prober::at(asker, clients);
    // The agent opens the device when it sees it.
    lab.wait_until(&format!("{who} is served"), PATIENCE, || {
        prober.udp()?.ensure_once(who)?;
        Ok(true)
    })?;
    let udp = prober.udp()?;
    let tcp = prober.tcp()?;
    for log in [&udp, &tcp] {
        log.ensure_once(who)?;
        ensure!(log.shares().keys().all(|host| host == "h1"), "{who} is served by {:?}", log.shares());
    }
    Ok(())
}

#[test]
fn containers_of_the_host_and_the_host_itself_use_the_shared_addresses() -> Result<()> {
    let lab = Lab::start(&Plan::hosts(2))?;
    let host = lab.host(1);
    host.netns().sysctl(&[("net.ipv6.conf.default.accept_dad", "0")])?;
    host.netns()
        .ip("link add docker0 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0\n\
         addr add fd00:17::1/64 dev docker0 nodad")?;
    let bridged = container(&lab, "c1", &["172.17.0.2/16", "fd00:17::2/64"], &["172.17.0.1", "fd00:17::1"])
        .or_else(|_| container(&lab, "c1b", &["172.17.0.2/16"], &[]))?;
    host.netns().ip("link set c1 master docker0")?;
    let plain = container(&lab, "c2", &["10.99.0.2/30"], &["10.99.0.1"])?;
    host.netns().ip("addr add 10.99.0.1/30 dev c2")?;
    ensure_served(&lab, &bridged, &["172.17.0.2", "fd00:17::2"], "a container behind a bridge")?;
    ensure_served(&lab, &plain, &["10.99.0.2"], "a container behind a cable")?;
    let own = [host.v4().to_string(), host.v6().to_string(), "127.0.0.1".into()];
    ensure_served(&lab, host.netns(), &[&own[0], &own[1]], "the host itself")?;
    // After a restart too.
    host.kill_agent();
    host.start_agent()?;
    lab.wait_settled()?;
    ensure_served(&lab, &bridged, &["172.17.0.2", "fd00:17::2"], "a container after a restart")?;

    // A bridge into which a card is put leads to others.
    let arrivals = Arrivals::start(host.netns(), "docker0")?;
    plug_second_card(&lab, host)?;
    host.netns().ip("link set eth1 master docker0")?;
    lab.wait_until("the bridge is closed", PATIENCE, || {
        let set = host.netns().run("nft", &["list", "set", "inet", "onemac", "inside"])?;
        Ok(!set.contains("docker0") && set.contains("c2"))
    })?;
    let before = arrivals.passed()?;
    let log = Prober::at(&bridged, vec!["172.17.0.2".parse()?]).udp()?;
    ensure!(log.answered_once() == 0 && arrivals.passed()? == before, "served through a card");
    Ok(())
}

/// Requests come in by the service device, replies leave by another, as the default route says.
#[test]
fn a_reply_that_leaves_by_another_device_says_nothing_about_the_address() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let (switch, router) = (lab.switch().netns(), lab.router());
    switch.ip(&format!(
        "link add br2 type bridge\nlink set br2 up\n\
         link add away type veth peer name eth2 netns {}\nlink set away master br2 up",
        router.name()
    ))?;
    router
        .ip("link set eth2 up\naddr add 10.88.0.1/24 dev eth2\naddr add 2001:db8:88::1/64 dev eth2 nodad")?;
    for (number, host) in (1..).zip(lab.hosts()) {
        host.netns().sysctl(&[("net.ipv6.conf.default.accept_dad", "0")])?;
        switch.ip(&format!(
            "link add away{number} type veth peer name eth1 netns {}\nlink set away{number} master br2 up",
            host.netns().name()
        ))?;
        host.netns().ip(&format!(
            "link set eth1 up\naddr add 10.88.0.1{number}/24 dev eth1\n\
             addr add 2001:db8:88::1{number}/64 dev eth1 nodad\n\
             route replace default via 10.88.0.1\nroute replace default via 2001:db8:88::1"
        ))?;
    }
    let tap = Capture::start(router, "eth2")?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    for round in 0..3 {
        for host in lab.hosts() {
            host.netns().ip("neigh flush all")?;
        }
        let log = Prober::new(lab.clients(), 40, 40).udp()?;
        log.ensure_once(&format!("round {round}, UDP"))?;
        ensure!(log.shares().len() == 3, "{:?}", log.shares());
    }
    Prober::new(lab.clients(), 40, 40).tcp()?.ensure_once("TCP")?;
    let seen = tap.stop()?;
    let answers = seen.iter().filter_map(|f| frames::addresses(&f.data));
    let from_vip = answers.filter(|(from, _)| *from == IpAddr::from(addr::VIP4)).count();
    ensure!(from_vip > 0, "no reply left by the other device, so this shows nothing");
    for frame in &seen {
        let said = frames::arp(&frame.data).is_some_and(|arp| arp.sender == addr::VIP4);
        ensure!(!said, "a host spoke ARP in the shared address's name: {frame:?}");
        let asked = frames::icmp(&frame.data).is_some_and(|(kind, _)| [135, 136].contains(&kind))
            && frames::addresses(&frame.data).is_some_and(|(from, _)| from == IpAddr::from(addr::VIP6));
        ensure!(!asked, "a host spoke NDP in the shared address's name: {frame:?}");
    }
    for device in ["eth0", "eth2"] {
        for (vip, family) in [(addr::VIP4.to_string(), "-4"), (addr::VIP6.to_string(), "-6")] {
            let known = router.run("ip", &[family, "neigh", "show", "to", &vip, "dev", device])?;
            ensure!(
                !known.contains("lladdr") || known.contains(addr::CLUSTER_MAC),
                "the router has learned {known}"
            );
        }
    }
    // With the strict check such a route does not work: that is told, until it is over.
    let host = lab.host(2);
    let warned = || -> Result<bool> {
        let warnings = host.status()?["warnings"].to_string();
        Ok(warnings.contains("rp_filter") && warnings.contains("eth1"))
    };
    ensure!(!warned()?, "warned of what is all right");
    host.netns().sysctl(&[("net.ipv4.conf.eth0.rp_filter", "1"), ("net.ipv4.conf.all.rp_filter", "1")])?;
    // It is looked at with every change of routes.
    host.netns().ip("route add 10.66.0.0/16 via 10.88.0.1")?;
    lab.wait_until("the strict check is told", PATIENCE, warned)?;
    host.netns().ip("route replace default via 192.0.2.1")?;
    lab.wait_until("it is over", PATIENCE, || Ok(!warned()?))?;

    // What nobody should do is stopped as well: a program that announces the address by another device.
    let host = lab.host(1);
    host.netns().sysctl(&[("net.ipv4.conf.all.arp_announce", "0")])?;
    let tap = Capture::start(router, "eth2")?;
    host.netns().ip("neigh flush all")?;
    let vip = addr::VIP4.to_string();
    let _ = host.netns().command("ping").args(["-c", "1", "-W", "1", "-I", &vip, "10.88.0.1"]).output();
    let said = tap.count(|f| frames::arp(&f.data).is_some_and(|arp| arp.sender == addr::VIP4));
    ensure!(said == 0, "{said} ARP packets in the shared address's name");
    let guard = host.netns().run("nft", &["list", "chain", "arp", "onemac", "said"])?;
    ensure!(!guard.contains("packets 0 "), "the guard had nothing to do, so this shows nothing: {guard}");
    Ok(())
}

#[test]
fn settings_for_all_devices_that_are_in_the_way_go_to_each_device() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    let path = |device: &str, name: &str| format!("net.ipv4.conf.{device}.{name}");
    let read = |host: &Host, device: &str, name: &str| -> Result<u32> {
        let text = host.netns().within(|| {
            let path = format!("/proc/sys/net/ipv4/conf/{device}/{name}");
            std::fs::read_to_string(&path).with_context(|| path.clone())
        })?;
        Ok(text.trim().parse()?)
    };
    for host in lab.hosts() {
        host.netns().ip("link add other type veth peer name other2")?;
        for (name, value) in [("arp_filter", "1"), ("arp_ignore", "2"), ("proxy_arp", "1")] {
            host.netns().sysctl(&[(&path("all", name), value)])?;
        }
    }
    let keys: Vec<(&str, &str)> = ["all", "default", "eth0", "other", "lo"]
        .into_iter()
        .flat_map(|device| {
            ["arp_filter", "arp_ignore", "proxy_arp", "arp_announce"].map(|name| (device, name))
        })
        .collect();
    let all = |host: &Host| {
        keys.iter().map(|(device, name)| read(host, device, name)).collect::<Result<Vec<u32>>>()
    };
    let before = all(lab.host(1))?;
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    for host in lab.hosts() {
        for (name, value) in [("arp_filter", 1), ("arp_ignore", 2), ("proxy_arp", 1)] {
            ensure!(read(host, "all", name)? == 0, "{name} still stands for all devices");
            for device in ["default", "other", "lo"] {
                ensure!(read(host, device, name)? == value, "{name} of {device} is another");
            }
        }
        host.netns().ip("link add later type veth peer name later2")?;
        ensure!(read(host, "later", "arp_filter")? == 1, "a later device is without the filter");
    }
    for machine in [lab.router(), lab.neighbour()] {
        machine.ip("neigh flush all")?;
    }
    Prober::new(lab.clients(), 40, 40).udp()?.ensure_once("through the router")?;
    let lan = neighbour_v4(ASKERS).into_iter().map(IpAddr::from).collect();
    Prober::at(lab.neighbour(), lan).udp()?.ensure_once("from the LAN")?;
    let host = lab.host(1);
    host.stop_agent()?;
    ensure!(all(host)? == before, "after an orderly end: {:?} was {before:?} of {keys:?}", all(host)?);
    // What a killed agent has changed is put back by `clean`.
    host.start_agent()?;
    lab.wait_settled()?;
    host.kill_agent();
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 0, "{clean:?}");
    ensure!(all(host)? == before, "after the clean: {:?} was {before:?} of {keys:?}", all(host)?);
    Ok(())
}
