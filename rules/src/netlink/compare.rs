//! What is wanted beside what was found, difference by difference.

use std::fmt;

use super::{
    Error,
    object::{self, FILTER, Home, POLICY_ACCEPT},
    read::{self, Found, FoundChain, FoundElement, FoundRule, FoundSet},
    transaction::raw_key,
};
use crate::model::*;

/// One way in which the kernel's table is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, in the order of `nft list ruleset`: "table netdev onemac, chain ingress, rule 3".
    pub place: String,
    /// What should be there, as nft text; `None` if nothing should.
    pub wanted: Option<String>,
    /// What is there, as nft text if it is ours and as kernel expressions if not; `None` if nothing is.
    pub found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.wanted, &self.found) {
            (Some(wanted), Some(found)) => write!(f, "{}: wanted `{wanted}`, found `{found}`", self.place),
            (Some(wanted), None) => write!(f, "{}: wanted `{wanted}`, but it is missing", self.place),
            (None, Some(found)) => write!(f, "{}: found `{found}`, which is not wanted", self.place),
            (None, None) => f.write_str(&self.place),
        }
    }
}

/// Elements named in one difference; the rest is counted.
const ELEMENTS_SHOWN: usize = 8;

struct Comparison {
    family: Family,
    place: String,
    differences: Vec<Difference>,
}

/// That there is a table of ours that is not wanted.
pub(super) fn superfluous(home: Home<'_>) -> Difference {
    let table = format!("table {} {}", home.family.name(), home.table);
    Difference { place: table.clone(), wanted: None, found: Some(table) }
}

/// All differences between the wanted table and the found one.
pub(super) fn table(wanted: &Table, found: Option<&Found>) -> Result<Vec<Difference>, Error> {
    let place = format!("table {} {}", wanted.family.name(), wanted.name);
    let mut comparison = Comparison { family: wanted.family, place, differences: Vec::new() };
    match found {
        None => comparison.add("", Some(format!("table {} {}", wanted.family.name(), wanted.name)), None),
        Some(found) => {
            comparison.userdata("", &wanted.comment, &wanted.userdata(), &found.userdata);
            comparison.sets(wanted, found)?;
            comparison.chains(wanted, found)?;
        }
    }
    Ok(comparison.differences)
}

impl Comparison {
    fn add(&mut self, place: &str, wanted: Option<String>, found: Option<String>) {
        let place = if place.is_empty() { self.place.clone() } else { format!("{}, {place}", self.place) };
        self.differences.push(Difference { place, wanted, found });
    }

    fn unequal(&mut self, place: &str, what: &str, wanted: impl fmt::Display, found: impl fmt::Display) {
        let (wanted, found) = (wanted.to_string(), found.to_string());
        if wanted != found {
            self.add(place, Some(format!("{what} {wanted}")), Some(format!("{what} {found}")));
        }
    }

    fn userdata(&mut self, place: &str, comment: &str, wanted: &[u8], found: &[u8]) {
        if wanted != found {
            let wanted = format!("comment \"{comment}\"");
            self.add(place, Some(wanted), Some("another comment or declaration".into()));
        }
    }

    fn sets(&mut self, wanted: &Table, found: &Found) -> Result<(), Error> {
        for set in &wanted.sets {
            let place = format!("set {}", set.name);
            match found.sets.iter().find(|f| f.name == set.name) {
                Some(found) => self.set(&place, set, found)?,
                None => {
                    let wanted = format!("set {} {{ {} }}", set.name, set.declaration());
                    self.add(&place, Some(wanted), None);
                }
            }
        }
        for set in found.sets.iter().filter(|f| wanted.set(&f.name).is_none()) {
            self.add(&format!("set {}", set.name), None, Some(format!("set {}", set.name)));
        }
        Ok(())
    }

