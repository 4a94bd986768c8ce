//! Chance that can be repeated: the seed is printed, and `IMAGEOPS_TEST_SEED` sets it.

/// The seed in the environment, or a new one.
pub fn seed() -> u64 {
    let given = std::env::var("IMAGEOPS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16)
}

/// A generator of numbers (xorshift64*).
pub struct Random(u64);

impl Random {
    /// Starts from the seed in the environment, or from a new one; says which.
    pub fn new(test: &str) -> Self {
        let seed = seed();
        eprintln!("{test}: IMAGEOPS_TEST_SEED={seed}");
        Self::from_seed(seed)
    }

    /// Starts from this seed.
    pub fn from_seed(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Bytes that nothing compresses.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
