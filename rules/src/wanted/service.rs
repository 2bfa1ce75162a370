//! What becomes of each slice, and how the map of slices says so.

use std::collections::{BTreeMap, BTreeSet};

use super::{HEIR, INCOMING, LEASED, MOVING, RELAYING, SHARED, TAKING};
use crate::model::*;

/// What becomes of a slice's packets on this host. docs/ruleset.md shows a slice's way from host to host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Another host's: dropped.
    #[default]
    Foreign,
    /// Accepted; the stack resets what it does not know.
    Own,
    /// Accepted, but TCP that neither opens a connection nor belongs to one here is dropped in silence: it
    /// may live on the host that had the slice before.
    Shared,
    /// As own, for a slice whose owner has died while another host still has connections of it: TCP segments of the
    /// clients in [`Wanted::elsewhere`](super::Wanted::elsewhere) that open nothing are treated as in shared. All
    /// other clients of the dead host get a reset.
    Heir,
    /// As shared; besides, packets that the former owner relays are accepted, and of each packet that comes
    /// both by itself and relayed the second is dropped.
    Taking,
    /// Accepted is only what belongs to a TCP connection here.
    Moving,
    /// As moving; what may be new is sent on to the host with this MAC address. Questions for the address
    /// (ARP, neighbour solicitations) are answered here.
    Relaying(MacAddr),
    /// Accepted is what is sent to this host's own MAC address, which is what another host relays, and what
    /// belongs to a TCP connection here.
    Incoming,
}

/// A part of the traffic for the shared addresses, with slices of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name; letters, digits and hyphens.
    pub name: String,
    /// Whether its TCP connections are followed, so that they survive when slices move. Without that nothing
    /// uses conntrack, and [`Standing::Shared`] and [`Standing::Heir`] are as own, [`Standing::Moving`] as foreign.
    pub tracked: bool,
    /// Whether conntrack sees its datagrams, for NAT on the shared addresses. Without that it is told to let them be
    /// where connections of any service are followed; where not, nothing is said about it at all.
    pub datagrams_tracked: bool,
    /// The ports that it takes; `None` is everything that no other service takes, and with it what has no port:
    /// ARP, neighbour discovery, ICMP, fragments. Exactly one service of a host has `None`. A port that two
    /// services name is the first one's.
    pub ports: Option<Vec<(Protocol, u16)>>,
    /// What becomes of each slice; one that is missing is foreign.
    pub slices: BTreeMap<u32, Standing>,
}

impl Service {
    /// A service that takes everything that comes for the shared addresses, and of which nothing is ours yet.
    pub fn everything(name: &str, tracked: bool) -> Self {
        let slices = BTreeMap::new();
        Self { name: name.into(), tracked, datagrams_tracked: false, ports: None, slices }
    }

    /// What becomes of a slice.
    pub fn standing(&self, slice: u32) -> Standing {
        self.slices.get(&slice).copied().unwrap_or_default()
    }

    /// The same service with these slices as own and all others foreign.
    pub fn owning(&self, slices: impl IntoIterator<Item = u32>) -> Self {
        let slices = slices.into_iter().map(|n| (n, Standing::Own)).collect();
        Self { slices, ..self.clone() }
    }

    /// Name of the map from every slice to what becomes of its packets.
    pub(crate) fn slices_map(&self) -> String {
        self.own("slices")
    }

    /// Name of the map from relayed slices to the MAC addresses of their new owners.
    pub(crate) fn relays_map(&self) -> String {
        self.own("relays")
    }

    /// Name of the chain that looks for the slice of what comes by one of its ports.
    pub(crate) fn chain(&self) -> String {
        self.own("service")
    }

    /// The same for errors about what was sent from there.
    pub(crate) fn errors_chain(&self) -> String {
        self.own("errors")
    }

    /// Name of the chain that relays.
    pub(crate) fn relaying_chain(&self) -> String {
        self.own(RELAYING)
    }

    /// The service's own object of that kind.
    fn own(&self, what: &str) -> String {
        if self.name == DEFAULT { what.into() } else { format!("{what}_{}", self.name) }
    }

