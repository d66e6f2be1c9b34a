//! What a configuration comes to on a dataset: rows that would train the same are trained once.

use duet_core::config::{CandidateSource, Config, Encoder, Objective};

use crate::batcher::ranks_catalogue;

/// What settings may do nothing for want of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DatasetTraits {
    /// Items with training events.
    pub(super) trained_items: usize,
    pub(super) has_time: bool,
    pub(super) has_user_features: bool,
    pub(super) has_item_features: bool,
}

/// The configuration with every setting that does nothing here at one value, and why: `(start of the keys, reason)`.
///
/// Two configurations that come out equal train the same model.
pub(super) fn canonical(config: &Config, traits: DatasetTraits) -> (Config, Vec<(&'static str, &'static str)>) {
    let mut config = config.clone();
    let mut reasons = Vec::new();
    let Config { data, model, loss, .. } = &mut config;
    if ranks_catalogue(loss.candidates, traits.trained_items) {
        loss.candidates = CandidateSource::Catalogue;
        (loss.uniform_negatives, loss.popularity_negatives) = (0, 0);
        (loss.logq, loss.logq_positives) = (true, false);
        reasons.push(("loss.candidates", "the whole catalogue is ranked here already"));
        reasons.push(("loss.logq", "the whole catalogue is ranked: nothing is sampled"));
    } else {
        loss.candidates = CandidateSource::Sampled;
    }
    if !loss.logq {
        loss.logq_positives = false;
    }
    if !model.normalise {
        (loss.temperature, loss.temperature_bounds, loss.learn_temperature) = (1.0, [1.0, 1.0], false);
        reasons.push(("loss.learn_temperature", "vectors are not normalised: there is no temperature"));
    }
    if !traits.has_time {
        model.trend_weight = 0.0;
        reasons.push(("model.trend_weight", "the data has no time"));
    }
    if model.trend_weight == 0.0 {
        model.trend_half_life_days = 1.0;
    }
    if !traits.has_user_features {
        model.user_features = false;
        reasons.push(("model.user_features", "the users have no features"));
    }
    if !traits.has_item_features && model.item_id {
        model.item_features = false;
        reasons.push(("model.item_features", "the items have no features"));
    }
    if !model.item_id {
        model.id_dropout = 0.0;
        reasons.push(("model.id_dropout", "items have no embedding by id"));
    }
    if model.encoder != Encoder::Transformer {
        (model.layers, model.heads, model.feed_forward, model.add_mean) = (1, 1, 1, false);
    }
    if data.objective == Objective::Masked {
        (data.future_items, data.position_fraction) = (1, 1.0);
    }
    (config, reasons)
}

/// Why a row is not trained: it would be `of` once more.
pub(super) fn same_as(of: &str, settings: &[String], reasons: &[(&'static str, &'static str)]) -> String {
    let said = reasons.iter().find(|(key, _)| settings.iter().any(|setting| setting.starts_with(key)));
    match said {
        Some((_, reason)) => format!("trains the same as {of}: {reason}"),
        None => format!("trains the same as {of}: its settings are so already"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SMALL: DatasetTraits =
        DatasetTraits { trained_items: 100, has_time: true, has_user_features: true, has_item_features: true };

    fn config(settings: &[&str]) -> Config {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Config::resolve(&[], &settings).unwrap()
    }

    fn same(a: &[&str], b: &[&str], traits: DatasetTraits) -> bool {
        canonical(&config(a), traits).0 == canonical(&config(b), traits).0
    }

    #[test]
    fn settings_that_do_nothing_make_no_difference() {
        let large = DatasetTraits { trained_items: 50_000, ..SMALL };
        assert!(same(&[], &["loss.candidates=catalogue"], SMALL));
        assert!(!same(&[], &["loss.candidates=catalogue"], large));
        assert!(same(&[], &["loss.candidates=sampled"], large));
        assert!(same(&[], &["loss.logq=false"], SMALL) && !same(&[], &["loss.logq=false"], large));
        assert!(same(&["loss.logq=false"], &["loss.logq=false", "loss.logq_positives=true"], large));
        assert!(same(&[], &["loss.learn_temperature=false"], SMALL), "no normalised vectors");
        let normalised = "model.normalise=true";
        assert!(!same(&[normalised], &[normalised, "loss.learn_temperature=false"], SMALL));
        let timeless = DatasetTraits { has_time: false, ..SMALL };
        assert!(same(&[], &["model.trend_weight=1.5"], timeless) && !same(&[], &["model.trend_weight=1.5"], SMALL));
        let bare = DatasetTraits { has_user_features: false, has_item_features: false, ..SMALL };
        let off = ["model.user_features=false", "model.item_features=false"];
        assert!(same(&[], &off, bare) && !same(&[], &off, SMALL));
        assert!(!same(&[], &["loss.mask_history=false"], SMALL));
    }

    #[test]
    fn reasons_are_those_of_the_keys() {
        let (_, reasons) = canonical(&config(&[]), DatasetTraits { has_time: false, ..SMALL });
        let say = |setting: &str| same_as("default", &[setting.to_owned()], &reasons);
        assert_eq!(say("model.trend_weight=0.0"), "trains the same as default: the data has no time");
        assert!(say("loss.candidates=catalogue").contains("ranked here already"));
        assert!(say("model.encoder=mean").contains("so already"));
    }
}
