//! The training events of a timeline as baselines take them.

use duet_core::Result;
use duet_data::dataset::Timeline;
use duet_retrieval::baselines::Interactions;

/// # Errors
/// [`duet_core::Error::Input`] if they are inconsistent, or of more than `n_items` items.
pub(crate) fn interactions(timeline: &Timeline, n_items: usize) -> Result<Interactions<'_>> {
    Interactions::new(&timeline.offsets, &timeline.items, &timeline.timestamps_ms, n_items)
}
