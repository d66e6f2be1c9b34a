//! Which variant of an experiment a listener is in.
//!
//! A keyed hash of the user id falls into the variants' shares of the interval [0, 1): always the same for the same id,
//! key and shares, whoever else there is, on every replica. Without the key nobody can tell, or choose, a variant.
//!
//! The shares are laid out in the order of the configuration: giving share from one variant to its neighbour moves only
//! listeners between these two.

use std::{fmt, path::Path, sync::Arc};

use duet_core::{Error, Result};
use duet_train::evaluate::Baseline;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    config::{TWO_TOWER, VariantConfig},
    served_log::user_hash_key,
};

/// How far the sum of the shares may be from 1.
const SUM_TOLERANCE: f64 = 1e-6;
/// The hash of a user id for the log must not tell the variant, nor the other way round.
const PURPOSE: &[u8] = b"duet variant\0";
/// The key where there is none: listeners stay in their variants, but whoever reads this can tell which.
const NO_KEY: &[u8] = b"duet: no key for variants";

/// What makes the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arm {
    /// The model.
    TwoTower,
    /// A baseline, by its name on the command line of `duet evaluate`.
    Baseline(String),
}

impl Arm {
    /// The name in configurations.
    pub fn name(&self) -> &str {
        match self {
            Self::TwoTower => TWO_TOWER,
            Self::Baseline(name) => name,
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        // No bundle holds the truth that the oracle knows.
        let baselines =
            Baseline::ALL.into_iter().filter(|&baseline| baseline != Baseline::Oracle).map(Baseline::as_str);
        match name {
            TWO_TOWER => Ok(Self::TwoTower),
            name if baselines.clone().any(|baseline| baseline == name) => Ok(Self::Baseline(name.to_owned())),
            name => Err(Error::unknown("recommender", name, std::iter::once(TWO_TOWER).chain(baselines))),
        }
    }
}

/// One variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// As configured.
    pub name: String,
    /// What makes the lists.
    pub recommender: Arm,
    /// Whether the boosted trees put them in order.
    pub rerank: bool,
}

/// All variants, and who gets which.
pub struct Variants {
    key: Hmac<Sha256>,
    variants: Vec<Arc<Variant>>,
    /// Where the share of each ends in [0, 1); the last is 1.
    ends: Vec<f64>,
}

impl fmt::Debug for Variants {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Variants").field("variants", &self.variants).finish_non_exhaustive()
    }
}

impl Variants {
    /// Checks the configuration and divides listeners by a key.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no variant, a name is empty or occurs twice, a share is not positive, the shares do
    /// not add up to 1, or a recommender is unknown.
    pub fn new(configs: &[VariantConfig], key: &[u8]) -> Result<Self> {
        let (variants, ends) = Self::check(configs)?;
        let key =
            Hmac::new_from_slice(key).map_err(|error| Error::Internal(format!("the key of the variants: {error}")))?;
        Ok(Self { key, variants, ends })
    }

