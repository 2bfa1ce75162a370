//! Firewalls of the host, with the ports open that docs/firewalls.md names: nft, iptables, and the programs ufw and
//! firewalld themselves. And what Docker does where it publishes a port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use onemac_test_env::dns::Prober;
use onemac_test_env::{
    Host, Lab, Netns, OwnFiles, Plan, Process, Server, addr, ask_udp, client_v4, client_v6, fetch_tcp,
    neighbour_v4, neighbour_v6, poll_until,
};

const PATIENCE: Duration = Duration::from_secs(20);
const SSH: u16 = 22;

/// What keeps the hosts' doors. Ssh to their own addresses is open all the time.
trait Firewall: Sized {
    /// Closes a host, but for gossip between the hosts. UDP that conntrack calls new may pass, where that can be said:
    /// it is not new, but untracked.
    fn close(host: &Host) -> Result<Self>;
    /// Lets DNS in, as docs/firewalls.md says.
    fn open(&self, host: &Host) -> Result<()>;
    /// Loads the same once more, as the operator does.
    fn reload(&self, host: &Host) -> Result<()>;
}

/// Closed but for the service, on the service device; with the reverse path checked as strictly as nft can.
struct Nft;

impl Nft {
    fn load(host: &Host, service: &str) -> Result<()> {
        let text = format!(
            "table inet firewall
            delete table inet firewall
            table inet firewall {{
                chain reverse_path {{
                    type filter hook prerouting priority raw; policy accept;
                    icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
                    fib saddr . mark . iif oif missing counter drop
                }}
                chain input {{
                    type filter hook input priority filter; policy drop;
                    ct state established,related accept
                    ct state invalid drop
                    iif lo accept
                    icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept
                    iifname \"eth0\" meta l4proto {{ icmp, ipv6-icmp }} accept
                    iifname \"eth0\" tcp dport 22 accept
                    iifname \"eth0\" ip saddr 192.0.2.0/24 udp dport 7946 accept
                    {service}
                }}
            }}"
        );
        host.netns().run("nft", &[&text]).map(drop)
    }
}

impl Firewall for Nft {
    fn close(host: &Host) -> Result<Self> {
        Self::load(host, "iifname \"eth0\" udp dport 53 ct state new accept")?;
        Ok(Self)
    }

    fn open(&self, host: &Host) -> Result<()> {
        Self::load(host, "iifname \"eth0\" udp dport 53 accept\niifname \"eth0\" tcp dport 53 accept")
    }

    fn reload(&self, host: &Host) -> Result<()> {
        self.open(host)
    }
}

/// The same in iptables. What it has before is replaced, as `netfilter-persistent` does it at boot.
struct Iptables;

impl Iptables {
    fn load(host: &Host, service: &str) -> Result<()> {
        let file = host.dir().join("rules");
        let solicited = "-A PREROUTING -p icmpv6 --icmpv6-type neighbor-solicitation -j ACCEPT\n";
        let own4 = "-A INPUT -i eth0 -p icmp -j ACCEPT\n\
                    -A INPUT -i eth0 -s 192.0.2.0/24 -p udp --dport 7946 -j ACCEPT\n";
        let own6 = "-A INPUT -p icmpv6 -j ACCEPT\n";
        for (program, before, own) in [("iptables-restore", "", own4), ("ip6tables-restore", solicited, own6)]
        {
            let text = format!(
                "*raw\n{before}-A PREROUTING -m rpfilter --invert -j DROP\nCOMMIT\n\
                 *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n\
                 -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
                 {own}-A INPUT -i eth0 -p tcp --dport 22 -j ACCEPT\n{service}COMMIT\n"
            );
            std::fs::write(&file, text)?;
            host.netns().run(program, &[&file.display().to_string()])?;
        }
        Ok(())
    }
}

impl Firewall for Iptables {
    fn close(host: &Host) -> Result<Self> {
        Self::load(host, "-A INPUT -i eth0 -p udp --dport 53 -m conntrack --ctstate NEW -j ACCEPT\n")?;
        Ok(Self)
    }

