//! The model's scores of what was shown, against what was clicked.

use duet_core::{Result, mixing::splitmix64};
use duet_data::dataset::{ArtistImpression, Dataset};
use duet_retrieval::{
    VectorRecommender,
    calibration::{Calibration, Shown, calibrate},
    search::{Index, VectorSearch},
};

/// Impressions looked at, about; of more, those of some users.
const MOST: u64 = 2_000_000;

/// The calibration of a model over the impressions of its dataset; `None` if the dataset has none, or too few.
///
/// Impressions are those of the training period: the model has seen what came of many of them. One half of the users fits the
/// curve from score to probability, the other half is measured.
///
/// # Errors
/// As [`Dataset::for_each_artist_impression`].
pub(super) fn click_calibration(dataset: &Dataset, model: &VectorRecommender<Index>) -> Result<Option<Calibration>> {
    let mut impressions = 0_u64;
    if !dataset.for_each_artist_impression(|_| impressions += 1)? {
        return Ok(None);
    }
    let one_of = impressions.div_ceil(MOST).max(1);
    let (users, items) = (model.users(), model.search().vectors());
    let mut shown = Vec::new();
    dataset.for_each_artist_impression(|ArtistImpression { user, item, clicked, .. }| {
        let mixed = splitmix64(u64::from(user.0));
        if (mixed >> 1).is_multiple_of(one_of) && user.index() < users.len() && item.index() < items.len() {
            let (user, item) = (users.row(user.index()), items.row(item.index()));
            let score = user.iter().zip(item).map(|(a, b)| a * b).sum();
            shown.push(Shown { score, clicked, fits: mixed & 1 == 0 });
        }
    })?;
    match calibrate(&shown) {
        Ok(calibration) => Ok(Some(calibration)),
        Err(error) => {
            tracing::info!(%error, "scores are not compared with clicks");
            Ok(None)
        }
    }
}
