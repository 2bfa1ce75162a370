//! Two hosts and a client on a switch, each in a network namespace of its own, with the shared addresses,
//! rules and servers of real hosts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
    unistd::gettid,
};
use onemac_rules::{Service, Standing, Wanted, netlink::Netfilter, ruleset, sysctl};
use socket2::{Domain, Socket, Type};

use super::{frame::*, *};

/// Port of the echo servers.
pub const PORT: u16 = 7;
/// How often those that wait look whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// A network namespace, and the thread that lives in it.
pub struct Netns {
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
    /// Names it, for `ip`.
    pub path: String,
}

impl Netns {
    pub fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (said, path) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run the tests as root");
            said.send(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())).unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            inbox.into_iter().for_each(|job| job());
        });
        Self { jobs: Some(jobs), thread: Some(thread), path: path.recv().unwrap() }
    }

    /// Does it in the namespace. Threads that it starts stay there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || drop(done.send(catch_unwind(AssertUnwindSafe(job))));
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// Ends the servers when it goes.
#[derive(Default)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

pub struct Host {
    pub netns: Netns,
    pub mac: MacAddr,
    wanted: Wanted,
    _servers: Threads,
}

pub struct Lab {
    pub a: Host,
    pub b: Host,
    pub client: Netns,
    pub switch: Netns,
}

/// The client's addresses.
pub fn client4(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 100 + n).into()
}

pub fn client6(n: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n.into()).into()
}

pub const CLIENTS: u8 = 16;
pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

impl Lab {
    /// All slices are own at A and foreign at B.
    pub fn new(tracked: bool) -> Self {
        let switch = Netns::new();
        switch.run(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            run("ip", &["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
            run("ip", &["link", "set", "br0", "up"]);
        });
        let client = Netns::new();
        plug(&switch, &client, "c", CLIENT_MAC);
        client.run(|| {
            for n in 0..CLIENTS {
                run("ip", &["address", "add", &format!("{}/24", client4(n)), "dev", DEVICE]);
                run("ip", &["address", "add", &format!("{}/64", client6(n)), "dev", DEVICE, "nodad"]);
            }
        });
        let host = |name: &'static str, n: u8, standing| Host::new(&switch, name, n, all(standing, tracked));
        let (a, b) = (host("a", 0xa, Standing::Own), host("b", 0xb, Standing::Foreign));
        Self { a, b, client, switch }
    }

    /// What the switch has learned.
    pub fn learned(&self) -> Vec<(String, String)> {
        let text = self.switch.run(|| run("bridge", &["fdb", "show", "br", "br0"]));
        let entry = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            (!line.contains("permanent")).then(|| (words[0].to_owned(), words[2].to_owned()))
        };
        text.lines().filter_map(entry).collect()
    }
}

/// A cable from the switch.
fn plug(switch: &Netns, to: &Netns, name: &str, mac: MacAddr) {
    let (port, path, mac) = (format!("p{name}"), to.path.clone(), mac.to_string());
    switch.run(move || {
        let peer = ["peer", "name", DEVICE, "address", &mac, "netns", &path];
        run("ip", &[&["link", "add", &port, "type", "veth"][..], &peer].concat());
        run("ip", &["link", "set", &port, "master", "br0", "up"]);
    });
    to.run(|| {
        // Without a link-local address nobody is asked for theirs: not for a second, then.
        for setting in ["accept_dad", "dad_transmits"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/{setting}"), "0").unwrap();
        }
        run("ip", &["link", "set", DEVICE, "up"]);
    });
}