    fn open(&self, host: &Host) -> Result<()> {
        let (udp, tcp) = ("-p udp --dport 53 -j ACCEPT\n", "-p tcp --dport 53 -j ACCEPT\n");
        Self::load(host, &format!("-A INPUT -i eth0 {udp}-A INPUT -i eth0 {tcp}"))
    }

    fn reload(&self, host: &Host) -> Result<()> {
        self.open(host)
    }
}

/// The program ufw itself, as Debian sets it up.
struct Ufw(OwnFiles);

impl Firewall for Ufw {
    fn close(host: &Host) -> Result<Self> {
        let files = OwnFiles::new(host, &["/etc/ufw", "/etc/default", "/run"])?;
        files.copy(&["/etc/default/ufw"], "/etc/default")?;
        files.copy(&["/etc/ufw/sysctl.conf", "/usr/share/ufw/ufw.conf"], "/etc/ufw")?;
        for rules in ["before", "before6", "user", "user6", "after", "after6"] {
            files.copy(&[&format!("/usr/share/ufw/iptables/{rules}.rules")], "/etc/ufw")?;
        }
        std::fs::create_dir_all(files.at("/etc/ufw/applications.d"))?;
        for command in [
            "default deny incoming",
            "allow ssh",
            "allow proto udp from 192.0.2.0/24 to any port 7946",
            "--force enable",
        ] {
            files.run("ufw", &command.split(' ').collect::<Vec<_>>())?;
        }
        let status = files.run("ufw", &["status", "verbose"])?;
        ensure!(status.contains("Status: active") && status.contains("deny (incoming)"), "{status}");
        let rules = host.netns().run("ip6tables", &["-S"])?;
        ensure!(rules.contains("-P INPUT DROP") && rules.contains("ufw6-before-input"), "{rules}");
        Ok(Self(files))
    }

    fn open(&self, _: &Host) -> Result<()> {
        let opened = self.0.run("ufw", &["allow", "in", "on", "eth0", "to", "any", "port", "53"])?;
        ensure!(opened.contains("Rule added (v6)"), "{opened}");
        Ok(())
    }

    fn reload(&self, _: &Host) -> Result<()> {
        let said = self.0.run("ufw", &["reload"])?;
        ensure!(said.contains("Firewall reloaded"), "{said}");
        Ok(())
    }
}

/// The program firewalld itself with a message bus of its own. Devices that are in no zone are in the zone `drop`.
struct Firewalld {
    files: OwnFiles,
    _daemon: Process,
    _bus: Process,
}

/// Everybody on this bus is root of the lab.
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>
<allow receive_sender=\"*\"/></policy></busconfig>";

impl Firewalld {
    fn cmd(&self, arguments: &[&str]) -> Result<String> {
        self.files.run("firewall-cmd", arguments)
    }

    fn start(host: &Host) -> Result<Self> {
        let files = OwnFiles::new(host, &["/etc/firewalld", "/run", "/var/log"])?;
        files.copy(&["/etc/firewalld/firewalld.conf"], "/etc/firewalld")?;
        std::fs::create_dir_all(files.at("/run/dbus"))?;
        let (config, log) = (host.dir().join("bus.conf"), host.dir().join("firewalld.log"));
        std::fs::write(&config, BUS)?;
        let mut bus = files.command("dbus-daemon");
        bus.args(["--nofork", "--nopidfile", "--config-file"]).arg(&config);
        let bus = Process::start(bus, "dbus-daemon", &log, false)?;
        let socket = files.at("/run/dbus/system_bus_socket");
        poll_until(PATIENCE, || Ok(socket.exists())).context("no message bus")?;
        let mut daemon = files.command("firewalld");
        daemon.args(["--nofork", "--nopid", "--log-target=console"]);
        let mut daemon = Process::start(daemon, "firewalld", &log, false)?;
        let state = || files.run("firewall-cmd", &["--state"]).map(|said| said.trim() == "running");
        let up = poll_until(PATIENCE * 3, || Ok(state().unwrap_or(false) || !daemon.is_running()));
        ensure!(up.is_ok() && daemon.is_running(), "firewalld does not run: {}", daemon.log_tail(20));
        Ok(Self { files, _daemon: daemon, _bus: bus })
    }
}

