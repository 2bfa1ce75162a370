//! What can go wrong with the kernel, and what to do about it.

use std::io;

use nix::errno::Errno;

use super::compare::Difference;

/// A step that failed: what was tried, on which object, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No socket.
    #[error(
        "cannot open a netfilter netlink socket: {0}; the kernel needs CONFIG_NETFILTER_NETLINK \
         (module nfnetlink)"
    )]
    Open(#[source] io::Error),
    /// An option of the socket.
    #[error("cannot set {option} on the netfilter netlink socket: {errno}")]
    SocketOption {
        /// Name of the option.
        option: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel wants a privilege that the process does not have.
    #[error("cannot {what}: not permitted; run as root or with CAP_NET_ADMIN in this network namespace")]
    NotPermitted {
        /// The step.
        what: String,
    },
    /// The service device is not there.
    #[error("there is no network device \"{device}\"; name an existing one as `interface:` of this host")]
    NoDevice {
        /// Its name.
        device: String,
    },
    /// Nothing can be sent on the service device, so no renewal either; nor does anything come in.
    #[error(
        "cannot renew the lease: network device \"{device}\" is down; set it up with `ip link set {device} up`"
    )]
    DeviceDown {
        /// Its name.
        device: String,
    },
    /// The kernel does not know the hook, expression or set type.
    #[error("cannot {what}: {errno}; {needs}")]
    Unsupported {
        /// The step.
        what: String,
        /// The kernel's answer.
        errno: Errno,
        /// What the kernel must have.
        needs: &'static str,
    },
    /// The kernel refused a step of the transaction; nothing of the transaction was done.
    #[error("cannot {what}: {errno}; nothing was changed; {advice}")]
    Rejected {
        /// The first step that was refused.
        what: String,
        /// The kernel's answer.
        errno: Errno,
        /// What to do next.
        advice: &'static str,
    },
    /// The request did not leave.
    #[error("cannot send \"{what}\" to the kernel: {source}")]
    Send {
        /// The request.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The answer did not come.
    #[error("cannot receive the kernel's answer to \"{what}\": {source}")]
    Receive {
        /// The request.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The answers did not fit into the receive buffer.
    #[error(
        "the kernel's answers to \"{what}\" were lost; it is not known whether it was done: verify, and \
         install again if needed"
    )]
    Lost {
        /// The request.
        what: String,
    },
    /// The kernel said nothing.
    #[error("the kernel did not answer \"{what}\"; it is not known whether it was done")]
    NoAnswer {
        /// The request.
        what: String,
    },
    /// The kernel's answer could not be parsed.
    #[error("cannot understand the kernel's answer to \"{what}\"; libnftnl may be too old for this kernel")]
    Unreadable {
        /// The request.
        what: String,
    },
    /// Others commit faster than the ruleset can be read.
    #[error(
        "the kernel's rulesets kept changing while they were read, {attempts} times in a row; find the \
         program that does it with `nft monitor`"
    )]
    Unsteady {
        /// How often it was tried.
        attempts: u32,
    },
    /// What was installed was accepted, and then something else was read back.
    #[error(
        "the kernel holds something else than was just installed: {}; another program may manage the \
         tables of that name (`nft monitor` shows which)",
        first(differences)
    )]
    NotAsInstalled {
        /// All of them.
        differences: Vec<Difference>,
    },
    /// A change from or to services that are not the installed ones.
    #[error(
        "cannot change the slices of service \"{service}\": it is not among those installed; install anew"
    )]
    OtherServices {
        /// Its name.
        service: String,
    },
    /// A name that cannot be passed to the kernel.
    #[error("\"{name}\" cannot be a name in the kernel: it has a zero byte or is too long")]
    BadName {
        /// The name.
        name: String,
    },
}

fn first(differences: &[Difference]) -> String {
    match differences {
        [] => "no difference".into(),
        [one] => one.to_string(),
        [one, rest @ ..] => format!("{one} (and {} more)", rest.len()),
    }
}

/// What kind of object a step is about; it decides which advice fits an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Batch,
    Table,
    Set,
    Elements,
    Chain,
    EgressChain,
    InetChain,
    Rules,
    InetRules,
    Conntrack,
}

