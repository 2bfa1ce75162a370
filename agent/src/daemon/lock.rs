//! One agent a host: two would fight over the same device and the same rules.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::failure::{Failure, Result};

/// Held by the agent for as long as it lives; the kernel lets go of it when the process ends, however it
/// ends. An abstract socket, because its name belongs to the network namespace, and so does what the
/// agent makes.
pub struct Lock(#[expect(dead_code, reason = "held, not used")] UnixListener);

impl Lock {
    /// Takes the lock, or says that an agent has it.
    pub fn take() -> Result<Self> {
        let name = SocketAddr::from_abstract_name("onemac/agent");
        let bound = name.and_then(|name| UnixListener::bind_addr(&name));
        bound.map(Lock).map_err(|e| match e.kind() {
            ErrorKind::AddrInUse => Failure::failed(
                "another onemac agent runs on this host (in this network namespace): stop it first; \
                 `onemac status` asks it, with --run-dir if it has another one",
            ),
            _ => Failure::failed(format_args!("can not take the agent's lock: {e}")),
        })
    }
}