impl Firewall for Firewalld {
    fn close(host: &Host) -> Result<Self> {
        let firewalld = Self::start(host)?;
        firewalld.cmd(&["--set-default-zone=drop"])?;
        for change in ["--change-interface=eth0", "--add-port=7946/udp"] {
            firewalld.cmd(&["--permanent", "--zone=public", change])?;
        }
        firewalld.reload(host)?;
        let rules = host.netns().run("nft", &["list", "table", "inet", "firewalld"])?;
        for rule in ["fib saddr . mark . iif oif missing drop", "goto filter_IN_drop", "tcp dport 22 accept"]
        {
            ensure!(rules.contains(rule), "firewalld made no rule {rule}:\n{rules}");
        }
        Ok(firewalld)
    }

    fn open(&self, _: &Host) -> Result<()> {
        self.cmd(&["--zone=public", "--add-service=dns"])?;
        self.cmd(&["--permanent", "--zone=public", "--add-service=dns"]).map(drop)
    }

    fn reload(&self, _: &Host) -> Result<()> {
        self.cmd(&["--reload"]).map(drop)
    }
}

fn ensure_all_served(lab: &Lab, when: &str, hosts: usize) -> Result<()> {
    for machine in [lab.router(), lab.neighbour()] {
        machine.ip("neigh flush all")?;
    }
    let far = Prober::new(lab.clients(), 40, 40);
    let near: Vec<IpAddr> = neighbour_v4(20)
        .into_iter()
        .map(IpAddr::from)
        .chain(neighbour_v6(20).into_iter().map(IpAddr::from))
        .collect();
    let near = Prober::at(lab.neighbour(), near);
    for (prober, who) in [(&far, "clients"), (&near, "machines on the LAN")] {
        let udp = prober.udp()?;
        udp.ensure_once(&format!("{when}: {who} by UDP"))?;
        ensure!(udp.shares().len() == hosts, "{when}: {:?}", udp.shares());
        prober.tcp()?.ensure_once(&format!("{when}: {who} by TCP"))?;
    }
    Ok(())
}

/// The shared addresses are found by all who ask for their MAC address, and nobody gets in.
fn ensure_shut(lab: &Lab) -> Result<()> {
    let asking = Prober::new(lab.clients(), 20, 20).watch(Duration::from_millis(200))?;
    lab.wait_until("the router knows where the shared addresses are", PATIENCE, || {
        let known = lab.router().ip("neigh show nud reachable")?;
        Ok([addr::VIP4.to_string(), addr::VIP6.to_string()].iter().all(|vip| known.contains(vip)))
    })?;
    // From here on every client asks some more times.
    std::thread::sleep(Duration::from_secs(1));
    let log = asking.stop()?;
    ensure!(log.queries() > 40 && log.unserved().len() == 40, "the firewall lets DNS in: {:?}", log.shares());
    for vip in [IpAddr::from(addr::VIP4), addr::VIP6.into()] {
        let vip = SocketAddr::new(vip, 53);
        let connected =
            lab.clients().within(|| Ok(TcpStream::connect_timeout(&vip, Duration::from_secs(2))))?;
        ensure!(connected.is_err(), "the firewall lets TCP in to {vip}");
    }
    Ok(())
}

/// Each host answers itself at its own addresses.
fn ensure_own_addresses(lab: &Lab) -> Result<()> {
    for host in lab.hosts() {
        for (client, own) in
            [(client_v4(1)[0], IpAddr::from(host.v4())), (client_v6(1)[0], IpAddr::from(host.v6()))]
        {
            let who = fetch_tcp(lab.clients(), client, SocketAddr::new(own, SSH), 1000, PATIENCE)?;
            ensure!(who == host.name(), "{who} answers at {own}");
        }
    }
    Ok(())
}

