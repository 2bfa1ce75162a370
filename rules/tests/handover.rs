//! A whole hand-over of all slices from one host to another, step by step as docs/ruleset.md tells it, with
//! real servers and clients: no datagram is lost or answered twice, no connection breaks, no new one waits.
//! Needs root.

#![allow(clippy::unwrap_used)] // clippy takes only functions marked #[test] for tests

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{frame::*, lab::*, *};
use nix::libc;
use onemac_rules::{MacAddr, Standing};

/// Longer than any busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two steps: many packets.
const STEP: Duration = Duration::from_millis(150);

/// The hosts that answered each number.
type Answers = BTreeMap<u64, Vec<u8>>;

/// Sends numbered datagrams from several addresses until told to stop, and waits for the answers.
fn datagrams(stop: &AtomicBool) -> Answers {
    let addresses = (0..4).flat_map(|n| [client4(n), client6(n)]);
    let sockets: Vec<UdpSocket> = addresses
        .map(|from| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
            roomy(&socket);
            socket.connect(vip(from)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut answers = Answers::new();
    let hear = |answers: &mut Answers| {
        for socket in &sockets {
            let mut buffer = [0; 64];
            while let Ok(len) = socket.recv(&mut buffer) {
                let number = u64::from_be_bytes(buffer[1..len].try_into().unwrap());
                answers.get_mut(&number).unwrap().push(buffer[0]);
            }
        }
    };
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for socket in &sockets {
            answers.insert(number, Vec::new());
            socket.send(&number.to_be_bytes()).unwrap();
            number += 1;
        }
        hear(&mut answers);
        thread::sleep(Duration::from_millis(1));
    }
    // All that is still on its way, and what should not be.
    let patience = Instant::now() + PATIENCE;
    while answers.values().any(Vec::is_empty) && Instant::now() < patience {
        hear(&mut answers);
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200));
    hear(&mut answers);
    answers
}

/// How many segments the connection has sent again, SYNs among them.
fn sent_again(stream: &TcpStream) -> u32 {
    // SAFETY: all its fields are numbers, and zero is one.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the socket is open, and the buffer has the length that is given.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    info.tcpi_total_retrans
}

struct Connection {
    stream: TcpStream,
    host: u8,
}

impl Connection {
    /// Opens one, and minds if the first SYN is not answered.
    fn open(from: IpAddr) -> Self {
        let this = Self::open_patiently(from);
        // The answer to a SYN is the kernel's own doing: no busy machine delays it by a second.
        assert_eq!(sent_again(&this.stream), 0, "{from}: the SYN was not answered");
        this
    }

    fn open_patiently(from: IpAddr) -> Self {
        let mut stream = connect(SocketAddr::new(from, 0)).unwrap_or_else(|e| panic!("{from}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut host = [0];
        stream.read_exact(&mut host).unwrap_or_else(|e| panic!("{from}: {e}"));
        Self { stream, host: host[0] }
    }

    /// One byte each way.
    fn ping(&mut self) {
        let mut byte = [42];
        self.stream.write_all(&byte).unwrap();
        self.stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [42]);
    }
}

/// Opens connections one after the other until told to stop: the hosts that took them.
fn newcomers(stop: &AtomicBool) -> Vec<u8> {
    let mut hosts = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n = (n + 1) % CLIENTS;
        for from in [client4(n), client6(n)] {
            let mut connection = Connection::open(from);
            connection.ping();
            hosts.push(connection.host);
        }
        thread::sleep(Duration::from_millis(2));
    }
    hosts
}

/// What a thread in the client's namespace does until the end of the test.
struct Crowd<T> {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<T>,
}

impl<T: Send + 'static> Crowd<T> {
    fn start(lab: &Lab, job: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = lab.client.run(move || thread::spawn(move || job(&told)));
        Self { stop, thread }
    }

    fn end(self) -> T {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The numbers of the hosts in the lab.
const A: u8 = 0xa;
const B: u8 = 0xb;

fn judge(answers: &Answers) {
    let wrong: Vec<_> = answers.iter().filter(|(_, hosts)| hosts.len() != 1).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), answers.len());
    let hosts: Vec<u8> = answers.values().map(|hosts| hosts[0]).collect();
    assert_eq!((hosts.first(), hosts.last()), (Some(&A), Some(&B)));
    println!(
        "{} datagrams, {} of them answered by B",
        hosts.len(),
        hosts.iter().filter(|h| **h == B).count()
    );
}

