//! The injector: hand-assembled XDP programs, run by the kernel over frames of ours.
//!
//! `BPF_PROG_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES` builds real frames, runs an XDP program on each and
//! does what the program says: `XDP_PASS` hands the frame to the stack as if the device had received it.
//! Nothing else of a driver is in the way, so what is timed is the stack and the rules alone.
//! There is no BPF library here: three commands of one system call are all that is needed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_PSEUDO_MAP_FD: u8 = 1;

const HELPER_MAP_LOOKUP_ELEM: i32 = 1;
const HELPER_GET_PRANDOM_U32: i32 = 7;

/// What the program does with each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dropped by the program itself, before the stack sees it.
    Drop = 1,
    /// Handed to the stack.
    Pass = 2,
}

/// Bytes that replace a part of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset from the first byte of the Ethernet header.
    pub offset: usize,
    /// 2 or 4 bytes.
    pub len: usize,
}

/// Bytes of one client in the map: whatever `Field`s say, one behind the other, each in 4 bytes.
const CLIENT_BYTES: usize = 20;

/// One instruction: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: dst | (src << 4), offset, immediate }
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// `union bpf_attr` as `BPF_PROG_TEST_RUN` reads it.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `union bpf_attr` as `BPF_MAP_CREATE` reads it.
#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// `union bpf_attr` as `BPF_MAP_UPDATE_ELEM` reads it.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a live, writable struct laid out as the kernel's union for this command, its length
    // goes along, and every address inside was taken from a buffer that outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    match i32::try_from(answer) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An XDP program in the kernel.
pub struct Program {
    fd: OwnedFd,
    /// Keeps the clients' map alive as long as the program.
    _clients: OwnedFd,
}

impl Program {
    /// Every frame gets the bytes of one of `clients`, drawn at random, before it meets `action`.
    /// `clients` must be a power of two of rows; a row holds the bytes of all `fields` in their order.
    ///
    /// # Errors
    /// If the kernel refuses the map or the program, or the rows do not fit the fields.
    pub fn mixed(action: Action, fields: &[Field], clients: &[Vec<u8>]) -> Result<Program> {
        ensure!(clients.len().is_power_of_two(), "{} clients: not a power of two", clients.len());
        ensure!(4 * fields.len() <= CLIENT_BYTES, "{} fields: at most {}", fields.len(), CLIENT_BYTES / 4);
        let map = client_map(fields, clients)?;
        let end = fields.iter().map(|field| field.offset + field.len).max().unwrap_or(0);
        let mut tail = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            let from = (index * 4) as i16;
            let (load, store) = if field.len == 4 { (0x61, 0x63) } else { (0x69, 0x6b) };
            tail.push(insn(load, 5, 0, from, 0)); // r5 = *(r0 + from)
            tail.push(insn(store, 2, 5, field.offset as i16, 0)); // *(r2 + offset) = r5
        }
        let beyond = tail.len() as i16;
        let mut code = vec![
            insn(0xbf, 6, 1, 0, 0),                               // r6 = ctx
            insn(0x85, 0, 0, 0, HELPER_GET_PRANDOM_U32),          // r0 = a random number
            insn(0x57, 0, 0, 0, (clients.len() - 1) as i32),      // r0 &= rows - 1
            insn(0x63, 10, 0, -4, 0),                             // key on the stack
            insn(0x18, 1, BPF_PSEUDO_MAP_FD, 0, map.as_raw_fd()), // r1 = map
            insn(0, 0, 0, 0, 0),                                  // (second half)
            insn(0xbf, 2, 10, 0, 0),                              // r2 = frame pointer
            insn(0x07, 2, 0, 0, -4),                              // r2 -= 4
            insn(0x85, 0, 0, 0, HELPER_MAP_LOOKUP_ELEM),          // r0 = &row
            insn(0x15, 0, 0, 5 + beyond, 0),                      // no row: leave the frame as it is
            insn(0x61, 2, 6, 0, 0),                               // r2 = data
            insn(0x61, 3, 6, 4, 0),                               // r3 = data_end
            insn(0xbf, 4, 2, 0, 0),                               // r4 = data
            insn(0x07, 4, 0, 0, end as i32),                      // r4 += end of the last field
            insn(0x2d, 4, 3, beyond, 0),                          // too short: leave it
        ];
        code.extend(tail);
        code.push(insn(0xb7, 0, 0, 0, action as i32));
        code.push(insn(0x95, 0, 0, 0, 0));
        Ok(Program { fd: load(&code)?, _clients: map })
    }

    /// Feeds `frame` to the device `ifindex` of the caller's network namespace, `repeat` times.
    ///
    /// # Errors
    /// If the kernel refuses: no such device here, a kernel older than 5.18, a frame below 14 bytes.
    pub fn run(&self, frame: &[u8], ifindex: u32, repeat: u32, batch: u32) -> Result<()> {
        let mut md = XdpMd { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpMd::default() };
        let mut attr = RunAttr {
            prog_fd: self.fd.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            ctx_size_in: size_of::<XdpMd>() as u32,
            ctx_in: std::ptr::from_mut(&mut md) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: batch,
            ..RunAttr::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr).with_context(|| {
            format!(
                "BPF_PROG_RUN with live frames ({repeat} frames of {} bytes into device {ifindex}); it needs \
                 root and kernel 5.18",
                frame.len()
            )
        })?;
        Ok(())
    }
}

fn load(code: &[Insn]) -> Result<OwnedFd> {
    let mut log = vec![0u8; 64 * 1024];
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
    };
    let loaded = bpf(BPF_PROG_LOAD, &mut attr).map(owned);
    loaded.with_context(|| {
        let said = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        format!("BPF_PROG_LOAD of the injector ({} instructions); the verifier said: {said}", code.len())
    })
}

fn client_map(fields: &[Field], clients: &[Vec<u8>]) -> Result<OwnedFd> {
    let mut create = MapAttr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: CLIENT_BYTES as u32,
        max_entries: clients.len() as u32,
    };
    let map = bpf(BPF_MAP_CREATE, &mut create).map(owned).context("BPF_MAP_CREATE of the clients' map")?;
    for (index, client) in clients.iter().enumerate() {
        let mut value = [0u8; CLIENT_BYTES];
        let mut rest = client.as_slice();
        for (slot, field) in value.chunks_exact_mut(4).zip(fields) {
            let (now, later) = rest.split_at_checked(field.len).context("a client's row is too short")?;
            slot[..field.len].copy_from_slice(now);
            rest = later;
        }
        let key = index as u32;
        let mut attr = ElementAttr {
            map_fd: map.as_raw_fd() as u32,
            key: std::ptr::from_ref(&key) as u64,
            value: value.as_ptr() as u64,
            ..ElementAttr::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr)
            .with_context(|| format!("BPF_MAP_UPDATE_ELEM of client {index}"))?;
    }
    Ok(map)
}
