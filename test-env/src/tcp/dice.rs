//! Random numbers that a seed repeats.

/// A generator by SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014):
/// one word of state, and the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0. By multiply-high: the bias is below bound / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        // The product's upper half is below `bound`, so it fits again.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// One of these, or nothing where there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len())]) }
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn gives_the_published_numbers() {
        // The reference program's first three with seed 1234567.
        let mut dice = Dice::new(1_234_567);
        let first = [dice.next_u64(), dice.next_u64(), dice.next_u64()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn reaches_every_number_below_the_bound_and_no_other() {
        let mut dice = Dice::new(1);
        let mut seen = [0; 7];
        for _ in 0..7_000 {
            seen[dice.below(7)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 800), "{seen:?}");
    }
}
