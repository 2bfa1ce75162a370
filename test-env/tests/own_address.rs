//! The host's own address, its own connections, and everybody else's packets: undisturbed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onemac_test_env::frames::{self, Injector, mac};
use onemac_test_env::{Capture, Host, Lab, Pinger, Plan, addr, client_v4, client_v6};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9000;

/// A connection to a host's own address that is used now and again.
struct Line {
    stream: BufReader<TcpStream>,
    what: String,
}

impl Line {
    fn open(lab: &Lab, client: IpAddr, host: &Host, address: IpAddr) -> Result<Self> {
        let what = format!("the connection of {client} to {address}");
        let stream = lab.clients().within(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address((address, PORT).into()),
                socket2::Type::STREAM,
                None,
            )?;
            socket.bind(&SocketAddr::new(client, 0).into())?;
            socket.connect_timeout(&SocketAddr::new(address, PORT).into(), PATIENCE)?;
            Ok(TcpStream::from(socket))
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = Self { stream: BufReader::new(stream), what };
        let mut name = String::new();
        line.stream.read_line(&mut name)?;
        ensure!(name.trim() == host.name(), "{name} answers at {address}");
        Ok(line)
    }

    fn use_it(&mut self, when: &str) -> Result<()> {
        let mut exchange = || -> Result<()> {
            writeln!(self.stream.get_mut(), "1000")?;
            self.stream.read_exact(&mut [0; 1000])?;
            Ok(())
        };
        exchange().with_context(|| format!("{} broke {when}", self.what))
    }
}

#[test]
fn a_hosts_own_address_is_undisturbed_through_start_stop_kill_and_clean() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(2))?;
    let host = lab.host(1);
    let _server = host.start_server(PORT)?;
    let addresses: [IpAddr; 2] = [host.v4().into(), host.v6().into()];
    let mut lines = vec![
        Line::open(&lab, client_v4(1)[0], host, addresses[0])?,
        Line::open(&lab, client_v6(1)[0], host, addresses[1])?,
    ];
    let mut pings = Vec::new();
    for address in addresses {
        pings.push(Pinger::start(lab.clients(), address, lab.dir())?);
        pings.push(Pinger::start(lab.neighbour(), address, lab.dir())?);
        // And outwards.
        let router: IpAddr = if address.is_ipv4() { addr::ROUTER4.into() } else { addr::ROUTER6.into() };
        pings.push(Pinger::start(host.netns(), router, lab.dir())?);
    }
    let mut check = |when: &str| {
        for line in &mut lines {
            line.use_it(when)?;
        }
        // A new connection too; the neighbour has to ask for the host's MAC address again.
        lab.neighbour().ip("neigh flush all")?;
        for (client, address) in [(client_v4(2)[1], addresses[0]), (client_v6(2)[1], addresses[1])] {
            Line::open(&lab, client, host, address)
                .and_then(|mut line| line.use_it(when))
                .context(when.to_owned())?;
        }
        Ok::<(), anyhow::Error>(())
    };

    check("before the start")?;
    lab.start_agents()?;
    check("during the start")?;
    lab.wait_settled()?;
    check("while serving")?;
    host.stop_agent()?;
    check("after the stop")?;
    host.start_agent()?;
    lab.wait_settled()?;
    host.kill_agent();
    check("after the kill")?;
    host.start_agent()?;
    lab.wait_settled()?;
    check("after the take-over")?;
    host.kill_agent();
    let clean = host.onemac(&["clean"])?;
    ensure!(clean.code == 0, "{clean:?}");
    check("after the clean")?;
    pings.into_iter().try_for_each(Pinger::ensure_undisturbed)
}

#[test]
fn hosts_that_are_routers_forward_nothing_that_was_flooded_to_them() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    for host in lab.hosts() {
        // The strictest case: a router, with redirects allowed as by default.
        host.netns().sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    }
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    let taps = lab
        .hosts()
        .iter()
        .map(|host| Capture::start(lab.switch().netns(), &host.port()))
        .collect::<Result<Vec<_>>>()?;

    // A switch floods what it does not know: frames for the cluster MAC whose packet is for somebody else.
    let wire = Injector::open(lab.neighbour(), "eth0")?;
    let (us, cluster) = (mac(addr::NEIGHBOUR_MAC), mac(addr::CLUSTER_MAC));
    let sources: [IpAddr; 2] = [addr::NEIGHBOUR4.into(), addr::NEIGHBOUR6.into()];
    let mut others = Vec::new();
    others.extend([client_v4(3), client_v6(3)].concat());
    others.extend([
        IpAddr::from(addr::ROUTER4),
        addr::ROUTER6.into(),
        lab.host(1).v4().into(),
        lab.host(1).v6().into(),
    ]);
    for target in &others {
        let source = sources[usize::from(target.is_ipv6())];
        for _ in 0..5 {
            wire.send(&frames::udp_datagram(us, cluster, (source, 4000), (*target, 4001), b"astray"))?;
        }
    }
    // The frames have arrived when one for the shared address behind them is answered.
    let prober = onemac_test_env::dns::Prober::at(
        lab.neighbour(),
        vec![addr::NEIGHBOUR4.into(), addr::NEIGHBOUR6.into()],
    );
    prober.udp()?.ensure_once("UDP from the LAN")?;

    for (tap, host) in taps.into_iter().zip(lab.hosts()) {
        let frames_seen = tap.stop()?;
        let astray = |frame: &onemac_test_env::Frame| frame.data.windows(6).any(|window| window == b"astray");
        ensure!(
            frames_seen.iter().any(|frame| frame.outgoing && astray(frame)),
            "nothing reached {}",
            host.name()
        );
        for frame in frames_seen.iter().filter(|frame| !frame.outgoing) {
            // Copies, redirects (ICMP type 5, ICMPv6 type 137), errors that quote the packet: all would show.
            ensure!(!astray(frame), "{} sent a copy, or an answer that quotes it: {frame:?}", host.name());
            let kind = frames::icmp(&frame.data).map(|(kind, _)| kind);
            let v4 = frames::addresses(&frame.data).is_some_and(|(from, _)| from.is_ipv4());
            ensure!(kind != Some(if v4 { 5 } else { 137 }), "{} sent a redirect", host.name());
        }
    }
    Ok(())
}
