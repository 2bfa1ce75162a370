//! Who owns which slice: balanced rendezvous with a home.
//!
//! A pure function of the cluster's name, the service, the configured hosts with their weights, and which
//! of them are eligible now. Specified, apart from this code and with vectors of an independent script, in
//! `docs/ownership.md`. In short:
//!
//! 1. every (slice, host) pair has a BLAKE3 score;
//! 2. the *home* table gives each configured host its quota of slices, best scores first;
//! 3. eligible hosts keep their home slices; the slices of the others are dealt out, again by score,
//!    to the eligible hosts that are below their quota.
//!
//! Step 3 is why the first death in a whole cluster moves the dead host's slices and no other.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Domain separation of the scores; a change of the algorithm must change it.
const CONTEXT: &[u8] = b"onemac/ownership/1";

/// Slices and their owners for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    hosts: Vec<String>,
    /// Index into `hosts`, by slice; `NOBODY` where no host is eligible.
    owners: Vec<u16>,
}

const NOBODY: u16 = u16::MAX;

impl Table {
    /// The owner of `slice`; `None` if no host is eligible (or there is no such slice).
    pub fn owner(&self, slice: u32) -> Option<&str> {
        self.hosts.get(usize::from(*self.owners.get(slice as usize)?)).map(String::as_str)
    }

    /// The slices of `host`, ascending.
    pub fn slices_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = u32> + 'a {
        (0..self.owners.len() as u32).filter(move |&s| self.owner(s) == Some(host))
    }

    /// How many slices there are.
    pub fn slices(&self) -> u32 {
        self.owners.len() as u32
    }
}

/// A configured host as ownership sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its share relative to the others, 0..=100; 0 owns nothing.
    pub weight: u8,
    /// Whether it may own slices now: alive, serving, and well for this service.
    pub eligible: bool,
}

/// Computes the table for one service.
///
/// `hosts` holds every configured host; `slices` is the number of slices. Cost: one BLAKE3 stream of
/// `8 * slices` bytes a host and a sort of the pairs that are dealt out.
pub fn table(cluster: &str, service: &str, hosts: &BTreeMap<String, Candidate>, slices: u32) -> Table {
    let scores: Vec<Vec<u64>> = hosts.keys().map(|host| scores(cluster, service, host, slices)).collect();
    let weights: Vec<u64> = hosts.values().map(|c| u64::from(c.weight)).collect();
    let eligible: Vec<u64> =
        hosts.values().map(|c| if c.eligible { u64::from(c.weight) } else { 0 }).collect();

    let mut home = vec![NOBODY; slices as usize];
    deal(&mut home, &scores, quotas(&weights, &vec![0; weights.len()], slices));
    let owners = if weights == eligible { home } else { refill(&home, &scores, &eligible, slices) };
    Table { hosts: hosts.keys().cloned().collect(), owners }
}

/// Keeps the home slices of eligible hosts, up to their quota, and deals out the rest.
fn refill(home: &[u16], scores: &[Vec<u64>], weights: &[u64], slices: u32) -> Vec<u16> {
    let mut held: Vec<Vec<u32>> = vec![Vec::new(); scores.len()];
    for (slice, &host) in home.iter().enumerate() {
        if host != NOBODY {
            held[usize::from(host)].push(slice as u32);
        }
    }
    let counts: Vec<u64> = held.iter().map(|h| h.len() as u64).collect();
    let mut quotas = quotas(weights, &counts, slices);
    let mut owners = vec![NOBODY; home.len()];
    for (host, mut mine) in held.into_iter().enumerate() {
        mine.sort_by_key(|&s| (core::cmp::Reverse(scores[host][s as usize]), s));
        mine.truncate(quotas[host] as usize);
        quotas[host] -= mine.len() as u64;
        for slice in mine {
            owners[slice as usize] = host as u16;
        }
    }
    deal(&mut owners, scores, quotas);
    owners
}

/// Gives every slice that has no owner to a host with quota left, pairs of the highest score first;
/// equal scores go by the host's place in the order of names, then by slice.
fn deal(owners: &mut [u16], scores: &[Vec<u64>], mut quotas: Vec<u64>) {
    let free: Vec<usize> = (0..owners.len()).filter(|&s| owners[s] == NOBODY).collect();
    let mut pairs: Vec<(u64, u16, u32)> = Vec::with_capacity(free.len() * scores.len());
    for (host, scores) in scores.iter().enumerate().filter(|&(host, _)| quotas[host] > 0) {
        pairs.extend(free.iter().map(|&s| (scores[s], host as u16, s as u32)));
    }
    pairs.sort_unstable_by_key(|&(score, host, slice)| (core::cmp::Reverse(score), host, slice));
    for (_, host, slice) in pairs {
        let quota = &mut quotas[usize::from(host)];
        if owners[slice as usize] == NOBODY && *quota > 0 {
            owners[slice as usize] = host;
            *quota -= 1;
        }
    }
}

/// How many slices each host gets: its exact share rounded down, or up while slices are left.
///
/// Rounded up first: hosts that hold more than the rounded-down share at home (`held`), so that nothing
/// moves for the sake of rounding; then by the larger remainder; then by the order of names.
fn quotas(weights: &[u64], held: &[u64], slices: u32) -> Vec<u64> {
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let product = |host: usize| u64::from(slices) * weights[host];
    let mut quotas: Vec<u64> = (0..weights.len()).map(|h| product(h) / total).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|&h| weights[h] > 0).collect();
    order.sort_by_key(|&h| {
        let remainder = product(h) % total;
        let keeps = held[h] > quotas[h] && remainder > 0;
        (core::cmp::Reverse(keeps), core::cmp::Reverse(remainder), h)
    });
    let left = u64::from(slices) - quotas.iter().sum::<u64>();
    for &host in order.iter().take(left as usize) {
        quotas[host] += 1;
    }
    quotas
}

/// The scores of one host, by slice: a BLAKE3 stream cut into little-endian 64-bit numbers.
fn scores(cluster: &str, service: &str, host: &str, slices: u32) -> Vec<u64> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(CONTEXT);
    for name in [cluster, service, host] {
        // Names are at most 63 bytes (see the definition), so one byte of length is enough.
        hasher.update(&[name.len() as u8]);
        hasher.update(name.as_bytes());
    }
    let mut bytes = vec![0u8; slices as usize * 8];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
        .collect()
}
