//! Which keys stand where: one table, from which unknown, missing and misplaced keys are told.

/// A mapping of the definition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// The place as a message names it after "belongs".
    pub(crate) place: &'static str,
    /// Its keys in the order in which messages list them.
    pub(crate) keys: &'static [Key],
    /// Names under which people know these keys from elsewhere.
    pub(crate) other_names: &'static [(&'static str, &'static str)],
}

/// A key of a mapping.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    /// What its value must be, as a message says it after "expected".
    pub(crate) expected: &'static str,
}

const fn required(name: &'static str, expected: &'static str) -> Key {
    Key { name, required: true, expected }
}

const fn optional(name: &'static str, expected: &'static str) -> Key {
    Key { name, required: false, expected }
}

impl Section {
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        self.keys.iter().map(|key| key.name)
    }
}

/// Every section, for keys that stand in the wrong one.
pub(crate) const ALL: [&Section; 7] = [&TOP, &TIMING, &HOST, &SERVICE, &CHECK, &BACKENDS, &SERVER];

pub(crate) static TOP: Section = Section {
    place: "at the top level",
    keys: &[
        required("cluster", "a name of 1 to 32 characters from a-z, 0-9 and `-`"),
        required("secret_file", "the path of the cluster's secret (made by `onemac keygen`)"),
        required("vips", "a list of 1 to 64 IP addresses"),
        optional("mac", "`auto` or a MAC address such as `02:bf:c0:00:02:35`"),
        optional("link", "`unicast`, `multicast` or `igmp`"),
        optional("slices", "a power of two from 16 to 4096"),
        optional("affinity", "`client`, `network` or `client-port`"),
        optional("partition", "`serve` or `majority`"),
        optional("timing", "a mapping of `heartbeat`, `lease`, `drain_timeout`"),
        required("hosts", "a list of 1 to 256 hosts, each with `name`, `gossip` and `interface`"),
        optional("services", "a list of services, each with `name` and `ports`"),
    ],
    other_names: &[
        ("name", "cluster"),
        ("cluster_name", "cluster"),
        ("secret", "secret_file"),
        ("key", "secret_file"),
        ("key_file", "secret_file"),
        ("virtual_ips", "vips"),
        ("addresses", "vips"),
        ("address", "vips"),
        ("mac_address", "mac"),
        ("link_mode", "link"),
        ("timers", "timing"),
        ("timeouts", "timing"),
        ("nodes", "hosts"),
        ("members", "hosts"),
        ("peers", "hosts"),
    ],
};

pub(crate) static TIMING: Section = Section {
    place: "under `timing`",
    keys: &[
        optional("heartbeat", "a duration from 10ms to 10s"),
        optional("lease", "a duration of at least five heartbeats, at most 60s"),
        optional("drain_timeout", "a duration from 0s to 24h"),
    ],
    other_names: &[
        ("interval", "heartbeat"),
        ("gossip_interval", "heartbeat"),
        ("ttl", "lease"),
        ("drain", "drain_timeout"),
    ],
};

pub(crate) static HOST: Section = Section {
    place: "in an entry of `hosts`",
    keys: &[
        required("name", "a host name of 1 to 63 characters from a-z, A-Z, 0-9, `-` and `.`"),
        required("gossip", "an address and a port such as `192.0.2.11:7946` or `\"[2001:db8::11]:7946\"`"),
        required("interface", "the name of the network device on which clients arrive, such as `eth0`"),
        optional("weight", "a whole number from 0 to 100"),
    ],
    other_names: &[
        ("host", "name"),
        ("hostname", "name"),
        ("address", "gossip"),
        ("addr", "gossip"),
        ("ip", "gossip"),
        ("listen", "gossip"),
        ("iface", "interface"),
        ("if", "interface"),
        ("dev", "interface"),
        ("device", "interface"),
        ("nic", "interface"),
        ("priority", "weight"),
    ],
};