impl Host {
    fn new(switch: &Netns, name: &'static str, n: u8, service: Service) -> Self {
        let netns = Netns::new();
        let mac = MacAddr([2, 0, 0, 0, 0, n]);
        let tracked = service.tracked;
        let wanted =
            Wanted { device_mac: mac, services: vec![service], ..wanted(&["192.0.2.53", "2001:db8::53"]) };
        plug(switch, &netns, name, mac);
        let rules = ruleset(&wanted);
        netns.run(move || {
            Netfilter::open().unwrap().install(&rules).unwrap();
            run("ip", &["address", "add", &format!("192.0.2.{n}/24"), "dev", DEVICE]);
            run("ip", &["address", "add", &format!("2001:db8::{n:x}/64"), "dev", DEVICE, "nodad"]);
            let shared = "onemac0";
            let mac = CLUSTER_MAC.to_string();
            let device = ["link", "add", shared, "link", DEVICE, "address", &mac];
            run("ip", &[&device[..], &["type", "macvlan", "mode", "private"]].concat());
            for setting in sysctl::wanted(DEVICE, shared, true, true, tracked) {
                std::fs::write(format!("/proc/sys/{}", setting.path), setting.value.to_string()).unwrap();
            }
            run("ip", &["link", "set", shared, "up"]);
            run("ip", &["address", "add", "192.0.2.53/32", "dev", shared]);
            run("ip", &["address", "add", "2001:db8::53/128", "dev", shared, "nodad"]);
            // Before that it sends nothing, not even answers.
            wait_until(|| run("ip", &["link", "show", shared]).contains("state UP"));
        });
        let servers = netns.run(move || {
            let mut servers = Threads::default();
            for vip in [IpAddr::from(VIP4), VIP6.into()] {
                serve_datagrams(&mut servers, n, SocketAddr::new(vip, PORT));
                serve_connections(&mut servers, n, SocketAddr::new(vip, PORT));
            }
            servers
        });
        Self { netns, mac, wanted, _servers: servers }
    }

    /// Replaces all rules by the same, as an agent does that takes over, or by those for another address and
    /// another service as well.
    pub fn reinstall(&self, more: bool) {
        let mut wanted = self.wanted.clone();
        if more {
            wanted.vips.push(Ipv4Addr::new(192, 0, 2, 54).into());
            let ports = Some(vec![(onemac_rules::Protocol::Tcp, 25)]);
            wanted.services.push(Service { name: "mail".into(), ports, ..wanted.services[0].clone() });
        }
        let rules = ruleset(&wanted);
        self.netns.run(move || Netfilter::open().unwrap().install(&rules).unwrap());
    }

    /// Gives all slices another standing.
    pub fn becomes(&mut self, standing: Standing) {
        self.becomes_with(standing, &[]);
    }

    /// The same, while connections of these clients live elsewhere.
    pub fn becomes_with(&mut self, standing: Standing, elsewhere: &[SocketAddr]) {
        let services = vec![all(standing, self.wanted.services[0].tracked)];
        let elsewhere = elsewhere.iter().map(|client| (client.ip(), client.port())).collect();
        let to = Wanted { services, elsewhere, ..self.wanted.clone() };
        let from = std::mem::replace(&mut self.wanted, to.clone());
        let to = Wanted { lease: None, ..to };
        self.netns.run(move || Netfilter::open().unwrap().change(&from, &to).unwrap());
    }
}

/// The echo server's address for a client.
pub fn vip(of: IpAddr) -> SocketAddr {
    let vip = if of.is_ipv4() { IpAddr::from(VIP4) } else { VIP6.into() };
    SocketAddr::new(vip, PORT)
}

/// Opens a connection to the echo server from that address and port; port 0 is any.
pub fn connect(from: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&vip(from.ip()).into())?;
    Ok(socket.into())
}

/// Waits for it, however busy the machine is.
pub fn wait_until(condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < patience, "waited for a minute");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Room for all that comes while a thread does not run, however busy the machine is.
pub fn roomy(socket: &UdpSocket) {
    setsockopt(socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
}

/// Answers each datagram with the number of the host and what came.
fn serve_datagrams(servers: &mut Threads, host: u8, at: SocketAddr) {
    let socket = UdpSocket::bind(at).unwrap();
    roomy(&socket);
    socket.set_read_timeout(Some(LOOK)).unwrap();
    let stop = Arc::clone(&servers.stop);
    servers.threads.push(thread::spawn(move || {
        let mut buffer = [0; 1500];
        while !stop.load(Ordering::Relaxed) {
            let Ok((len, from)) = socket.recv_from(&mut buffer[1..]) else { continue };
            buffer[0] = host;
            let _ = socket.send_to(&buffer[..=len], from);
        }
    }));
}

/// Says the number of the host, and then whatever it hears.
fn serve_connections(servers: &mut Threads, host: u8, at: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::clone(&servers.stop);
    servers.threads.push(thread::spawn(move || {
        let mut threads = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let stop = Arc::clone(&stop);
                    threads.push(thread::spawn(move || drop(echo(stream, host, &stop))));
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }));
}

fn echo(mut stream: TcpStream, host: u8, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[host])?;
    let mut buffer = [0; 1500];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => stream.write_all(&buffer[..len])?,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
