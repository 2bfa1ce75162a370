//! Lists of connections, between the heir of a dead host and whoever else has connections of its slices: what
//! others want to know of ours, and what they have told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use onemac_core::holding::Holdings;
use onemac_core::jhash;
use onemac_core::node::Input;
use onemac_core::report::{Claims, Stamp};
use onemac_core::time::Time;
use onemac_core::view::DefinitionId;
use onemac_rules::ELSEWHERE_MAX;

use super::driver::Driver;
use super::looks::Clients;
use crate::clock;
use crate::gossip::letter::{Letter, Listing};
use crate::gossip::seal::Kind;

/// So many clients go into one letter, at most 20 bytes each, unless a slice alone has more: small enough for
/// a few fragments.
const CLIENTS: usize = 500;
/// More than this of one slice does not fit into a datagram: such a slice is not listed, and its new owner stays
/// silent to what it does not know.
const CLIENTS_MAX: usize = 3000;

/// Both sides of the lists.
#[derive(Default)]
pub struct Lists {
    /// What others have asked for.
    asked: BTreeMap<String, (Stamp, Claims)>,
    /// What others have listed, by host, service and slice.
    known: BTreeMap<(String, String, u32), Vec<(IpAddr, u16)>>,
    warned: bool,
}

impl Lists {
    /// Whether anybody waits for a list of ours.
    pub fn wanted(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The connections that live on other hosts, as the kernel is to know them.
    pub fn elsewhere(&self, slices: &Holdings) -> BTreeSet<(IpAddr, u16)> {
        let wanted = |host: &String, service: &String, slice| {
            let listed = slices.get(service).and_then(|held| held.listed.get(host));
            listed.is_some_and(|slices| slices.contains(slice))
        };
        let lists = self.known.iter().filter(|((host, service, slice), _)| wanted(host, service, *slice));
        lists.flat_map(|(_, clients)| clients).copied().collect()
    }

    /// Keeps what a host has listed, if there is room beside what is `needed` of the rest; whether there is.
    fn keep(
        &mut self,
        host: &str,
        listing: &Listing,
        slice_of: impl Fn(IpAddr) -> u32,
        needed: impl Fn(&str, &str, u32) -> bool,
    ) -> bool {
        self.known.retain(|(host, service, slice), _| needed(host, service, *slice));
        let key = |slice: u32| (host.to_owned(), listing.service.clone(), slice);
        let replaced: usize =
            listing.slices.iter().filter_map(|slice| self.known.get(&key(slice)).map(Vec::len)).sum();
        let others = self.known.values().map(Vec::len).sum::<usize>() - replaced;
        if others + listing.clients.len() > ELSEWHERE_MAX {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(
                    "other hosts have more than {ELSEWHERE_MAX} connections of slices that this host has taken over \
                     from a dead one: its clients in some of them will not be told that their connections are gone"
                );
            }
            return false;
        }
        let mut by_slice: BTreeMap<u32, Vec<(IpAddr, u16)>> = BTreeMap::new();
        for &(client, port) in &listing.clients {
            by_slice.entry(slice_of(client)).or_default().push((client, port));
        }
        for slice in listing.slices.iter() {
            self.known.insert(key(slice), by_slice.remove(&slice).unwrap_or_default());
        }
        true
    }
}

/// The letters that answer an ask for `slices`, of which `clients` is all that lives here.
fn letters(round: Stamp, slices: &Claims, clients: &Clients) -> Vec<Letter> {
    let mut letters = Vec::new();
    for (service, slices) in slices {
        let mut next = Listing { round, service: service.clone(), ..Listing::default() };
        for slice in slices.iter() {
            let of_slice = clients.get(&(service.clone(), slice)).map_or(&[][..], Vec::as_slice);
            if of_slice.len() > CLIENTS_MAX {
                continue;
            }
            if !next.slices.is_empty() && next.clients.len() + of_slice.len() > CLIENTS {
                let full = std::mem::replace(
                    &mut next,
                    Listing { round, service: service.clone(), ..Listing::default() },
                );
                letters.push(Letter::Listed(full));
            }
            next.slices.insert(slice);
            next.clients.extend(of_slice);
        }
        if !next.slices.is_empty() {
            letters.push(Letter::Listed(next));
        }
    }
    letters
}