pub(crate) static SERVICE: Section = Section {
    place: "in an entry of `services`",
    keys: &[
        required("name", "a name of 1 to 32 characters from a-z, 0-9 and `-`"),
        // Required but for the service `default`; read/services.rs sees to that.
        optional("ports", "a list of ports (1 to 65535) or ranges such as `8000-8010`"),
        optional("protocols", "a list of `tcp` and `udp`"),
        optional("mode", "`shared`, `single` or `off`"),
        optional("track", "`auto`, `always` or `never`"),
        optional("check", "a mapping with at least `type`"),
        optional("backends", "a mapping with at least `method` and `servers`"),
    ],
    other_names: &[
        ("protocol", "protocols"),
        ("conntrack", "track"),
        ("tracked", "track"),
        ("proto", "protocols"),
        ("healthcheck", "check"),
        ("health_check", "check"),
        ("health", "check"),
        ("upstream", "backends"),
        ("director", "backends"),
    ],
};

pub(crate) static CHECK: Section = Section {
    place: "under `check`",
    keys: &[
        required("type", "`tcp`, `http` or `dns`"),
        optional("port", "a port from 1 to 65535"),
        optional("path", "a path that begins with `/`"),
        optional("host", "a host name for the `Host` header"),
        optional("status", "a status from 100 to 599"),
        optional("query", "a domain name to ask for"),
        optional("interval", "a duration from 100ms to 1h"),
        optional("timeout", "a duration from 10ms to the interval"),
        optional("fall", "a whole number from 1 to 100"),
        optional("rise", "a whole number from 1 to 100"),
    ],
    other_names: &[
        ("kind", "type"),
        ("url", "path"),
        ("uri", "path"),
        ("domain", "query"),
        ("expect", "status"),
        ("every", "interval"),
        ("period", "interval"),
        ("failures", "fall"),
        ("successes", "rise"),
    ],
};

pub(crate) static BACKENDS: Section = Section {
    place: "under `backends`",
    keys: &[
        required("method", "`nat`, `direct` or `tunnel`"),
        optional("engine", "`auto`, `ipvs` or `nft`"),
        optional(
            "scheduler",
            "one of `rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `dh`, `sh`, `mh`, `sed`, `nq`, `fo`, `ovf`",
        ),
        optional("persistence", "a duration of whole seconds from 1s to 24h"),
        required("servers", "a list of 1 to 256 servers, each with `address`"),
        optional("check", "a mapping with at least `type`"),
    ],
    other_names: &[
        ("forward", "method"),
        ("forwarding", "method"),
        ("mode", "method"),
        ("algorithm", "scheduler"),
        ("lb_algo", "scheduler"),
        ("lb_kind", "method"),
        ("persistence_timeout", "persistence"),
        ("sticky", "persistence"),
        ("real_servers", "servers"),
        ("hosts", "servers"),
        ("healthcheck", "check"),
        ("health_check", "check"),
    ],
};

pub(crate) static SERVER: Section = Section {
    place: "in an entry of `servers`",
    keys: &[
        required("address", "an IP address"),
        optional("port", "a port from 1 to 65535"),
        optional("weight", "a whole number from 0 to 65535"),
    ],
    other_names: &[
        ("addr", "address"),
        ("ip", "address"),
        ("rip", "address"),
        ("host", "address"),
        ("server", "address"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Affinity, Engine, Link, Method, Mode, Partition, Protocol, Scheduler, Word};

    fn names<W: Word>(section: &Section, key: &str) {
        let key = section.keys.iter().find(|found| found.name == key).unwrap();
        let told: Vec<&str> = key.expected.split('`').skip(1).step_by(2).collect();
        let words: Vec<&str> = W::ALL.iter().map(|word| word.as_str()).collect();
        assert_eq!(told, words, "what `{}` says that it expects", key.name);
    }

    #[test]
    fn messages_name_every_word() {
        names::<Link>(&TOP, "link");
        names::<Affinity>(&TOP, "affinity");
        names::<Partition>(&TOP, "partition");
        names::<Mode>(&SERVICE, "mode");
        names::<Protocol>(&SERVICE, "protocols");
        names::<Method>(&BACKENDS, "method");
        names::<Engine>(&BACKENDS, "engine");
        names::<Scheduler>(&BACKENDS, "scheduler");
    }

    #[test]
    fn other_names_lead_to_keys_of_their_section_and_are_none_themselves() {
        for section in ALL {
            for (other, right) in section.other_names {
                assert!(section.names().any(|name| name == *right), "{other} -> {right} {}", section.place);
                assert!(section.names().all(|name| name != *other), "{other} {}", section.place);
            }
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_key() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        for section in ALL {
            for key in section.keys {
                assert!(page.contains(&format!("\n| `{}` |", key.name)), "`{}` {}", key.name, section.place);
            }
        }
    }
}