    /// The variants of a configuration, and where the share of each ends in [0, 1).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn check(configs: &[VariantConfig]) -> Result<(Vec<Arc<Variant>>, Vec<f64>)> {
        if configs.is_empty() {
            return Err(Error::input("variants: at least one is needed, e.g. one with share = 1"));
        }
        let mut variants: Vec<Arc<Variant>> = Vec::with_capacity(configs.len());
        let (mut ends, mut sum) = (Vec::with_capacity(configs.len()), 0.0_f64);
        for VariantConfig { name, share, recommender, rerank } in configs {
            if name.trim().is_empty() {
                return Err(Error::input("variants: every variant needs a name"));
            }
            if variants.iter().any(|other| other.name == *name) {
                return Err(Error::input(format!("variants: the name {name:?} occurs twice")));
            }
            if !(*share > 0.0 && share.is_finite()) {
                return Err(Error::input(format!(
                    "variant {name:?}: share = {share}; it must be positive, and all shares together 1"
                )));
            }
            let arm = Arm::parse(recommender).map_err(|error| Error::input(format!("variant {name:?}: {error}")))?;
            variants.push(Arc::new(Variant { name: name.clone(), recommender: arm, rerank: *rerank }));
            sum += share;
            ends.push(sum);
        }
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(Error::input(format!("variants: the shares add up to {sum}, not to 1")));
        }
        if let Some(last) = ends.last_mut() {
            *last = 1.0;
        }
        Ok((variants, ends))
    }

    /// As [`Self::new`]; the key is that of the served-list log in `log_dir`, made if it is missing. Without a
    /// log the key is one that everybody knows.
    ///
    /// # Errors
    /// As [`Variants::new`] and [`user_hash_key`].
    pub fn keyed_beside(configs: &[VariantConfig], log_dir: Option<&Path>) -> Result<Self> {
        match log_dir {
            Some(dir) => Self::new(configs, &user_hash_key(dir)?),
            None => Self::new(configs, NO_KEY),
        }
    }

    /// The variant of a user, given by any id that stays the same.
    pub fn of(&self, user_id: &str) -> Arc<Variant> {
        // Most services run no test: nothing is hashed for them.
        if let [only] = self.variants.as_slice() {
            return Arc::clone(only);
        }
        let mut mac = self.key.clone();
        mac.update(PURPOSE);
        mac.update(user_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        let number = digest[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        // 53 bits: as many as a float has.
        let place = (number >> 11) as f64 / (1_u64 << 53) as f64;
        let at = self.ends.partition_point(|end| *end <= place).min(self.variants.len() - 1);
        Arc::clone(&self.variants[at])
    }

    /// All, as configured.
    pub fn all(&self) -> &[Arc<Variant>] {
        &self.variants
    }

    /// The baselines that the variants need, each once.
    pub fn baselines(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for variant in &self.variants {
            if let Arm::Baseline(name) = &variant.recommender
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(name: &str, share: f64, recommender: &str) -> VariantConfig {
        VariantConfig { name: name.into(), share, recommender: recommender.into(), rerank: false }
    }

    fn refused(configs: &[VariantConfig]) -> String {
        Variants::new(configs, b"key").err().unwrap().to_string()
    }

    #[test]
    fn impossible_configurations_say_what_would_be_possible() {
        assert!(refused(&[]).contains("at least one"));
        assert!(refused(&[config(" ", 1.0, "two-tower")]).contains("needs a name"));
        assert!(refused(&[config("a", 0.5, "random"), config("a", 0.5, "two-tower")]).contains("\"a\" occurs twice"));
        for share in [0.0, -0.5, f64::NAN, f64::INFINITY] {
            assert!(refused(&[config("a", share, "random"), config("b", 1.0, "random")]).contains("variant \"a\""));
        }
        assert!(refused(&[config("a", 0.5, "random"), config("b", 0.49, "random")]).contains("0.99"));
        let unknown = refused(&[config("a", 1.0, "oracle")]);
        assert!(unknown.contains("\"oracle\"") && unknown.contains("two-tower, random, popularity"), "{unknown}");
        Variants::new(&[config("a", 0.3, "random"), config("b", 0.7 + 9e-7, "random")], b"key").unwrap();
    }

    #[test]
    fn baselines_are_named_once() {
        let configs = [config("a", 0.5, "two-tower"), config("b", 0.25, "trending"), config("c", 0.25, "trending")];
        let variants = Variants::new(&configs, b"key").unwrap();
        assert_eq!(variants.baselines(), ["trending"]);
        assert_eq!(variants.all()[1].recommender.name(), "trending");
    }

    #[test]
    fn the_key_decides_and_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let configs = [config("a", 0.5, "two-tower"), config("b", 0.5, "random")];
        let names = |variants: &Variants| -> Vec<String> {
            (0..200).map(|user| variants.of(&format!("u{user}")).name.clone()).collect()
        };
        let first = names(&Variants::keyed_beside(&configs, Some(dir.path())).unwrap());
        assert_eq!(first, names(&Variants::keyed_beside(&configs, Some(dir.path())).unwrap()));
        let unkeyed = names(&Variants::keyed_beside(&configs, None).unwrap());
        assert_eq!(unkeyed, names(&Variants::keyed_beside(&configs, None).unwrap()));
        assert_ne!(first, unkeyed);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Counts are binomial: six standard deviations are left room, and a share of 1 takes all.
        #[test]
        fn everybody_has_one_variant_by_the_shares(weights in prop::collection::vec(0.05..1.0_f64, 1..6), key in any::<[u8; 16]>()) {
            const USERS: usize = 20_000;
            let sum: f64 = weights.iter().sum();
            let configs: Vec<VariantConfig> =
                weights.iter().enumerate().map(|(n, weight)| config(&format!("v{n}"), weight / sum, "random")).collect();
            let variants = Variants::new(&configs, &key).unwrap();
            let of = |user: usize| variants.of(&format!("user {user}"));
            let mut counts = vec![0; configs.len()];
            for user in 0..USERS {
                let at = variants.all().iter().position(|variant| Arc::ptr_eq(variant, &of(user))).unwrap();
                counts[at] += 1;
            }
            for (count, config) in counts.iter().zip(&configs) {
                let expected = config.share * USERS as f64;
                let deviation = (expected * (1.0 - config.share)).sqrt();
                let off = (f64::from(*count) - expected).abs();
                prop_assert!(off <= 6.0 * deviation + 1e-6, "{} of {}", count, expected);
            }
        }

        /// Moving share between neighbours moves nobody between others, and nobody against the stream.
        #[test]
        fn a_change_of_shares_moves_only_those_it_must(given in 0.0..0.3_f64, key in any::<[u8; 16]>()) {
            let shares = |first: f64| {
                let configs = [config("a", first, "random"), config("b", 0.7 - first, "random"), config("c", 0.3, "random")];
                Variants::new(&configs, &key).unwrap()
            };
            let (before, after) = (shares(0.35), shares(0.35 + given));
            for user in 0..2_000 {
                let id = format!("user {user}");
                let (was, is) = (before.of(&id), after.of(&id));
                prop_assert!(was.name == is.name || (was.name == "b" && is.name == "a"), "{} to {}", was.name, is.name);
            }
        }
    }
}
