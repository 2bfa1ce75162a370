//! The words that a key chooses among, each list in one place.

use std::fmt;

/// A closed list of words, as they stand in the file.
pub trait Word: Copy + Eq + fmt::Debug + 'static {
    /// Every word of the list, in the order in which messages name them.
    const ALL: &'static [Self];
    /// The word as written in the file.
    fn as_str(self) -> &'static str;
}

macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )+};
}

words! {
    /// How frames for the cluster MAC reach every host.
    Link {
        /// A unicast cluster MAC that no frame ever carries as its source, so switches flood.
        Unicast = "unicast",
        /// A multicast cluster MAC; hosts keep their own unicast MAC.
        Multicast = "multicast",
        /// A multicast cluster MAC joined by IGMP, so snooping switches deliver to hosts only.
        Igmp = "igmp",
    }

    /// Which part of the client decides the slice.
    Affinity {
        /// The whole client address.
        Client = "client",
        /// The client's network: /24 for IPv4, /64 for IPv6.
        Network = "network",
        /// Client address and client port.
        ClientPort = "client-port",
    }

    /// What a host does when it sees only a part of the cluster.
    Partition {
        /// Each side serves whoever reaches it.
        Serve = "serve",
        /// A side with less than half of the configured hosts falls silent.
        Majority = "majority",
    }

    /// Who serves a service.
    Mode {
        /// Every eligible host its slices.
        Shared = "shared",
        /// One eligible host everything.
        Single = "single",
        /// Nobody.
        Off = "off",
    }

    /// Transport protocols that a service may take.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }

    /// Whether conntrack sees a service's packets.
    Track {
        /// TCP, so that connections survive when slices move; nothing else.
        Auto = "auto",
        /// Everything: for NAT on the shared addresses.
        Always = "always",
        /// Nothing; connections break when their slice moves.
        Never = "never",
    }

    /// How a director hands packets to real servers.
    Method {
        /// Addresses rewritten both ways; answers return through the director.
        Nat = "nat",
        /// Only the frame's destination changes; servers answer clients themselves.
        Direct = "direct",
        /// Packets wrapped in IP; servers answer clients themselves.
        Tunnel = "tunnel",
    }

    /// What forwards in the kernel.
    Engine {
        /// `ipvs` where the kernel has it, else `nft`.
        Auto = "auto",
        /// The kernel's IP virtual server.
        Ipvs = "ipvs",
        /// nftables alone.
        Nft = "nft",
    }

    /// How a director picks a server for a new connection; the names are IPVS's.
    Scheduler {
        /// Round robin.
        Rr = "rr",
        /// Weighted round robin.
        Wrr = "wrr",
        /// Least connections.
        Lc = "lc",
        /// Weighted least connections.
        Wlc = "wlc",
        /// Locality-based least connections.
        Lblc = "lblc",
        /// Locality-based least connections with replication.
        Lblcr = "lblcr",
        /// Destination hashing.
        Dh = "dh",
        /// Source hashing.
        Sh = "sh",
        /// Maglev hashing.
        Mh = "mh",
        /// Shortest expected delay.
        Sed = "sed",
        /// Never queue.
        Nq = "nq",
        /// Weighted failover.
        Fo = "fo",
        /// Weighted overflow.
        Ovf = "ovf",
    }
}
