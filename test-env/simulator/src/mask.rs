//! Sets of slices of all services, small and quick.

use onemac_core::report::Claims;

/// Up to 256 slices over all services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask([u64; 4]);

impl Mask {
    /// The claims of a world with `slices` slices for each of `services`.
    pub fn of(claims: &Claims, services: &[String], slices: u32) -> Mask {
        let mut mask = Mask::default();
        for (i, service) in services.iter().enumerate() {
            for slice in claims.get(service).into_iter().flat_map(|set| set.iter()) {
                mask.insert(i as u32 * slices + slice);
            }
        }
        mask
    }

    /// Adds a slice.
    pub fn insert(&mut self, bit: u32) {
        self.0[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// Whether a slice is in the set.
    pub fn contains(&self, bit: u32) -> bool {
        self.0[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    /// What is in both.
    pub fn and(&self, other: &Mask) -> Mask {
        self.combine(other, |a, b| a & b)
    }

    /// What is here and not there.
    pub fn minus(&self, other: &Mask) -> Mask {
        self.combine(other, |a, b| a & !b)
    }

    /// What is in either.
    pub fn or(&self, other: &Mask) -> Mask {
        self.combine(other, |a, b| a | b)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// How many slices are in the set.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The slices in the set.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..256).filter(|&bit| self.contains(bit))
    }

    fn combine(&self, other: &Mask, f: impl Fn(u64, u64) -> u64) -> Mask {
        let mut mask = *self;
        mask.0.iter_mut().zip(other.0).for_each(|(a, b)| *a = f(*a, b));
        mask
    }
}