fn switch_learned_nothing_wrong(lab: &Lab) {
    let learned = lab.learned();
    let of = |mac: MacAddr| -> Vec<&str> {
        learned.iter().filter(|(m, _)| *m == mac.to_string()).map(|(_, port)| port.as_str()).collect()
    };
    assert_eq!(of(CLUSTER_MAC), [""; 0], "the shared address has a place");
    assert_eq!(of(CLIENT_MAC), ["pc"]);
    assert_eq!((of(lab.a.mac), of(lab.b.mac)), (vec!["pa"], vec!["pb"]));
}

#[test]
fn nothing_is_lost_doubled_or_broken_in_a_handover() {
    let mut lab = Lab::new(true);
    // These live on A, and go on to.
    let rounds = Arc::new(AtomicU32::new(0));
    let done = Arc::clone(&rounds);
    let living = Crowd::start(&lab, move |stop| {
        let addresses = (0..8).flat_map(|n| [client4(n), client6(n)]);
        let mut connections: Vec<Connection> = addresses.map(Connection::open).collect();
        while !stop.load(Ordering::Relaxed) {
            connections.iter_mut().for_each(Connection::ping);
            done.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(2));
        }
        connections.iter().map(|c| c.host).collect::<Vec<_>>()
    });
    let patience = Instant::now() + PATIENCE;
    while rounds.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < patience && !living.thread.is_finished(), "no connections to A");
        thread::sleep(Duration::from_millis(1));
    }
    let newcomers = Crowd::start(&lab, newcomers);
    let datagrams = Crowd::start(&lab, datagrams);
    thread::sleep(STEP);
    hand_over(&mut lab, Standing::Moving, Standing::Shared);
    let before = rounds.load(Ordering::Relaxed);
    thread::sleep(STEP);
    judge(&datagrams.end());
    let hosts = newcomers.end();
    assert_eq!((hosts.first(), hosts.last()), (Some(&A), Some(&B)));
    assert!(hosts.is_sorted(), "from A to B, and not back: {hosts:?}");
    println!("{} new connections, {} of them by B", hosts.len(), hosts.iter().filter(|h| **h == B).count());
    let patience = Instant::now() + PATIENCE;
    while rounds.load(Ordering::Relaxed) < before + 10 {
        assert!(Instant::now() < patience && !living.thread.is_finished(), "they do not go on");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(living.end(), [A; 16]);
    switch_learned_nothing_wrong(&lab);
}

/// All slices go from A to B, a step at a time; in the end each host does this with them.
fn hand_over(lab: &mut Lab, a: Standing, b: Standing) {
    let b_mac = lab.b.mac;
    lab.b.becomes(Standing::Incoming);
    thread::sleep(STEP);
    lab.a.becomes(Standing::Relaying(b_mac));
    thread::sleep(STEP);
    lab.b.becomes(Standing::Taking);
    thread::sleep(STEP);
    lab.a.becomes(a);
    thread::sleep(STEP);
    lab.b.becomes(b);
    thread::sleep(STEP);
}

#[test]
fn without_connections_to_follow_nothing_is_lost_or_doubled_either() {
    let mut lab = Lab::new(false);
    let datagrams = Crowd::start(&lab, datagrams);
    thread::sleep(STEP);
    hand_over(&mut lab, Standing::Foreign, Standing::Own);
    judge(&datagrams.end());
    switch_learned_nothing_wrong(&lab);
    for host in [&lab.a, &lab.b] {
        let path = "/proc/sys/net/netfilter/nf_conntrack_count";
        let count = host.netns.run(move || std::fs::read_to_string(path).unwrap_or("0".into()));
        assert_eq!(count.trim(), "0");
    }
}

/// An agent that takes over or has a new definition installs its rules: no instant without the rules that accept, or without the mask.
#[test]
fn nothing_is_lost_while_the_rules_are_replaced() {
    let mut lab = Lab::new(true);
    let newcomers = Crowd::start(&lab, newcomers);
    let datagrams = Crowd::start(&lab, datagrams);
    for standing in [Standing::Own, Standing::Shared] {
        lab.a.becomes(standing);
        for round in 0..40 {
            lab.a.reinstall(round % 2 == 1);
            thread::sleep(Duration::from_millis(5));
        }
    }
    let answers = datagrams.end();
    let wrong: Vec<_> = answers.iter().filter(|(_, hosts)| **hosts != [A]).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), answers.len());
    println!("{} datagrams, {} connections", answers.len(), newcomers.end().len());
    assert!(!lab.learned().iter().any(|(mac, _)| *mac == CLUSTER_MAC.to_string()), "unmasked");
}