/// The agent's life, and the tables of onemac with all handles: whatever is made anew shows.
fn tables(host: &Host) -> Result<(u64, String)> {
    let life = host.status()?["incarnation"].as_u64().context("no incarnation in the status")?;
    let list = |family| host.netns().run("nft", &["-s", "-t", "-a", "list", "table", family, "onemac"]);
    let tables = ["netdev", "inet", "arp"].into_iter().map(list).collect::<Result<_>>()?;
    Ok((life, tables))
}

/// A reload touches nothing of onemac, and nobody is answered twice meanwhile.
fn ensure_left_alone(lab: &Lab, host: &Host, reload: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 0..5 {
        let (life, before) = tables(host)?;
        let asking = Prober::new(lab.clients(), 40, 40).watch(Duration::from_millis(100))?;
        let began = Instant::now();
        reload()?;
        let took = began.elapsed();
        let log = asking.stop()?;
        log.ensure_never_twice("during a reload")?;
        eprintln!(
            "{}: a reload took {took:?}; {} of {} queries lost",
            host.name(),
            log.lost(),
            log.queries()
        );
        let (life_after, after) = tables(host)?;
        if life == life_after {
            ensure!(before == after, "a reload changed the tables from\n{before}\nto\n{after}");
            return Ok(());
        }
        // A host whose agent had to wait too long for a processor begins anew, with new tables.
        lab.wait_settled()?;
    }
    bail!("{} never stayed as it was for a reload", host.name())
}

/// Closed, no client is answered. Open, every client is answered once, before and after a move; and a reload touches
/// nothing of onemac.
fn ensure_works_behind<F: Firewall>() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    lab.start_nameservers()?;
    let _ssh = lab.hosts().iter().map(|host| host.start_server(SSH)).collect::<Result<Vec<_>>>()?;
    let firewalls = lab.hosts().iter().map(F::close).collect::<Result<Vec<_>>>()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    ensure_shut(&lab)?;
    ensure_own_addresses(&lab)?;
    let each = || lab.hosts().iter().zip(&firewalls);
    each().try_for_each(|(host, firewall)| firewall.open(host))?;
    lab.wait_settled()?;
    ensure_all_served(&lab, "at the start", 3)?;
    ensure_own_addresses(&lab)?;

    for (host, firewall) in each() {
        ensure_left_alone(&lab, host, || firewall.reload(host))?;
    }
    lab.wait_settled()?;
    let drain = lab.host(1).onemac(&["drain"])?;
    ensure!(drain.code == 0, "{drain:?}");
    lab.wait_settled()?;
    ensure_all_served(&lab, "after the move", 2)?;
    ensure_own_addresses(&lab)
}

#[test]
fn behind_a_closed_nft_firewall_with_a_strict_reverse_path() -> Result<()> {
    ensure_works_behind::<Nft>()
}

#[test]
fn behind_iptables_with_the_rpfilter_match() -> Result<()> {
    ensure_works_behind::<Iptables>()
}

#[test]
fn behind_ufw() -> Result<()> {
    ensure_works_behind::<Ufw>()
}

#[test]
fn behind_firewalld() -> Result<()> {
    ensure_works_behind::<Firewalld>()
}

#[test]
fn behind_the_kernels_strict_reverse_path_filter() -> Result<()> {
    let lab = Lab::build(&Plan::hosts(3))?;
    for host in lab.hosts() {
        host.netns().sysctl(&[
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.conf.default.rp_filter", "1"),
            ("net.ipv4.conf.eth0.rp_filter", "1"),
        ])?;
    }
    lab.start_nameservers()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    ensure_all_served(&lab, "at the start", 3)?;
    let drain = lab.host(1).onemac(&["drain"])?;
    ensure!(drain.code == 0, "{drain:?}");
    lab.wait_settled()?;
    ensure_all_served(&lab, "after the move", 2)
}

const PORT: u16 = 9000;

