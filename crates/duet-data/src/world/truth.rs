//! The true affinities, written apart from everything a recommender may see.
//!
//! `score(user, artist) = theta[user] . phi[artist]` is the probability that the user's next discovery in the last
//! `truth_days` is that artist: `phi` is the mean over those days, and `theta` counts the phases the user goes through
//! in them with their share of the choices. No ranking by anything else does better but by luck.
//!
//! `score(user, song) = theta[user] . phi[song]` is likewise the probability that the next song of a *discovered* artist, in those
//! days, is that song: the genre that leads to an artist decides between the artist's songs, too, so `phi[song][g]` is
//! `phi[artist][g]` divided among them. What can't be such a product is left out:
//! * 50 to 85 % of the choices of a user are artists they know: favourites from before the sign-up, discoveries of the last
//!   weeks. These were drawn from the same taste, so the score is about right on average over users with that taste; but it
//!   does not know the one user's history. A model that does may rank songs of known artists better than this oracle.
//! * The better a song fits, the less likely it is skipped: heard songs are a little closer to the taste than played ones.

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use duet_core::{Error, Result};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

use super::{
    behaviour::{MOOD_SHARE, PHASE_SHARE, World},
    json::{artist_id, song_id},
    listener::cumulate,
};

/// Songs whose vectors are in memory at a time; those of one artist stay together.
const SONG_ROWS: usize = 16_384;

/// Writes `id` and `vector` rows, a row group per batch, so that memory does not grow with the table.
pub(super) struct VectorWriter {
    path: std::path::PathBuf,
    id: &'static str,
    dim: usize,
    writer: ArrowWriter<File>,
}

impl VectorWriter {
    pub(super) fn create(path: &Path, id: &'static str, dim: usize) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(path))?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(file, Arc::new(schema(id, dim)), Some(properties))
            .map_err(|error| Error::data(path, error.to_string()))?;
        Ok(Self { path: path.to_path_buf(), id, dim, writer })
    }

    pub(super) fn write(&mut self, ids: &[String], vectors: Vec<f32>) -> Result<()> {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let write = || {
            let values = Arc::new(Float32Array::from(vectors)) as ArrayRef;
            let vectors = FixedSizeListArray::try_new(item, self.dim as i32, values, None)?;
            let ids = Arc::new(StringArray::from_iter_values(ids)) as ArrayRef;
            RecordBatch::try_new(Arc::new(schema(self.id, self.dim)), vec![ids, Arc::new(vectors)])
        };
        let batch = write().map_err(|error| Error::Internal(format!("{}: {error}", self.path.display())))?;
        let written = self.writer.write(&batch).and_then(|()| self.writer.flush());
        written.map_err(|error| self.failed(&error))
    }

    pub(super) fn close(self) -> Result<()> {
        let path = self.path;
        self.writer.close().map(|_| ()).map_err(|error| Error::Io { path, source: std::io::Error::other(error) })
    }

    fn failed(&self, error: &parquet::errors::ParquetError) -> Error {
        Error::Io { path: self.path.clone(), source: std::io::Error::other(error.to_string()) }
    }
}

fn schema(id: &str, dim: usize) -> Schema {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Schema::new(vec![
        Field::new(id, DataType::Utf8, false),
        Field::new("vector", DataType::FixedSizeList(item, dim as i32), false),
    ])
}

/// The oracle's vector of a user: their expected genre shares over the last `truth_days`.
pub(super) fn user_vector(world: &World<'_>, user: u64) -> Vec<f32> {
    let person = world.population.person(user);
    let theta = world.population.theta(user, &person);
    let cumulative = cumulate(&theta);
    let (days, count) = (world.options.days as i32, world.options.truth_days as i32);
    let share = PHASE_SHARE * MOOD_SHARE;
    let mut vector: Vec<f64> = theta.iter().map(|value| value * (1.0 - share)).collect();
    for day in days - count..days {
        vector[world.population.phase(user, day, &cumulative)] += share / f64::from(count);
    }
    vector.into_iter().map(|value| value as f32).collect()
}

/// Writes `artists.parquet`.
pub(super) fn write_artists(world: &World<'_>, path: &Path) -> Result<()> {
    let (days, count) = (world.options.days as i32, world.options.truth_days as i32);
    let phi = world.catalogue.phi(days - count..days);
    let genres = world.catalogue.genres;
    let mut writer = VectorWriter::create(path, "artist_id", genres)?;
    for (chunk, vectors) in phi.chunks(65_536 * genres).enumerate() {
        let first = chunk * 65_536;
        let ids: Vec<String> = (first..first + vectors.len() / genres).map(artist_id).collect();
        writer.write(&ids, vectors.to_vec())?;
    }
    writer.close()
}

/// Writes `songs.parquet`.
pub(super) fn write_songs(world: &World<'_>, path: &Path) -> Result<()> {
    let (days, count) = (world.options.days as i32, world.options.truth_days as i32);
    let catalogue = &world.catalogue;
    let totals: Vec<Vec<f64>> = (days - count..days).map(|day| catalogue.genre_totals(day)).collect();
    let mut writer = VectorWriter::create(path, "song_id", catalogue.genres)?;
    let (mut ids, mut vectors) = (Vec::new(), Vec::new());
    for artist in 0..catalogue.len() {
        ids.extend(catalogue.songs.of(artist).map(song_id));
        vectors.extend(catalogue.song_phi(artist, days - count..days, &totals));
        if ids.len() >= SONG_ROWS || artist + 1 == catalogue.len() {
            writer.write(&std::mem::take(&mut ids), std::mem::take(&mut vectors))?;
        }
    }
    writer.close()
}
