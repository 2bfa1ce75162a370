//! Both ends of the service device, and observers behind the rules.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    unistd::Pid,
};
use onemac_rules::Wanted;

use super::{frame::*, *};

/// Both ends of the veth pair, with a table behind the rules that counts what it sees.
pub struct Wire {
    socket: OwnedFd,
    /// Sentinels sent so far, by direction.
    sentinels: [u64; 2],
}

#[derive(Clone, Copy)]
pub enum Way {
    In,
    Out,
}

impl Wire {
    pub fn new(wanted: &Wanted) -> Self {
        // One processor: what is sent first is then received first.
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        for device in [DEVICE, "far"] {
            // The kernel's own IPv6 chatter would be counted.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
            run("ip", &["link", "set", device, "up"]);
        }
        let cluster = wanted.cluster_mac;
        let own = wanted.device_mac;
        let probe = onemac_rules::MacAddr(PROBE_MAC);
        let sentinel = onemac_rules::MacAddr(SENTINEL_MAC);
        let observer = format!(
            "table netdev observer {{\n\
             chain in {{\ntype filter hook ingress device \"{DEVICE}\" priority 100;\n\
             ether saddr {probe} counter comment \"probe\"\n\
             ether saddr {sentinel} counter comment \"sentinel\"\n}}\n\
             chain out {{\ntype filter hook ingress device \"far\" priority 100;\n\
             ether saddr {{ {probe}, {own} }} counter comment \"probe\"\n\
             ether saddr {cluster} counter comment \"unmasked\"\n\
             ether saddr {sentinel} counter comment \"sentinel\"\n}}\n}}\n"
        );
        nft_load(&observer, &[]).unwrap();
        Self { socket: frame_socket(), sentinels: [0, 0] }
    }

    /// Whether a frame that arrives at the service device gets past the rules.
    pub fn passes_in(&mut self, frame: &[u8]) -> bool {
        let before = counted(Way::In, "probe");
        self.send_and_wait(Way::In, frame);
        counted(Way::In, "probe") > before
    }

    /// Whether a frame that the service device sends arrives. It must not bear the cluster MAC.
    pub fn passes_out(&mut self, frame: &[u8]) -> bool {
        let before = counted(Way::Out, "probe");
        self.send_and_wait(Way::Out, frame);
        assert_eq!(counted(Way::Out, "unmasked"), 0, "a frame left with the cluster MAC as its source");
        counted(Way::Out, "probe") > before
    }

    pub fn send_and_wait(&mut self, way: Way, frame: &[u8]) {
        let device = match way {
            Way::In => "far",
            Way::Out => DEVICE,
        };
        self.send(device, frame);
        self.send(device, &ethernet(BROADCAST, SENTINEL_MAC, ETH_TEST, &[0; 46]));
        self.sentinels[way as usize] += 1;
        let patience = Instant::now() + Duration::from_secs(60);
        while counted(way, "sentinel") < self.sentinels[way as usize] {
            assert!(Instant::now() < patience, "the sentinel did not arrive");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn send(&self, device: &str, frame: &[u8]) {
        send(&self.socket, device, frame);
    }
}

/// A socket to send frames by.
pub fn frame_socket() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap()
}

/// Sends a frame as it is.
pub fn send(socket: &OwnedFd, device: &str, frame: &[u8]) {
    // SAFETY: all its fields are numbers, and zero is one.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = if_nametoindex(device).unwrap() as i32;
    // SAFETY: frame and address are valid for the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    // The sender of a frame that an egress rule drops is told ENOBUFS.
    let error = std::io::Error::last_os_error();
    let dropped = sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS);
    assert!(dropped || sent == frame.len() as isize, "{sent}: {error}");
}

/// What the observer has counted of one kind of frames.
pub fn counted(way: Way, kind: &str) -> u64 {
    let chain = match way {
        Way::In => "in",
        Way::Out => "out",
    };
    let text = run("nft", &["list", "chain", "netdev", "observer", chain]);
    let line = text.lines().find(|l| l.contains(&format!("comment \"{kind}\""))).unwrap();
    line.split_once("packets ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}
