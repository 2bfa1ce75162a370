//! The place of the measurement: a network namespace of this process with a veth pair in it.
//!
//! The namespace has no name and ends with the process; the machine's own network is never touched.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

/// The device that receives the frames.
pub const DEVICE: &str = "service";
/// The device's own MAC address.
pub const DEVICE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x11];
/// The shared address, as onemac makes it from the first VIP.
pub const CLUSTER_MAC: [u8; 6] = [0x02, 0xbf, 192, 0, 2, 53];
/// The shared address in iptables-extensions(8).
pub const MULTICAST_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x01, 0x01];
/// The VIP that the IPv4 frames are for.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// The VIP that the IPv6 frames are for.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);

/// The namespace, entered, with the device in it.
pub struct Lab {
    /// The device's index.
    pub ifindex: u32,
}

impl Lab {
    /// Moves this process into a fresh network namespace and makes the device there, with the IPv4 VIP on
    /// it: the older recipes drop in the stack, where a packet must be on its way to somebody.
    ///
    /// # Errors
    /// Without root, or if `ip` is missing.
    pub fn enter() -> Result<Lab> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (unshare): root is needed")?;
        // The far end answers nothing and asks nothing, so no frame but ours is on the device.
        for line in [
            "link set lo up",
            "link add service address 02:00:00:00:00:11 type veth peer name far",
            "link set far arp off addrgenmode none up",
            "link set service addrgenmode none up",
            "addr add 192.0.2.11/24 dev service",
            "addr add 192.0.2.53/32 dev service",
            "route add default via 192.0.2.1 dev service",
            "maddr add 01:00:5e:00:01:01 dev service",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        let ifindex = nix::net::if_::if_nametoindex(DEVICE).context("index of the device just made")?;
        Ok(Lab { ifindex })
    }
}

/// Sets a sysctl of the namespace.
///
/// # Errors
/// If there is none of that name, or without root.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .with_context(|| format!("setting sysctl {name} to {value} in the namespace"))
}

/// Keeps the process on one core; the last one if none is named, because interrupts tend to be on the first.
///
/// # Errors
/// If there is no such core.
pub fn pin(core: Option<usize>) -> Result<()> {
    let last = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let core = core.unwrap_or(last);
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("core {core}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to core {core}"))
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// If it can not be started or fails; its own words are part of the error.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_with_input(program, arguments, "")
}

/// The same, with `input` on its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let line = format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`; is the package installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("writing to `{line}`"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
