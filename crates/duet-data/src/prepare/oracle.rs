//! The truth of a synthetic world, brought into the order of the dataset's tables.

use std::path::Path;

use arrow::{
    array::{Array, FixedSizeListArray, Float32Array, StringArray},
    datatypes::DataType,
};
use duet_core::{
    Error, Result,
    artifact::{DirWriter, link_file},
    table::FeatureTable,
};

use crate::{
    accounts::UserKey,
    dataset::{
        ORACLE_ITEMS_FILE, ORACLE_USERS_FILE, SONGS_DIR,
        parquet_file::{Reader, required},
        write_vectors,
    },
};

/// Writes the truth of a synthetic world into the dataset and the one of songs inside it, from the directory `truth`, in the order of
/// the tables: `users`, then those of artists and of songs.
pub(super) fn write(
    truth: &Path,
    user_key: &UserKey,
    writer: &DirWriter,
    users: &FeatureTable,
    [artists, songs]: [&FeatureTable; 2],
) -> Result<()> {
    let user_of = |id: &str| users.ids.get(&user_key.pseudonym_bytes(id).to_string()).map(|row| row as usize);
    let (vectors, dim) = read_vectors(&truth.join("users.parquet"), "user_id", users.len(), user_of)?;
    let users_path = writer.path(ORACLE_USERS_FILE);
    write_vectors(users_path.clone(), dim, &vectors)?;
    let song_dir = writer.path(SONGS_DIR);
    link_file(&users_path, &song_dir.join(ORACLE_USERS_FILE))?;
    for (file, id_column, items, dir) in [
        ("artists.parquet", "artist_id", artists, writer.dir()),
        ("songs.parquet", "song_id", songs, song_dir.as_path()),
    ] {
        let path = truth.join(file);
        let row_of = |id: &str| items.ids.get(id).map(|row| row as usize);
        let (vectors, item_dim) = read_vectors(&path, id_column, items.len(), row_of)?;
        if dim != item_dim {
            let message = format!("vectors of length {item_dim}, but those of the users have length {dim}");
            return Err(Error::data(path, message));
        }
        write_vectors(dir.join(ORACLE_ITEMS_FILE), dim, &vectors)?;
    }
    Ok(())
}

/// Vectors for `rows` rows, `[rows, dim]` row-major, from a file of `id_column` and `vector`; `row_of` finds the row of
/// an id of the file. Returns the vectors and their length.
fn read_vectors(
    path: &Path,
    id_column: &str,
    rows: usize,
    row_of: impl Fn(&str) -> Option<usize>,
) -> Result<(Vec<f32>, usize)> {
    let reader = Reader::open(path)?;
    let dim = match reader.fields().as_slice() {
        [(id, DataType::Utf8), (vector, DataType::FixedSizeList(item, dim))]
            if id == id_column && vector == "vector" && item.data_type() == &DataType::Float32 && *dim > 0 =>
        {
            *dim as usize
        }
        _ => {
            let wanted = format!("expected the columns {id_column} (text) and vector (list of f32 of fixed length)");
            return Err(Error::data(path, wanted));
        }
    };
    let mut vectors = vec![f32::NAN; rows * dim];
    let mut first_row = 1;
    for batch in reader.batches(None)? {
        let batch = batch?;
        let found = required::<StringArray>(path, &batch, 0, first_row)?;
        let lists = required::<FixedSizeListArray>(path, &batch, 1, first_row)?;
        for row in 0..batch.num_rows() {
            let Some(place) = row_of(found.value(row)) else { continue };
            let value = lists.value(row);
            let values = value.as_any().downcast_ref::<Float32Array>();
            let values =
                values.filter(|values| values.null_count() == 0 && values.values().iter().all(|x| x.is_finite()));
            let Some(values) = values else {
                return Err(Error::data_row(
                    path,
                    first_row + row as u64,
                    "the vector holds a value that is not finite",
                ));
            };
            vectors[place * dim..(place + 1) * dim].copy_from_slice(values.values());
        }
        first_row += batch.num_rows() as u64;
    }
    if vectors.iter().any(|value| value.is_nan()) {
        return Err(Error::data(
            path,
            "no vector for some id of the accounts or the catalogue: this is another world's truth",
        ));
    }
    Ok((vectors, dim))
}
