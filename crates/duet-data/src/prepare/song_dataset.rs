//! `songs/`: the dataset of songs inside the dataset in the making. Its per-user files are written by [`super::outputs`].

use duet_core::{
    Result,
    artifact::{DirWriter, link_file},
    table::FeatureTable,
};

use super::{features, outputs::Written};
use crate::dataset::{self, Counts, DatasetInfo, ITEMS_FILE, SONGS_DIR, SplitInfo, USERS_FILE};

/// Writes the tables. That of the users is the outer dataset's, which must be there: files of artifacts never change, so both
/// datasets may share one.
pub(super) fn write_tables(writer: &DirWriter, songs: &FeatureTable) -> Result<()> {
    let columns = features::song_schema().items;
    dataset::check_table(SONGS_DIR, songs, &columns)?;
    let dir = writer.path(SONGS_DIR);
    dataset::write_table(dir.join(ITEMS_FILE), songs, &columns)?;
    link_file(&writer.path(USERS_FILE), &dir.join(USERS_FILE))
}

/// What the manifest says of the dataset of songs, given that of artists.
pub(super) fn info(of_artists: &DatasetInfo, split: String, songs: &FeatureTable, written: &Written) -> DatasetInfo {
    DatasetInfo {
        item_kind: "song".to_owned(),
        schema: features::song_schema(),
        counts: Counts {
            users: of_artists.counts.users,
            items: songs.len() as u64,
            events: written.events,
            test_events: written.test_events,
            test_users: written.test_users,
        },
        split: SplitInfo { parameters: split, hash: written.split_hash.clone(), ..of_artists.split.clone() },
        ..of_artists.clone()
    }
}
