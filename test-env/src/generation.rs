//! How many nftables transactions a network namespace has seen.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::Netns;

/// linux/netfilter/nfnetlink.h and nf_tables.h.
const GET_GENERATION: u16 = (10 << 8) | 16;
const GENERATION_ID: u16 = 1;

/// The kernel's counter, which each transaction moves, whoever commits it.
pub fn generation(netns: &Netns) -> Result<u32> {
    netns.within(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        // Length, kind, flags, number, from; family, version, resource.
        let mut request = [0u8; 20];
        request[..4].copy_from_slice(&20u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0u8; 4096];
        let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        ensure!(len >= 28, "the kernel answered with {len} bytes");
        // Attributes: length and kind, and what is in it, filled up to four bytes.
        let mut rest = &answer[20..len];
        while let [a, b, c, d, value @ ..] = rest {
            let (length, kind) = (u16::from_ne_bytes([*a, *b]) as usize, u16::from_ne_bytes([*c, *d]));
            if kind == GENERATION_ID {
                return Ok(u32::from_be_bytes(*value.first_chunk().context("a short attribute")?));
            }
            ensure!(length >= 4, "an attribute of {length} bytes");
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        anyhow::bail!("the kernel's answer has no generation")
    })
}