/// The error for a step that the kernel refused.
pub(crate) fn refused(object: Object, what: String, errno: Errno) -> Error {
    let not_there = matches!(errno, Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EAFNOSUPPORT);
    match (object, errno) {
        (_, Errno::EPERM) => Error::NotPermitted { what },
        (Object::Batch, Errno::EOPNOTSUPP | Errno::EINVAL) => {
            Error::Unsupported { what, errno, needs: "the kernel needs nf_tables (module nf_tables)" }
        }
        (Object::Table, Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs the netdev family of nf_tables (CONFIG_NF_TABLES_NETDEV), and where TCP \
                    connections are followed the inet family (CONFIG_NF_TABLES_INET)",
        },
        (Object::Chain, _) if not_there => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs nf_tables on ingress (CONFIG_NF_TABLES_NETDEV, CONFIG_NETFILTER_INGRESS)",
        },
        (Object::EgressChain, _) if not_there => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs nf_tables on egress (Linux 5.16 or newer, CONFIG_NETFILTER_EGRESS)",
        },
        (Object::Conntrack, Errno::EINVAL | Errno::EOPNOTSUPP) => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs conntrack with netlink (CONFIG_NF_CT_NETLINK, module nf_conntrack_netlink)",
        },
        (Object::InetChain, _) if not_there => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs nf_tables for IPv4, IPv6 and ARP (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP)",
        },
        (Object::InetRules, Errno::EOPNOTSUPP | Errno::ENOENT) => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs route look-ups (CONFIG_NFT_FIB_INET) and, to follow TCP connections, conntrack \
                    (CONFIG_NF_CONNTRACK, CONFIG_NFT_CT)",
        },
        (_, Errno::EBUSY) => Error::Rejected {
            what,
            errno,
            advice: "another program holds it: try again, or stop that program",
        },
        (Object::Rules, Errno::EOPNOTSUPP) => Error::Unsupported {
            what,
            errno,
            needs: "the kernel needs the expressions of this rule (CONFIG_NFT_HASH and nf_tables itself)",
        },
        (Object::Elements | Object::Rules | Object::Set, Errno::ENOENT) => Error::Rejected {
            what,
            errno,
            advice: "the tables are not as this agent left them: install them again",
        },
        (_, Errno::ENOMEM) => {
            Error::Rejected { what, errno, advice: "the kernel is out of memory: try again" }
        }
        (Object::Elements, Errno::ENFILE) => {
            Error::Rejected { what, errno, advice: "the set is full: install the tables again" }
        }
        _ => Error::Rejected {
            what,
            errno,
            advice: "this is not expected: please report it with the kernel's version",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do() {
        for (object, errno, says) in [
            (Object::Batch, Errno::EPERM, "CAP_NET_ADMIN"),
            (Object::Batch, Errno::EOPNOTSUPP, "module nf_tables"),
            (Object::Table, Errno::EOPNOTSUPP, "CONFIG_NF_TABLES_NETDEV"),
            (Object::Table, Errno::EAFNOSUPPORT, "CONFIG_NF_TABLES_NETDEV"),
            (Object::Chain, Errno::ENOENT, "on ingress"),
            (Object::Chain, Errno::EBUSY, "another program"),
            (Object::EgressChain, Errno::EOPNOTSUPP, "Linux 5.16"),
            (Object::InetChain, Errno::EOPNOTSUPP, "CONFIG_NF_TABLES_INET"),
            (Object::InetRules, Errno::ENOENT, "conntrack"),
            (Object::Conntrack, Errno::EINVAL, "nf_conntrack_netlink"),
            (Object::Rules, Errno::EOPNOTSUPP, "CONFIG_NFT_HASH"),
            (Object::Rules, Errno::ENOENT, "install them again"),
            (Object::Elements, Errno::ENOENT, "install them again"),
            (Object::Elements, Errno::ENFILE, "set is full"),
            (Object::Set, Errno::ERANGE, "report"),
        ] {
            let text = refused(object, "do this".into(), errno).to_string();
            assert!(
                text.starts_with("cannot do this: ") && text.contains(says),
                "{object:?} {errno}: {text}"
            );
        }
    }
}
