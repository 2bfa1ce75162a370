//! A set of slices, as a bitmap.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A set of slice numbers. Compact: 4,096 slices are 512 bytes; serialised as the bitmap, or as the gaps
/// between its members where that is shorter, such as 130 bytes for 128 of 4,096.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u8>", try_from = "Vec<u8>")]
pub struct SliceSet {
    /// Bit `s % 8` of byte `s / 8`; no zero bytes at the end, so that equal sets are equal values.
    bits: Vec<u8>,
}

impl SliceSet {
    /// The empty set.
    pub const fn new() -> Self {
        SliceSet { bits: Vec::new() }
    }

    /// All slices `0..slices`.
    pub fn full(slices: u32) -> Self {
        (0..slices).collect()
    }

    /// Whether `slice` is in the set.
    pub fn contains(&self, slice: u32) -> bool {
        self.bits.get(slice as usize / 8).is_some_and(|byte| byte & (1 << (slice % 8)) != 0)
    }

    /// Adds `slice`; says whether it was new.
    pub fn insert(&mut self, slice: u32) -> bool {
        let byte = slice as usize / 8;
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        let new = !self.contains(slice);
        self.bits[byte] |= 1 << (slice % 8);
        new
    }

    /// Takes `slice` out; says whether it was there.
    pub fn remove(&mut self, slice: u32) -> bool {
        let there = self.contains(slice);
        if there {
            self.bits[slice as usize / 8] &= !(1 << (slice % 8));
            self.trim();
        }
        there
    }

    /// How many slices are in the set.
    pub fn len(&self) -> u32 {
        self.bits.iter().map(|b| b.count_ones()).sum()
    }

    /// Whether no slice is in the set.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&b| b == 0)
    }

    /// The slices in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bits.iter().enumerate().flat_map(|(i, &byte)| {
            (0..8u32).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| i as u32 * 8 + bit)
        })
    }

    /// What is in this set and not in `other`.
    pub fn minus(&self, other: &SliceSet) -> SliceSet {
        self.combine(other, |a, b| a & !b)
    }

    /// What is in both sets.
    pub fn and(&self, other: &SliceSet) -> SliceSet {
        self.combine(other, |a, b| a & b)
    }

    /// What is in either set.
    pub fn or(&self, other: &SliceSet) -> SliceSet {
        self.combine(other, |a, b| a | b)
    }

    fn combine(&self, other: &SliceSet, f: impl Fn(u8, u8) -> u8) -> SliceSet {
        let mut bits = vec![0; self.bits.len().max(other.bits.len())];
        for (i, byte) in bits.iter_mut().enumerate() {
            let at = |set: &SliceSet| set.bits.get(i).copied().unwrap_or(0);
            *byte = f(at(self), at(other));
        }
        let mut set = SliceSet { bits };
        set.trim();
        set
    }

    fn trim(&mut self) {
        while self.bits.last() == Some(&0) {
            self.bits.pop();
        }
    }
}

/// How a set is written: the first byte.
const BITMAP: u8 = 0;
const GAPS: u8 = 1;
/// No definition has more slices.
const SLICES_MAX: u32 = 4096;

impl From<SliceSet> for Vec<u8> {
    fn from(set: SliceSet) -> Vec<u8> {
        let mut gaps = vec![GAPS];
        let mut next = 0;
        for slice in set.iter() {
            // Seven bits a byte, the lowest first, the highest bit for "more" (as in protocol buffers).
            let mut gap = slice - next;
            while gap >= 0x80 {
                gaps.push(gap as u8 | 0x80);
                gap >>= 7;
            }
            gaps.push(gap as u8);
            next = slice + 1;
        }
        match gaps.len() <= set.bits.len() {
            true => gaps,
            false => [vec![BITMAP], set.bits].concat(),
        }
    }
}

impl TryFrom<Vec<u8>> for SliceSet {
    type Error = &'static str;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        let (&form, body) = bytes.split_first().ok_or("no form")?;
        let mut set = SliceSet::new();
        match form {
            BITMAP if body.len() <= SLICES_MAX as usize / 8 => {
                set.bits = body.into();
                set.trim();
            }
            GAPS => {
                let mut body = body.iter();
                let mut next = 0u32;
                while let Some(&first) = body.next() {
                    let mut gap = u32::from(first & 0x7f);
                    if first & 0x80 != 0 {
                        let &second =
                            body.next().filter(|&&b| b & 0x80 == 0).ok_or("a gap without an end")?;
                        gap |= u32::from(second) << 7;
                    }
                    let slice = next + gap;
                    if slice >= SLICES_MAX {
                        return Err("more slices than there can be");
                    }
                    set.insert(slice);
                    next = slice + 1;
                }
            }
            _ => return Err("an unknown form of a set"),
        }
        Ok(set)
    }
}

impl FromIterator<u32> for SliceSet {
    fn from_iter<I: IntoIterator<Item = u32>>(iter: I) -> Self {
        let mut set = SliceSet::new();
        for slice in iter {
            set.insert(slice);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[test]
    fn sets_are_written_in_the_shorter_form_and_rubbish_is_refused() {
        let len = |set: SliceSet| Vec::from(set).len();
        assert_eq!(len(SliceSet::new()), 1);
        assert_eq!(len(SliceSet::full(4096)), 513);
        assert!(len((0..128).map(|i| i * 32).collect()) <= 130);
        for wrong in [&[][..], &[7], &[1, 0x80], &[1, 0xff, 0xff], &[1, 0xff, 0x7f], &[0; 514]] {
            assert!(SliceSet::try_from(wrong.to_vec()).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a in proptest::collection::btree_set(0u32..4096, 0..600)) {
            let set: SliceSet = a.iter().copied().collect();
            prop_assert_eq!(SliceSet::try_from(Vec::from(set.clone())), Ok(set));
        }

        #[test]
        fn behaves_like_a_tree_set(a in proptest::collection::btree_set(0u32..4096, 0..60),
                                   b in proptest::collection::btree_set(0u32..4096, 0..60),
                                   gone in 0u32..4096) {
            let (sa, sb): (SliceSet, SliceSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let list = |s: &SliceSet| s.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(list(&sa), a.clone());
            prop_assert_eq!(list(&sa.minus(&sb)), &a - &b);
            prop_assert_eq!(list(&sa.and(&sb)), &a & &b);
            prop_assert_eq!(list(&sa.or(&sb)), &a | &b);
            prop_assert_eq!(sa.len() as usize, a.len());
            let (mut t, mut st) = (a.clone(), sa.clone());
            prop_assert_eq!(st.remove(gone), t.remove(&gone));
            prop_assert_eq!(st, t.into_iter().collect::<SliceSet>());
        }
    }
}