    fn set(&mut self, place: &str, wanted: &Set, found: &FoundSet) -> Result<(), Error> {
        self.unequal(place, "key type number", wanted.key.number(), found.key_type);
        self.unequal(place, "key length", wanted.key.len(), found.key_len);
        let data_type = wanted.data.map_or(0, |kind| kind.number_and_len().0);
        self.unequal(place, "data type number", data_type, found.data_type.unwrap_or(0));
        self.unequal(place, "flags", wanted.flags(), found.flags);
        if !has_timeout(wanted, found.timeout) {
            self.unequal(place, "timeout in ms", timeout(wanted), found.timeout.unwrap_or(0));
        }
        self.unequal(place, "size", wanted.size.unwrap_or(0), found.size.unwrap_or(0));
        let declaration = format!("{} {}", wanted.declaration(), wanted.comment);
        self.userdata(place, &declaration, &wanted.userdata(), &found.userdata);

        if wanted.filled == Filled::ByPackets {
            return Ok(());
        }
        let mut surplus = found.elements.clone();
        let mut missing = Vec::new();
        let (mut changed_from, mut changed_to) = (Vec::new(), Vec::new());
        for element in &wanted.elements {
            let key = raw_key(&element.key, wanted.key);
            match surplus.remove(&key) {
                Some(found) if is_same(element.data.as_ref(), &found) => {}
                Some(found) => {
                    changed_from.push(element.to_nft());
                    changed_to.push(element.key.to_nft() + &show_data(&found));
                }
                // That a timed element has gone is what its time is for.
                None if element.timeout.is_some() => {}
                None => missing.push(element.to_nft()),
            }
        }
        if wanted.filled == Filled::ByBoth {
            let last = wanted.elements.last().map(|element| raw_key(&element.key, wanted.key));
            surplus.retain(|key, _| last.as_ref().is_none_or(|last| number(key) > number(last)));
        }
        if !changed_from.is_empty() {
            let elements = |changed: &[String]| Some(format!("elements {}", some_of(changed)));
            self.add(place, elements(&changed_from), elements(&changed_to));
        }
        if !missing.is_empty() {
            self.add(place, Some(format!("elements {}", some_of(&missing))), None);
        }
        if !surplus.is_empty() {
            let surplus: Vec<String> = surplus
                .iter()
                .map(|(key, element)| show_key(wanted.key, key) + &show_data(element))
                .collect();
            self.add(place, None, Some(format!("elements {}", some_of(&surplus))));
        }
        Ok(())
    }

    fn chains(&mut self, wanted: &Table, found: &Found) -> Result<(), Error> {
        for chain in &wanted.chains {
            let place = format!("chain {}", chain.name);
            match found.chains.iter().find(|f| f.name == chain.name) {
                Some(found) => self.chain(&place, chain, found)?,
                None => {
                    let hook = chain.hook.as_ref().map(Hook::to_nft).unwrap_or_default();
                    self.add(&place, Some(format!("chain {} {{ {hook} }}", chain.name)), None);
                }
            }
        }
        for chain in found.chains.iter().filter(|f| wanted.chain(&f.name).is_none()) {
            self.add(&format!("chain {}", chain.name), None, Some(format!("chain {}", chain.name)));
        }
        Ok(())
    }

