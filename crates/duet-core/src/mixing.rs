//! Well-mixed bits from counters and ids, the same on every machine.

/// What SplitMix64 adds to its state for every draw.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A draw of SplitMix64 (Steele, Lea & Flood 2014) from a state, which goes on by [`GOLDEN`]: every bit of the input flips every bit of
/// the output about half the time.
pub fn splitmix64(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(GOLDEN);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_sequence() {
        // The first draws of the authors' program from state 1234567.
        let draws = [0, 1, 2].map(|at: u64| splitmix64(1_234_567_u64.wrapping_add(GOLDEN.wrapping_mul(at))));
        assert_eq!(draws, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
