//! Counter-based random draws: a generator for any (seed, stream, a, b), made in nanoseconds and kept nowhere.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;

/// What the draws are for; two streams never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Stream {
    Effects = 1,
    Artist,
    Song,
    Name,
    User,
    Person,
    Day,
    Session,
    Discovery,
    Favourite,
    Phase,
    Dirt,
    Drift,
    Login,
}

/// A short-lived generator.
#[derive(Debug, Clone)]
pub(super) struct Draws(Pcg64Mcg);

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that spreads every bit over all.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draws {
    pub(super) fn new(seed: u64, stream: Stream, a: u64, b: u64) -> Self {
        let key = mix(seed.wrapping_add(GOLDEN.wrapping_mul(stream as u64)));
        let low = mix(mix(key ^ a).wrapping_add(GOLDEN) ^ b);
        let high = mix(low.wrapping_add(GOLDEN) ^ key);
        Self(Pcg64Mcg::new((u128::from(high) << 64) | u128::from(low)))
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.random::<f64>()
    }

    /// Uniform in `[low, high)`.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n` (0 for n = 0).
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    pub(super) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// Geometric on 1, 2, ... with the given mean, at most `cap`.
    pub(super) fn geometric(&mut self, mean: f64, cap: usize) -> usize {
        if mean <= 1.0 {
            return 1;
        }
        let stay = 1.0 - 1.0 / mean;
        let count = 1.0 + ((1.0 - self.unit()).ln() / stay.ln()).floor();
        (count as usize).min(cap)
    }

    /// One of a list.
    pub(super) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometric_has_its_mean_and_streams_differ() {
        let mut draws = Draws::new(1, Stream::User, 2, 3);
        let mean = (0..20_000).map(|_| draws.geometric(4.0, 1_000) as f64).sum::<f64>() / 20_000.0;
        assert!((mean - 4.0).abs() < 0.15, "{mean}");
        let first = |stream, a, b| Draws::new(1, stream, a, b).unit();
        assert_ne!(first(Stream::User, 2, 3), first(Stream::Day, 2, 3));
        assert_ne!(first(Stream::User, 2, 3), first(Stream::User, 3, 2));
    }
}
