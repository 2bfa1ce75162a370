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
        self.0.into_iter().enumerate().flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i as u32 * 64 + bit)
            })
        })
    }

    fn combine(&self, other: &Mask, f: impl Fn(u64, u64) -> u64) -> Mask {
        let mut mask = *self;
        mask.0.iter_mut().zip(other.0).for_each(|(a, b)| *a = f(*a, b));
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_slices_of_a_set_are_named_in_order() {
        let slices = [0, 1, 63, 64, 100, 191, 192, 255];
        let mut mask = Mask::default();
        slices.iter().for_each(|&slice| mask.insert(slice));
        assert_eq!(mask.iter().collect::<Vec<_>>(), slices);
        assert_eq!(Mask::default().iter().next(), None);
    }
}