/// SYNs of one connection on both sides of the move: the new owner takes it, unless an answer of the old one
/// comes to the client first; then that holds. Neither resets it.
#[test]
fn half_open_connections_are_opened_by_either_host() {
    for answers_again in [0, 5] {
        let mut lab = Lab::new(true);
        lab.a.netns.run(move || {
            std::fs::write("/proc/sys/net/ipv4/tcp_synack_retries", answers_again.to_string()).unwrap();
        });
        lab.client.run(|| {
            let deaf = "table inet deaf {\nchain in {\ntype filter hook prerouting priority -300;\n\
                        tcp sport 7 tcp flags syn / fin,syn,rst counter drop\n}\n}\n";
            nft_load(deaf, &[]).unwrap();
        });
        let opening = lab.client.run(|| {
            let open = |from: IpAddr| {
                thread::spawn(move || {
                    let mut connection = Connection::open_patiently(from);
                    connection.ping();
                    connection.host
                })
            };
            [client4(1), client6(1)].map(open)
        });
        let half_open =
            |host: &Host| host.netns.run(|| run("ss", &["-Htn", "state", "syn-recv"]).lines().count());
        wait_until(|| half_open(&lab.a) == 2);
        let b_mac = lab.b.mac;
        lab.b.becomes(Standing::Incoming);
        lab.a.becomes(Standing::Relaying(b_mac));
        lab.client.run(|| run("nft", &["delete", "table", "inet", "deaf"]));
        let hosts = opening.map(|thread| thread.join().unwrap());
        if answers_again == 0 {
            assert_eq!(hosts, [B, B]);
        } else {
            println!("opened by {hosts:?}");
        }
    }
}

/// A router tells the sender that a packet was too large: the host on which the connection lives hears it,
/// though the slice is another's.
#[test]
fn errors_about_a_moving_connection_reach_its_host() {
    let mut lab = Lab::new(true);
    let clients = [client4(1), client6(1)];
    let mut connections = lab.client.run(move || clients.map(Connection::open));
    lab.b.becomes(Standing::Shared);
    lab.a.becomes(Standing::Moving);
    let heard = |host: &Host| {
        host.netns.run(|| {
            let count = |file: &str, name: &str| -> u64 {
                let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
                let line = text.lines().find(|l| l.starts_with(name)).unwrap();
                line.split_whitespace().last().unwrap().parse().unwrap()
            };
            // The third type of message, and "packet too big".
            [count("snmp6", "Icmp6InPktTooBigs"), unreachable_heard()]
        })
    };
    let ports: Vec<u16> = connections.iter().map(|c| c.stream.local_addr().unwrap().port()).collect();
    let before = heard(&lab.a);
    lab.client.run(move || {
        let socket = wire::frame_socket();
        let (IpAddr::V4(client4), IpAddr::V6(client6)) = (clients[0], clients[1]) else { panic!() };
        let from_vip = |port: u16| [&PORT.to_be_bytes()[..], &port.to_be_bytes(), &[0; 16]].concat();
        let quoted = ip4(VIP4, client4, TCP, 0, &from_vip(ports[0]));
        let error = icmp4("192.0.2.200".parse().unwrap(), 3, &quoted);
        wire::send(&socket, DEVICE, &for_cluster(ETH_IP, &error));
        let quoted = ip6(VIP6, client6, TCP, &from_vip(ports[1]));
        let error = icmp6("2001:db8::99".parse().unwrap(), 2, &quoted);
        wire::send(&socket, DEVICE, &for_cluster(ETH_IP6, &error));
    });
    wait_until(|| heard(&lab.a) == before.map(|n| n + 1));
    connections.iter_mut().for_each(Connection::ping);
}

/// How many messages of ICMP type 3 the namespace of the thread has received.
fn unreachable_heard() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|l| l.starts_with("Icmp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "InDestUnreachs").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}