    /// The element of the map of slices for one slice.
    pub(crate) fn slice_element(&self, slice: u32) -> Element {
        let goto = |chain: &str| Verdict::Goto(chain.into());
        let verdict = match (self.standing(slice), self.tracked) {
            (Standing::Foreign, _) | (Standing::Moving, false) => Verdict::Drop,
            (Standing::Own, _) | (Standing::Shared | Standing::Heir, false) => goto(LEASED),
            (Standing::Shared, true) => goto(SHARED),
            (Standing::Heir, true) => goto(HEIR),
            (Standing::Taking, _) => goto(TAKING),
            (Standing::Moving, true) => goto(MOVING),
            (Standing::Relaying(_), _) => Verdict::Goto(self.relaying_chain()),
            (Standing::Incoming, _) => goto(INCOMING),
        };
        Element { key: Key::Slice(slice), timeout: None, data: Some(Data::Verdict(verdict)) }
    }

    /// The element of the map of relays for one slice, if it is relayed.
    pub(crate) fn relay_element(&self, slice: u32) -> Option<Element> {
        match self.standing(slice) {
            Standing::Relaying(to) => {
                Some(Element { key: Key::Slice(slice), timeout: None, data: Some(Data::Mac(to)) })
            }
            _ => None,
        }
    }

    /// The standing that a verdict of the map of slices stands for; the chain is empty if it is no chain.
    pub(crate) fn standing_of(&self, chain: &str, relay: Option<MacAddr>) -> Standing {
        match chain {
            LEASED => Standing::Own,
            SHARED => Standing::Shared,
            HEIR => Standing::Heir,
            TAKING => Standing::Taking,
            MOVING => Standing::Moving,
            INCOMING => Standing::Incoming,
            other if other == self.relaying_chain() => relay.map_or(Standing::Foreign, Standing::Relaying),
            _ => Standing::Foreign,
        }
    }
}

/// The service whose objects have the plain names.
const DEFAULT: &str = "default";

/// Of the name of a map of slices, the name of its service.
pub(crate) fn service_of(slices_map: &str) -> Option<&str> {
    match slices_map.strip_prefix("slices")? {
        "" => Some(DEFAULT),
        rest => rest.strip_prefix('_'),
    }
}

/// What has to be taken out of and put into the maps of one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub slices_out: Vec<Element>,
    pub slices_in: Vec<Element>,
    pub relays_out: Vec<Element>,
    pub relays_in: Vec<Element>,
}

impl Change {
    /// From one state of a service to another. The data of an element cannot be changed in place.
    pub(crate) fn between(from: &Service, to: &Service) -> Self {
        let mut change = Self::default();
        let numbers: BTreeSet<u32> = from.slices.keys().chain(to.slices.keys()).copied().collect();
        for n in numbers {
            let (old, new) = (from.slice_element(n), to.slice_element(n));
            if old != new {
                change.slices_out.push(old);
                change.slices_in.push(new);
            }
            let (old, new) = (from.relay_element(n), to.relay_element(n));
            if old != new {
                change.relays_out.extend(old);
                change.relays_in.extend(new);
            }
        }
        change
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);

    fn service(tracked: bool, slices: &[(u32, Standing)]) -> Service {
        Service { slices: slices.iter().copied().collect(), ..Service::everything("default", tracked) }
    }

    #[test]
    fn only_what_differs_is_changed() {
        use Standing::*;
        let from = service(true, &[(1, Own), (2, Own), (3, Relaying(B)), (4, Relaying(B)), (5, Foreign)]);
        let to = service(true, &[(1, Own), (2, Relaying(B)), (3, Relaying(C)), (4, Moving)]);
        let change = Change::between(&from, &to);
        let keys = |elements: &[Element]| elements.iter().map(|e| e.key.to_nft()).collect::<Vec<_>>();
        assert_eq!(keys(&change.slices_in), ["2", "4"]);
        assert_eq!(keys(&change.slices_out), ["2", "4"]);
        assert_eq!(keys(&change.relays_out), ["3", "4"]);
        assert_eq!(keys(&change.relays_in), ["2", "3"]);
        assert!(Change::between(&to, &to).is_empty());
    }

    #[test]
    fn untracked_services_know_no_connections() {
        use Standing::*;
        let service = service(false, &[(1, Shared), (2, Moving), (3, Taking), (4, Heir)]);
        let verdicts: Vec<String> = (1..5).map(|n| service.slice_element(n).to_nft()).collect();
        assert_eq!(verdicts, ["1 : goto leased", "2 : drop", "3 : goto taking", "4 : goto leased"]);
    }

    #[test]
    fn names_lead_back_to_the_service() {
        for name in ["default", "dns", "a-b", "slices"] {
            assert_eq!(service_of(&Service::everything(name, true).slices_map()), Some(name));
        }
        assert_eq!(service_of("relays"), None);
        assert_eq!(service_of("slicesx"), None);
    }
}
