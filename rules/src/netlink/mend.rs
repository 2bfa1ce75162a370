//! From the table that is there to the one that is wanted, touching only what differs.
//!
//! A table that is deleted and made anew in one transaction is never half there, and still not free: a packet
//! that is in the old rules at that very moment finds the old sets empty. So whatever can stay stays.

use std::collections::BTreeMap;

use super::{
    Error, compare,
    object::{Home, RawElement},
    read::{Found, FoundChain, FoundElement, FoundSet},
    transaction::{Transaction, raw_elements},
};
use crate::model::*;

/// Whether what is there can become what is wanted: what both have must be declared the same, since neither
/// sets, hooks nor comments can be changed.
pub(super) fn fits(wanted: &Table, found: &Found) -> bool {
    let set_fits = |set: &Set| match found.sets.iter().find(|f| f.name == set.name) {
        Some(found) => compare::is_declared(set, found),
        None => true,
    };
    let chain_fits = |chain: &Chain| match find(found, &chain.name) {
        Some(found) => {
            compare::hook(chain) == compare::found_hook(found) && chain.userdata() == found.userdata
        }
        None => true,
    };
    wanted.userdata() == found.userdata
        && wanted.sets.iter().all(set_fits)
        && wanted.chains.iter().all(chain_fits)
}

/// Writes the changes. The order is that of what needs what: rules need sets and chains, elements chains.
pub(super) fn mend(transaction: &mut Transaction, wanted: &Table, found: &Found) -> Result<(), Error> {
    let home = Home::from(wanted);
    for chain in wanted.chains.iter().filter(|c| find(found, &c.name).is_none()) {
        transaction.chain(home, chain)?;
    }
    let mut changed = Vec::new();
    for chain in &wanted.chains {
        let there = find(found, &chain.name);
        if !compare::has_rules(wanted.family, chain, there)? {
            changed.push(chain);
        }
    }
    let surplus_chains: Vec<&FoundChain> =
        found.chains.iter().filter(|c| wanted.chain(&c.name).is_none()).collect();
    let flushed = changed.iter().filter(|c| find(found, &c.name).is_some()).map(|c| c.name.as_str());
    for name in flushed.chain(surplus_chains.iter().map(|c| c.name.as_str())) {
        transaction.flush_chain(home, name)?;
    }
    for set in &wanted.sets {
        match found.sets.iter().find(|f| f.name == set.name) {
            Some(found) => mend_elements(transaction, home, set, found)?,
            None => {
                transaction.set(home, set)?;
                transaction.add_elements(home, set.key, &set.name, &set.elements)?;
            }
        }
    }
    for set in found.sets.iter().filter(|f| wanted.set(&f.name).is_none()) {
        transaction.delete_set(home, &set.name)?;
    }
    for chain in surplus_chains {
        transaction.delete_chain(home, &chain.name)?;
    }
    for chain in changed {
        transaction.add_rules(home, &chain.name, &chain.rules)?;
    }
    Ok(())
}

fn mend_elements(
    transaction: &mut Transaction,
    home: Home<'_>,
    wanted: &Set,
    found: &FoundSet,
) -> Result<(), Error> {
    if wanted.filled == Filled::ByPackets {
        return Ok(());
    }
    if wanted.timeout != Timeout::Never {
        // To be counted from now, and what has expired cannot be removed one by one.
        transaction.flush_set(home, &wanted.name)?;
        return transaction.add_elements(home, wanted.key, &wanted.name, &wanted.elements);
    }
    let raw = raw_elements(&wanted.elements, wanted.key);
    let stays = |element: &RawElement, there: &BTreeMap<Vec<u8>, FoundElement>| {
        there.get(&element.key).is_some_and(|found| compare::is_same(element.data.as_ref(), found))
    };
    let into: Vec<RawElement> = raw.iter().filter(|e| !stays(e, &found.elements)).cloned().collect();
    let staying: Vec<&Vec<u8>> = raw.iter().filter(|e| stays(e, &found.elements)).map(|e| &e.key).collect();
    let staying: std::collections::BTreeSet<&Vec<u8>> = staying.into_iter().collect();
    let out: Vec<RawElement> = found
        .elements
        .keys()
        .filter(|key| !staying.contains(key))
        .map(|key| RawElement { key: key.clone(), timeout_ms: None, data: None })
        .collect();
    transaction.remove_raw(home, &wanted.name, &out)?;
    transaction.add_raw(home, &wanted.name, &into)
}

fn find<'a>(found: &'a Found, chain: &str) -> Option<&'a FoundChain> {
    found.chains.iter().find(|c| c.name == chain)
}