    fn chain(&mut self, place: &str, wanted: &Chain, found: &FoundChain) -> Result<(), Error> {
        self.userdata(place, &wanted.comment, &wanted.userdata(), &found.userdata);
        self.unequal(place, "", hook(wanted), found_hook(found));

        let expected = |rule: &Rule| expected(self.family, rule);
        let codes: Vec<FoundRule> = wanted.rules.iter().map(expected).collect::<Result<_, _>>()?;
        // What stands in the same order at the beginning and at the end is taken as the same, so that one
        // rule that is missing in the middle is one difference.
        let head = codes.iter().zip(&found.rules).take_while(|(a, b)| a == b).count();
        let tail = codes[head..]
            .iter()
            .rev()
            .zip(found.rules[head..].iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        let wanted_rules = &wanted.rules[head..wanted.rules.len() - tail];
        let found_rules = &found.rules[head..found.rules.len() - tail];
        for n in 0..wanted_rules.len().max(found_rules.len()) {
            let wanted_text = wanted_rules.get(n).map(Rule::to_nft);
            let found_text = found_rules.get(n).map(|rule| rule.code.join("; "));
            self.add(&format!("{place}, rule {}", head + n + 1), wanted_text, found_text);
        }
        Ok(())
    }
}

/// The hook of a chain in words.
pub(super) fn hook(chain: &Chain) -> String {
    chain.hook.as_ref().map_or("no hook".into(), |h| {
        format!(
            "type {} hook {} device {} priority {} policy {POLICY_ACCEPT}",
            FILTER.to_string_lossy(),
            h.number(),
            h.device().unwrap_or_default(),
            h.priority
        )
    })
}

/// The same of a chain that was found.
pub(super) fn found_hook(chain: &FoundChain) -> String {
    chain.hook.as_ref().map_or("no hook".into(), |h| {
        format!(
            "type {} hook {} device {} priority {} policy {}",
            h.kind, h.number, h.device, h.priority, h.policy
        )
    })
}

/// Whether a set that was found is declared as wanted, whatever is in it.
pub(super) fn is_declared(wanted: &Set, found: &FoundSet) -> bool {
    let wanted_data = wanted.data.map_or(0, |kind| kind.number_and_len().0);
    wanted.key.number() == found.key_type
        && wanted.key.len() == found.key_len
        && wanted_data == found.data_type.unwrap_or(0)
        && wanted.flags() == found.flags
        && has_timeout(wanted, found.timeout)
        && wanted.size.unwrap_or(0) == found.size.unwrap_or(0)
        && wanted.userdata() == found.userdata
}

/// The default of a set's elements in milliseconds; none is zero.
fn timeout(set: &Set) -> u64 {
    match set.timeout {
        Timeout::All(after) => after.as_millis() as u64,
        Timeout::Never | Timeout::Some => 0,
    }
}

/// The kernel counts in ticks, of which there are 100 to 1,000 in a second, and tells what it made of it.
fn has_timeout(set: &Set, found: Option<u64>) -> bool {
    let (wanted, found) = (timeout(set), found.unwrap_or(0));
    (wanted == 0) == (found == 0) && wanted.abs_diff(found) < 10
}

/// Whether a chain has the wanted rules already.
pub(super) fn has_rules(family: Family, wanted: &Chain, found: Option<&FoundChain>) -> Result<bool, Error> {
    let Some(found) = found else { return Ok(wanted.rules.is_empty()) };
    let rules: Vec<FoundRule> =
        wanted.rules.iter().map(|rule| expected(family, rule)).collect::<Result<_, _>>()?;
    Ok(rules == found.rules)
}

/// The rule as it is going to be found.
fn expected(family: Family, rule: &Rule) -> Result<FoundRule, Error> {
    let code = rule
        .bytecode(family)
        .iter()
        .map(|code| {
            let expression = object::expression(code)?;
            // SAFETY: the expression was just made.
            Ok(unsafe { object::print(expression.as_ptr()) })
        })
        .collect::<Result<_, Error>>()?;
    Ok(FoundRule { code, userdata: rule.userdata() })
}

/// A found key in the set's own words.
fn show_key(kind: KeyType, bytes: &[u8]) -> String {
    let number32 = || bytes.first_chunk().map(|b| u32::from_ne_bytes(*b));
    match kind {
        KeyType::Ipv4 => bytes.first_chunk::<4>().map(|b| std::net::Ipv4Addr::from(*b).to_string()),
        KeyType::Ipv6 => bytes.first_chunk::<16>().map(|b| std::net::Ipv6Addr::from(*b).to_string()),
        KeyType::Slice { .. } => number32().map(|n| n.to_string()),
        KeyType::Time => number(bytes).map(crate::text::time),
        KeyType::Device => number32().map(|n| format!("device with index {n}")),
        KeyType::Mark => number32().map(|n| format!("{n:#x}")),
        KeyType::IcmpType | KeyType::Icmpv6Type => bytes.first().map(u8::to_string),
        KeyType::Ipv4Port | KeyType::Ipv6Port => {
            read::client(bytes).map(|(address, port)| format!("{address} . {port}"))
        }
        KeyType::Raw(_) | KeyType::RawPair(..) | KeyType::ProtocolPort => None,
    }
    .unwrap_or_else(|| crate::text::hex(bytes))
}

/// Whether the element that was found leads to what is wanted.
pub(super) fn is_same(wanted: Option<&Data>, found: &FoundElement) -> bool {
    let (verdict, data) = match wanted {
        None => (None, None),
        Some(Data::Verdict(v)) => (Some((v.number(), v.chain().unwrap_or_default().to_owned())), None),
        Some(Data::Mac(mac)) => (None, Some(mac.0.to_vec())),
    };
    found.verdict == verdict && found.data == data
}

/// A key of eight bytes in the machine's order.
fn number(key: &[u8]) -> Option<u64> {
    key.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

fn show_data(element: &FoundElement) -> String {
    match &element.verdict {
        None => element.data.as_deref().map(|d| format!(" : {}", crate::text::hex(d))).unwrap_or_default(),
        Some((number, _)) if *number == Verdict::Drop.number() => " : drop".into(),
        Some((number, _)) if *number == Verdict::Accept.number() => " : accept".into(),
        Some((_, chain)) if !chain.is_empty() => format!(" : goto {chain}"),
        Some((number, _)) => format!(" : verdict {number}"),
    }
}

fn some_of(names: &[String]) -> String {
    let shown = names[..names.len().min(ELEMENTS_SHOWN)].join(", ");
    match names.len().saturating_sub(ELEMENTS_SHOWN) {
        0 => format!("{{ {shown} }}"),
        more => format!("{{ {shown}, and {more} more }}"),
    }
}
