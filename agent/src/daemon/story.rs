//! The core's events in words, for the log.

use onemac_core::node::{Event, Hold};

/// How loud an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Ordinary life.
    Info,
    /// Somebody should look.
    Warn,
}

/// An event as a sentence.
pub fn tell(event: &Event) -> (Volume, String) {
    use Volume::{Info, Warn};
    match event {
        Event::Started { incarnation } => {
            (Info, format!("life {incarnation} begins: accepting nothing, listening for the others"))
        }
        Event::Holding { why } => match why {
            Hold::Listening { missing } => (Info, format!("waiting to hear {}", missing.join(", "))),
            other => {
                let (what, advice) = explain(other);
                (Warn, format!("{what}: {advice}"))
            }
        },
        Event::HostAlive { host, .. } => (Info, format!("{host} is heard")),
        Event::HostGone { host, silent_ms } => {
            (Warn, format!("{host} is gone: silent for {silent_ms} ms, longer than its lease lasts"))
        }
        Event::ViewChanged { view, hosts } => (Info, format!("view {view}: {}", hosts.join(", "))),
        Event::Agreed { view } => (Info, format!("view {view} is agreed")),
        Event::SlicesMoved { acquired, released, owned } => {
            (Info, format!("slices: {acquired} acquired, {released} released, {owned} now"))
        }
        Event::KernelRefused => (Warn, "the kernel refused a change; trying again".into()),
        Event::Stalled { gap_ms } => (
            Warn,
            format!("this process did not run for {gap_ms} ms, longer than its lease lasts: starting over"),
        ),
        Event::LeaseLapsed => (
            Warn,
            "the others did not confirm our heartbeats for a whole lease, so the kernel stopped accepting: \
             starting over"
                .into(),
        ),
        Event::Deaf => (
            Warn,
            "the service device has received nothing from anybody, while other hosts were there: starting over"
                .into(),
        ),
        Event::NameHeard { incarnation } => (
            Warn,
            format!(
                "somebody speaks in this host's name (life {incarnation}): another machine with the same --host?"
            ),
        ),
        Event::GoesOn { incarnation } => {
            (Info, format!("life {incarnation} goes on: the kernel has served without an agent meanwhile"))
        }
        Event::Ordered { weight, drained } => {
            let drained = if drained.is_empty() { "nothing".into() } else { drained.join(", ") };
            (Info, format!("by order: weight {weight}, drained of {drained}"))
        }
        Event::DefinitionChanged => (Info, "the new definition is in force".into()),
        Event::Stays => (Info, "stays after all".into()),
        Event::Leaving => (Info, "leaving: handing the slices over".into()),
        Event::Left => (Info, "left".into()),
        Event::NewerVersion { hosts } => {
            let hosts = hosts.join(", ");
            (Warn, format!("a newer version of the protocol is served by {hosts}: starting over"))
        }
        Event::Outvoted { hosts } => {
            (Warn, format!("{} serve by another definition and are more: starting over", hosts.join(", ")))
        }
    }
}

/// Why a host holds back, and what to do.
pub fn explain(hold: &Hold) -> (String, String) {
    match hold {
        Hold::Listening { missing } => (
            format!("not heard yet: {}", missing.join(", ")),
            "nothing; this host serves after the expiry in any case".into(),
        ),
        Hold::Definition { hosts } => (
            format!("{} run by another cluster definition, so this host accepts nothing", hosts.join(", ")),
            "copy the same definition to every host and restart the agents whose file changed".into(),
        ),
        Hold::Version { hosts } => (
            format!(
                "another version of the protocol is spoken by {}: this host accepts nothing for as long as they serve",
                hosts.join(", ")
            ),
            "upgrade every host to the same release; the last host of the old one hands over when it is stopped"
                .into(),
        ),
        Hold::Secret { hosts } => (
            format!("{} speak, but not with our secret, so this host accepts nothing", hosts.join(", ")),
            "copy the same secret file to every host and restart the agent".into(),
        ),
        Hold::Minority { missing } => (
            format!(
                "{} not heard: with less than half of the cluster here, this side serves nobody",
                missing.join(", ")
            ),
            "mend the network between the hosts; `partition: majority` in the definition asks for this"
                .into(),
        ),
        Hold::NoLink => (
            "the packet path is interrupted: nobody can be served here".into(),
            "if no warning says what is wrong with the devices or the rules of this host, its service device has \
             no carrier: look at the cable, the switch port, the bond; this host joins again by itself"
                .into(),
        ),
        Hold::Deaf => (
            "the service device has received no frame of any other machine: nobody can be served here".into(),
            "look at the cable, the switch port and the VLAN of the service device; this host joins by itself when the \
             first frame comes in"
                .into(),
        ),
        Hold::NameTaken => (
            "another machine uses this host's name, so this host accepts nothing".into(),
            "give each machine its own --host (or hostname), then restart the agent".into(),
        ),
    }
}
