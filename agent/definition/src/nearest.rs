//! The nearest right name to a wrong one.

/// Longer names are not misspelt ones, and comparing them costs.
const LONGEST: usize = 40;

/// What people write who know the thing by another name. Used only where the right name is on offer.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("maglev", "mh"),
    ("round_robin", "rr"),
    ("least_connections", "lc"),
    ("leastconn", "lc"),
    ("source_hash", "sh"),
    ("failover", "fo"),
    ("dr", "direct"),
    ("direct_routing", "direct"),
    ("tun", "tunnel"),
    ("ipip", "tunnel"),
    ("masquerade", "nat"),
    ("masq", "nat"),
    ("nftables", "nft"),
    ("lvs", "ipvs"),
    ("https", "http"),
    ("ip", "client"),
    ("source", "client"),
    ("quorum", "majority"),
    ("disabled", "off"),
    ("false", "off"),
];

/// The name among `names` that a user who wrote `wrong` most likely meant.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    same_letters(wrong, names.clone())
        .or_else(|| other_name(wrong, OTHER_NAMES, names.clone()))
        .or_else(|| within(wrong, usize::MAX, names))
}

/// A name that differs only in case, `-` and `_`: `drain-timeout`, `drainTimeout`.
pub(crate) fn same_letters<'a>(wrong: &str, mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = letters(wrong)?;
    names.find(|name| letters(name).as_ref() == Some(&wrong))
}

/// The right name by a table of (other name, right name), where it is among `names`.
pub(crate) fn other_name<'a>(
    wrong: &str,
    table: &[(&str, &str)],
    names: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let wrong = letters(wrong)?;
    table
        .iter()
        .filter(|(other, _)| letters(other).as_ref() == Some(&wrong))
        .find_map(|(_, right)| names.clone().find(|name| name == right))
}

/// The name at the least distance (insertions, deletions, swaps), at most `most` and in proportion
/// to its length: one slip in three letters, two in six.
pub(crate) fn within<'a>(wrong: &str, most: usize, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = letters(wrong)?;
    names
        .filter_map(|name| {
            let right = letters(name)?;
            let distance = strsim::damerau_levenshtein(&wrong, &right);
            let bearable = (right.len().min(wrong.len()) / 3).min(3);
            (distance <= bearable.min(most)).then_some((distance, name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn letters(name: &str) -> Option<String> {
    if name.len() > LONGEST {
        return None;
    }
    let bare: String =
        name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).map(|c| c.to_ascii_lowercase()).collect();
    (!bare.is_empty()).then_some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_nothing_far_fetched() {
        let names = ["cluster", "vips", "hosts", "drain_timeout", "client-port", "rr", "mh"];
        for (wrong, right) in [
            ("clutser", Some("cluster")),
            ("vip", Some("vips")),
            ("host", Some("hosts")),
            ("drainTimeout", Some("drain_timeout")),
            ("drain-timeout", Some("drain_timeout")),
            ("client_port", Some("client-port")),
            ("Maglev", Some("mh")),
            ("RR", Some("rr")),
            ("wq", None),
            ("ports", None),
            ("", None),
            ("---", None),
        ] {
            assert_eq!(nearest(wrong, names.iter().copied()), right, "{wrong}");
        }
        assert_eq!(nearest(&"cluster".repeat(10), names.iter().copied()), None);
    }
}