/// The rules that Docker's own documentation of its rules (moby, `iptablesdoc`) shows for the default network and
/// `docker run -p 9000:9000 -p 9000:9000/udp`; the one in the table raw since Docker 28. Docker itself is not run.
const DOCKER: &str = "*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:9000
-A DOCKER ! -i docker0 -p udp -m udp --dport 9000 -j DNAT --to-destination 172.17.0.2:9000
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 9000 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p udp -m udp --dport 9000 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
*raw
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
";

/// The container, and the rules.
fn publish(lab: &Lab, host: &Host) -> Result<Server> {
    let netns = Netns::create(&format!("{}docker-{}", lab.prefix(), host.name()))?;
    host.netns().ip(&format!(
        "link add docker0 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0\n\
         link add cable type veth peer name eth0 netns {}\nlink set cable master docker0 up",
        netns.name()
    ))?;
    netns.ip(
        "link set lo up\nlink set eth0 up\naddr add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1",
    )?;
    host.netns().sysctl(&[("net.ipv4.ip_forward", "1")])?;
    let file = host.dir().join("docker");
    std::fs::write(&file, DOCKER)?;
    host.netns().run("iptables-restore", &["--noflush", &file.display().to_string()])?;
    Server::start(&netns, &host.name(), &["172.17.0.2".parse()?], PORT)
}

fn docker(services: &str) -> Result<(Lab, Vec<Server>)> {
    let mut plan = Plan::hosts(3);
    services.clone_into(&mut plan.definition.more);
    let lab = Lab::build(&plan)?;
    let servers = lab.hosts().iter().map(|host| publish(&lab, host)).collect::<Result<Vec<_>>>()?;
    lab.start_agents()?;
    lab.wait_settled()?;
    Ok((lab, servers))
}

/// Who serves clients through the ports that are published, before and after a move.
fn ensure_published(lab: &Lab, ask: impl Fn(IpAddr, SocketAddr) -> Result<String>) -> Result<()> {
    let everybody = || -> Result<BTreeSet<String>> {
        let vip = SocketAddr::new(addr::VIP4.into(), PORT);
        client_v4(24).into_iter().map(|client| ask(client, vip).with_context(|| client.to_string())).collect()
    };
    let who = everybody()?;
    ensure!(who.len() == 3, "served by {who:?}");
    let drain = lab.host(1).onemac(&["drain"])?;
    ensure!(drain.code == 0, "{drain:?}");
    lab.wait_settled()?;
    let who = everybody()?;
    ensure!(who.len() == 2 && !who.contains("h1"), "after the move served by {who:?}");
    // By its own address each host is as ever.
    let who = ask(client_v4(1)[0], SocketAddr::new(lab.host(1).v4().into(), PORT))?;
    ensure!(who == "h1", "{who}");
    Ok(())
}

#[test]
fn a_port_that_docker_publishes_is_served_on_the_shared_address() -> Result<()> {
    let (lab, _servers) = docker("")?;
    ensure_published(&lab, |client, server| fetch_tcp(lab.clients(), client, server, 20_000, PATIENCE))?;
    // Datagrams to the shared address are not tracked, so not translated.
    let vip = SocketAddr::new(addr::VIP4.into(), PORT);
    let answer = ask_udp(lab.clients(), client_v4(1)[0], vip, 50, Duration::from_secs(2));
    ensure!(answer.is_err(), "{answer:?}");
    let own = SocketAddr::new(lab.host(1).v4().into(), PORT);
    let (who, _) = ask_udp(lab.clients(), client_v4(1)[0], own, 50, PATIENCE)?;
    ensure!(who == "h1", "{who}");
    Ok(())
}

#[test]
fn a_udp_port_that_docker_publishes_is_served_where_the_service_is_tracked() -> Result<()> {
    let service = "{ name: app, ports: [9000], protocols: [tcp, udp], track: always }";
    let (lab, _servers) = docker(&format!("services:\n  - {service}\n"))?;
    ensure_published(&lab, |client, server| {
        ask_udp(lab.clients(), client, server, 50, PATIENCE).map(|(who, _)| who)
    })
}