impl Driver {
    /// A host wants to know which connections of these slices live here. Answered after the next look, if anything can
    /// be; it asks again.
    pub(super) fn asked_for_list(&mut self, from: String, round: Stamp, slices: Claims) {
        if !self.node.listable(&slices, clock::now()).is_empty() {
            self.lists.asked.insert(from, (round, slices));
            self.looks.hurry();
        }
    }

    /// The connections were looked at, sorted by the services of this definition.
    pub(super) fn answer_lists(&mut self, looked: Time, definition: DefinitionId, clients: &Clients) {
        if definition != self.node.definition() {
            return;
        }
        for (host, (round, wanted)) in std::mem::take(&mut self.lists.asked) {
            for letter in letters(round, &self.node.listable(&wanted, looked), clients) {
                self.voices.wire.send_to_hosts(Some(&host), Kind::Letter, &letter.encode());
            }
        }
    }

    /// A host has listed some of its connections.
    pub(super) async fn listed(&mut self, from: String, listing: Listing) {
        let (slices, seed) = (self.terms.definition.slices, self.terms.secrets.hash_seed());
        let slice_of = |client| jhash::slice_of(client, slices, seed);
        let needed = |host: &str, service: &str, slice| self.node.needs_list(host, service, slice);
        if listing.round != self.node.list_round() || !self.lists.keep(&from, &listing, slice_of, needed) {
            return;
        }
        let Listing { round, service, slices, .. } = listing;
        self.feed(Input::Listed { host: from, round, slices: [(service, slices)].into() }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemac_core::holding::Holding;
    use onemac_core::slices::SliceSet;

    fn client(slice: u32, n: u32) -> (IpAddr, u16) {
        let address = std::net::Ipv6Addr::from((u128::from(slice) << 64) | u128::from(n / 1000));
        (address.into(), (1024 + n % 1000) as u16)
    }

    fn slice_of(client: IpAddr) -> u32 {
        let IpAddr::V6(address) = client else { panic!("{client}") };
        (u128::from(address) >> 64) as u32
    }

    /// So many connections of each slice of a service.
    fn clients(of: &[(u32, u32)]) -> Clients {
        let list = |&(slice, many)| (("dns".into(), slice), (0..many).map(|n| client(slice, n)).collect());
        of.iter().map(list).collect()
    }

    fn asked(slices: &[u32]) -> Claims {
        [("dns".into(), slices.iter().copied().collect())].into()
    }

    const ROUND: Stamp = Stamp { incarnation: 3, seq: 7 };

    #[test]
    fn a_list_arrives_in_letters_that_fit() {
        let here = clients(&[(1, 3), (2, 499), (3, 0), (4, 2999), (9, 5)]);
        let letters = letters(ROUND, &asked(&[1, 2, 3, 4, 5]), &here);
        assert_eq!(letters.len(), 4);
        let mut lists = Lists::default();
        let mut told = SliceSet::new();
        for letter in &letters {
            let bytes = letter.encode();
            assert!(bytes.len() < 64_000, "{} bytes", bytes.len());
            let Some(Letter::Listed(listing)) = Letter::decode(&bytes) else { panic!("{letter:?}") };
            assert_eq!(listing.round, ROUND);
            told = told.or(&listing.slices);
            assert!(lists.keep("b", &listing, slice_of, |_, _, _| true));
        }
        assert_eq!(told, asked(&[1, 2, 3, 4, 5])["dns"]);
        let heir = |slices: &[u32]| {
            let listed = [("b".into(), slices.iter().copied().collect::<SliceSet>())].into();
            [("dns".into(), Holding { listed, ..Holding::default() })].into()
        };
        assert_eq!(lists.elsewhere(&heir(&[1, 3])), here[&("dns".into(), 1)].iter().copied().collect());
        assert_eq!(lists.elsewhere(&heir(&[2, 4, 5, 9])).len(), 499 + 2999);
    }

    #[test]
    fn a_later_list_of_a_slice_replaces_an_earlier_one() {
        let mut lists = Lists::default();
        for (many, host) in [(5, "b"), (2, "b"), (0, "c")] {
            for letter in letters(ROUND, &asked(&[1]), &clients(&[(1, many)])) {
                let Letter::Listed(listing) = letter else { panic!("{letter:?}") };
                assert!(lists.keep(host, &listing, slice_of, |_, _, _| true));
            }
        }
        for (host, many) in [("b", 2), ("c", 0), ("d", 0)] {
            let listed = [(host.into(), asked(&[1])["dns"].clone())].into();
            let held = Holding { listed, ..Holding::default() };
            assert_eq!(lists.elsewhere(&[("dns".into(), held)].into()).len(), many, "{host}");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_listed() {
        assert_eq!(letters(ROUND, &asked(&[1]), &clients(&[(1, 3001)])), []);
        let mut lists = Lists::default();
        let mut kept = 0;
        for slice in 0..40 {
            for letter in letters(ROUND, &asked(&[slice]), &clients(&[(slice, 2000)])) {
                let Letter::Listed(listing) = letter else { panic!("{letter:?}") };
                kept += u32::from(lists.keep("b", &listing, slice_of, |_, _, _| true));
            }
        }
        assert_eq!(kept as usize, ELSEWHERE_MAX / 2000);
    }

    /// What the core counts on must stay when a later letter does not fit.
    #[test]
    fn a_letter_that_does_not_fit_takes_nothing_away() {
        let mut lists = Lists::default();
        let full = ELSEWHERE_MAX / 2048;
        for slice in 0..full as u32 {
            for letter in letters(ROUND, &asked(&[slice]), &clients(&[(slice, 2040)])) {
                let Letter::Listed(listing) = letter else { panic!("{letter:?}") };
                assert!(lists.keep("b", &listing, slice_of, |_, _, _| true));
            }
        }
        let one = |slices: &[u32], of: &[(u32, u32)]| {
            let Letter::Listed(listing) = letters(ROUND, &asked(slices), &clients(of)).remove(0) else {
                panic!()
            };
            listing
        };
        assert!(lists.keep("b", &one(&[100], &[(100, 200)]), slice_of, |_, _, _| true));
        let heir = |slice: u32| {
            let listed = [("b".into(), [slice].into_iter().collect::<SliceSet>())].into();
            [("dns".into(), Holding { listed, ..Holding::default() })].into()
        };
        assert_eq!(lists.elsewhere(&heir(100)).len(), 200);
        // The same ask was sent twice; by the second time a slice more was missing.
        assert!(!lists.keep("b", &one(&[100, 101], &[(100, 200), (101, 299)]), slice_of, |_, _, _| true));
        assert_eq!(
            lists.elsewhere(&heir(100)).len(),
            200,
            "heir of a slice whose list is gone: all of it is reset"
        );
    }

    /// Lists of hosts that have died since take no room.
    #[test]
    fn lists_that_nothing_is_heir_by_take_no_room() {
        let mut lists = Lists::default();
        for host in ["b", "c"] {
            for slice in 0..30 {
                for letter in letters(ROUND, &asked(&[slice]), &clients(&[(slice, 2000)])) {
                    let Letter::Listed(listing) = letter else { panic!("{letter:?}") };
                    // Whatever b has listed is given up or dead by the time that c lists: no holding names it.
                    assert!(lists.elsewhere(&Holdings::new()).is_empty());
                    assert!(lists.keep(host, &listing, slice_of, |_, _, _| false), "{host} {slice}");
                }
            }
        }
    }
}
