//! A bundle read for a service: everything live answers need, each file once and as many at a time as there are cores.
//!
//! [`crate::bundle::open`] is for commands that want vectors; this has the towers, the tables and the training events beside them.

use std::{path::Path, sync::Arc};

use duet_core::{Error, Result, config::Config, encoding::EncodedTable, table::FeatureTable};
use duet_data::dataset::{Dataset, Timeline};
use duet_model::{device::DeviceChoice, model::TwoTower};
use duet_retrieval::{
    search::{ExactIndex, Index, IvfIndex, VectorSearch},
    vectors::{Vectors, read_vectors},
};
use fs_err as fs;

use crate::{
    bundle::{self, BundleInfo},
    run::{self, RunInfo, WEIGHTS_FILE},
};

/// What a bundle holds.
#[derive(Debug)]
pub struct ServingParts {
    /// The manifest's body.
    pub info: BundleInfo,
    /// The run's configuration.
    pub config: Config,
    /// The run's record: encoders, dataset description.
    pub run: RunInfo,
    /// The dataset's tables that the bundle carries, for whoever reads more of them.
    pub dataset: Dataset,
    /// The items: ids, names, features.
    pub items: FeatureTable,
    /// The users: ids, features.
    pub users: FeatureTable,
    /// Encoded features of the users; one more row, the last, in which everything is missing.
    pub user_features: EncodedTable,
    /// Training events.
    pub timeline: Timeline,
    /// User vectors as of the export.
    pub user_vectors: Vectors,
    /// The index over the item vectors.
    pub index: Index,
    /// The towers and tables, on the CPU.
    pub model: TwoTower,
}

/// Reads and verifies a bundle.
///
/// # Errors
/// [`Error::Data`] naming the file that is missing, truncated or damaged, or if parts do not fit together.
pub fn open(dir: &Path) -> Result<ServingParts> {
    // A link may be turned to the next bundle while this one is read.
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let info = bundle::read_info(dir)?;
    let (config, run) = run::read_records(dir)?;
    let dataset = Dataset {
        dir: dir.join(bundle::DATA),
        info: run.dataset.clone(),
        fingerprint: info.dataset_fingerprint.clone(),
    };
    // A damaged file can fail both ways: what its checksum says is the better word for it.
    let (verified, parts) = rayon::join(
        || bundle::open_info(dir),
        || {
            let ((items, index), (model, (users, timeline))) = rayon::join(
                || rayon::join(|| dataset.items(), || read_index(dir, &info)),
                || {
                    rayon::join(
                        || run::load_model(&dir.join(WEIGHTS_FILE), &config, &run, &DeviceChoice::Cpu.open()?),
                        || rayon::join(|| read_users(dir, &dataset, &run), || dataset.timeline()),
                    )
                },
            );
            Ok::<_, Error>((items?, index?, model?, users?, timeline?))
        },
    );
    verified?;
    let (items, (index, item_ids), model, (users, user_features, user_vectors), timeline) = parts?;
    if item_ids.is_some_and(|ids| ids != items.ids.ids()) || index.vectors().len() != items.len() {
        return Err(Error::data(dir.join(bundle::ITEMS), "its ids are not those of the bundle's tables"));
    }
    let widths = [("user vectors", user_vectors.dim), ("index", index.vectors().dim)];
    if let Some((what, width)) = widths.iter().find(|(_, width)| *width != model.vector_width()) {
        let message = format!("{what} of {width} components, the model gives {}", model.vector_width());
        return Err(Error::data(dir, message));
    }
    Ok(ServingParts { info, config, run, dataset, items, users, user_features, timeline, user_vectors, index, model })
}

/// The index, with the ids of the item vectors where they were read: an IVF index has the vectors in its own file.
fn read_index(dir: &Path, info: &BundleInfo) -> Result<(Index, Option<Vec<String>>)> {
    if info.recall.nprobe.is_some() {
        return Ok((Index::Ivf(IvfIndex::load(&dir.join(bundle::INDEX))?), None));
    }
    let (ids, vectors) = read_vectors(&dir.join(bundle::ITEMS))?;
    Ok((Index::Exact(ExactIndex::new(Arc::new(vectors))?), Some(ids)))
}

fn read_users(dir: &Path, dataset: &Dataset, run: &RunInfo) -> Result<(FeatureTable, EncodedTable, Vectors)> {
    let path = dir.join(bundle::USERS);
    let (users, vectors) = rayon::join(|| dataset.users(), || read_vectors(&path));
    let (users, (ids, vectors)) = (users?, vectors?);
    if ids != users.ids.ids() {
        return Err(Error::data(path, "its ids are not those of the bundle's tables"));
    }
    let mut features = run.users.encode(&users)?;
    features.append(&run.users.missing_row());
    Ok((users, features, vectors))
}
