//! An [`IvfIndex`] as one file.
//!
//! ```text
//! header    magic "duet-ivf" · version u32 · dim u32 · items u64 · lists u32 · nprobe u32 · tuned u32 ·
//!           tuning (floor, recall@10, recall@100, worst@10 f64 · queries, under one half u64) · CRC-32 of all that
//! payload   centroids [lists, dim] f32 · list sizes [lists] u32 · items, list by list u32 · vectors [items, dim] f32
//! end       CRC-32 of the payload
//! ```
//!
//! Little-endian. The int8 codes are not stored: making them again from the vectors takes less time than reading
//! them, and leaves nothing to contradict the vectors. The header fixes the length of the file, which is compared
//! before anything is allocated, so a damaged count can't ask for memory that the file does not fill.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use crc32fast::Hasher;
use duet_core::{Error, Result, artifact::StagedFile};

use super::{IvfIndex, Tuning};
use crate::vectors::Vectors;

const MAGIC: &[u8; 8] = b"duet-ivf";
const VERSION: u32 = 1;
/// Bytes of the header, its CRC included.
const HEADER: usize = 8 + 4 * 2 + 8 + 4 * 3 + 8 * 6 + 4;
/// Values converted at a time.
const PIECE: usize = 1 << 16;

impl IvfIndex {
    /// Writes the index with its vectors to `path`, atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = StagedFile::create(path)?;
        file.write_all(&self.header()).map_err(Error::io(path))?;
        let mut payload = Payload { file: &mut file, crc: Hasher::new() };
        let written = payload
            .put(self.centroids.data.iter().map(|value| value.to_le_bytes()))
            .and_then(|()| payload.put(self.lists.iter().map(|list| (list.len() as u32).to_le_bytes())))
            .and_then(|()| payload.put(self.lists.iter().flatten().map(|item| item.to_le_bytes())))
            .and_then(|()| payload.put(self.vectors.data.iter().map(|value| value.to_le_bytes())));
        let crc = payload.crc.finalize();
        written.and_then(|()| file.write_all(&crc.to_le_bytes())).map_err(Error::io(path))?;
        file.commit()
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.vectors.dim as u32).to_le_bytes());
        header.extend((self.vectors.len() as u64).to_le_bytes());
        header.extend((self.lists.len() as u32).to_le_bytes());
        header.extend((self.nprobe as u32).to_le_bytes());
        header.extend(u32::from(self.tuning.is_some()).to_le_bytes());
        let tuned = |value: fn(&Tuning) -> f64| self.tuning.as_ref().map_or(0.0, value).to_le_bytes();
        header.extend(tuned(|tuning| tuning.floor));
        header.extend(tuned(|tuning| tuning.recall_at_10));
        header.extend(tuned(|tuning| tuning.recall_at_100));
        header.extend(tuned(|tuning| tuning.worst_at_10));
        let counted = |value: fn(&Tuning) -> usize| (self.tuning.as_ref().map_or(0, value) as u64).to_le_bytes();
        header.extend(counted(|tuning| tuning.queries));
        header.extend(counted(|tuning| tuning.below_half));
        header.extend(crc32fast::hash(&header).to_le_bytes());
        header
    }

    /// Reads an index.
    ///
    /// # Errors
    /// [`Error::Io`] if the file can't be read; [`Error::Data`] naming it if it is no index, of another version,
    /// truncated, too long or damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut bytes = [0_u8; HEADER];
        if length < HEADER as u64 {
            return Err(Error::data(path, format!("{length} bytes; an IVF index has at least {HEADER}")));
        }
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        let header = Header::parse(path, &bytes)?;
        let expected = header.file_length();
        if expected != Some(length) {
            let expected = expected.map_or_else(|| "an impossible number".to_owned(), |bytes| bytes.to_string());
            return Err(Error::data(
                path,
                format!("{length} bytes where the header asks for {expected}: truncated or damaged"),
            ));
        }
        let mut payload = Source { file, path, crc: Hasher::new() };
        let (items, lists) = (header.items as usize, header.lists as usize);
        let centroids = payload.take(lists * header.dim, f32::from_le_bytes)?;
        let sizes = payload.take(lists, u32::from_le_bytes)?;
        let order = payload.take(items, u32::from_le_bytes)?;
        let vectors = payload.take(items * header.dim, f32::from_le_bytes)?;
        payload.check()?;
        // The CRC stands, so what follows can only fail for a file that was written wrong.
        let bad = |error: Error| Error::data(path, error.to_string());
        let centroids = Vectors::new(header.dim, centroids).map_err(bad)?;
        let vectors = Vectors::new(header.dim, vectors).map_err(bad)?;
        let lists =
            split(&sizes, &order, items).ok_or_else(|| Error::data(path, "the lists do not hold every item once"))?;
        Ok(Self::from_parts(Arc::new(vectors), centroids, lists, header.nprobe, header.tuning))
    }
}

struct Header {
    dim: usize,
    items: u64,
    lists: u64,
    nprobe: usize,
    tuning: Option<Tuning>,
}

impl Header {
    fn parse(path: &Path, bytes: &[u8; HEADER]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::data(path, "not an IVF index: it does not start with \"duet-ivf\""));
        }
        let mut at = MAGIC.len();
        let mut word = || {
            at += 4;
            u32::from_le_bytes([bytes[at - 4], bytes[at - 3], bytes[at - 2], bytes[at - 1]])
        };
        let version = word();
        if version != VERSION {
            return Err(Error::data(path, format!("IVF index version {version}; this build reads version {VERSION}")));
        }
        let dim = word();
        let long = |word: &mut dyn FnMut() -> u32| u64::from(word()) | u64::from(word()) << 32;
        let items = long(&mut word);
        let (lists, nprobe, tuned) = (word(), word(), word());
        let mut numbers = [0.0; 4];
        for number in &mut numbers {
            *number = f64::from_bits(long(&mut word));
        }
        let (queries, below_half) = (long(&mut word), long(&mut word));
        let crc = word();
        let found = crc32fast::hash(&bytes[..HEADER - 4]);
        if crc != found {
            return Err(Error::data(path, format!("damaged: header CRC-32 {found:08x} where it says {crc:08x}")));
        }
        let counts_fit = dim > 0 && items > 0 && items < u64::from(u32::MAX) && u64::from(lists) <= items;
        if !counts_fit || nprobe == 0 || nprobe > lists || tuned > 1 {
            return Err(Error::data(path, "the header's counts contradict each other"));
        }
        let [floor, recall_at_10, recall_at_100, worst_at_10] = numbers;
        let tuning = (tuned == 1).then_some(Tuning {
            floor,
            queries: queries as usize,
            nprobe: nprobe as usize,
            recall_at_10,
            recall_at_100,
            worst_at_10,
            below_half: below_half as usize,
        });
        Ok(Self { dim: dim as usize, items, lists: u64::from(lists), nprobe: nprobe as usize, tuning })
    }

    fn file_length(&self) -> Option<u64> {
        let dim = self.dim as u64;
        let values = (self.lists + self.items).checked_mul(dim)?.checked_add(self.lists + self.items)?;
        values.checked_mul(4)?.checked_add(HEADER as u64 + 4)
    }
}

/// The lists, or `None` if they are not a partition of the items.
fn split(sizes: &[u32], order: &[u32], items: usize) -> Option<Vec<Vec<u32>>> {
    let mut seen = fixedbitset::FixedBitSet::with_capacity(items);
    if order.iter().any(|&item| item as usize >= items || seen.put(item as usize)) {
        return None;
    }
    let mut rest = order;
    let mut lists = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let (list, behind) = rest.split_at_checked(size as usize)?;
        lists.push(list.to_vec());
        rest = behind;
    }
    rest.is_empty().then_some(lists)
}

struct Payload<'a> {
    file: &'a mut StagedFile,
    crc: Hasher,
}

impl Payload<'_> {
    fn put(&mut self, values: impl Iterator<Item = [u8; 4]>) -> std::io::Result<()> {
        let mut piece = Vec::with_capacity(4 * PIECE);
        let mut values = values.peekable();
        while values.peek().is_some() {
            piece.clear();
            piece.extend(values.by_ref().take(PIECE).flatten());
            self.crc.update(&piece);
            self.file.write_all(&piece)?;
        }
        Ok(())
    }
}

struct Source<'a> {
    file: File,
    path: &'a Path,
    crc: Hasher,
}

impl Source<'_> {
    fn take<T>(&mut self, count: usize, convert: fn([u8; 4]) -> T) -> Result<Vec<T>> {
        let mut values = Vec::with_capacity(count);
        let mut piece = vec![0_u8; 4 * PIECE.min(count)];
        while values.len() < count {
            let bytes = &mut piece[..4 * PIECE.min(count - values.len())];
            self.file.read_exact(bytes).map_err(Error::io(self.path))?;
            self.crc.update(bytes);
            values.extend(bytes.as_chunks::<4>().0.iter().map(|&four| convert(four)));
        }
        Ok(values)
    }

    fn check(mut self) -> Result<()> {
        let mut crc = [0; 4];
        self.file.read_exact(&mut crc).map_err(Error::io(self.path))?;
        let (crc, found) = (u32::from_le_bytes(crc), self.crc.finalize());
        if crc == found {
            Ok(())
        } else {
            Err(Error::data(self.path, format!("damaged: CRC-32 {found:08x} where it says {crc:08x}")))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::search::{IvfOptions, SearchRequest, VectorSearch};

    #[test]
    fn round_trip_and_every_damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("artists.ivf");
        let data: Vec<f32> = (0..40 * 3).map(|at| ((at * 37 % 101) as f32 / 50.0) - 1.0).collect();
        let vectors = Arc::new(Vectors::new(3, data.clone()).unwrap());
        let mut index = IvfIndex::new(vectors, &IvfOptions::default()).unwrap();
        index.tune(&data[..30], 0.9).unwrap();
        index.save(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else may stay behind");
        let loaded = IvfIndex::load(&path).unwrap();
        assert_eq!((loaded.nprobe(), loaded.tuning()), (index.nprobe(), index.tuning()));
        let requests = [SearchRequest::top(7); 40];
        assert_eq!(loaded.search(&data, &requests).unwrap(), index.search(&data, &requests).unwrap());

        let good = std::fs::read(&path).unwrap();
        let fails = |bytes: &[u8], what: String| {
            std::fs::write(&path, bytes).unwrap();
            let error = IvfIndex::load(&path).map(|_| ()).expect_err(&what).to_string();
            assert!(error.contains("artists.ivf"), "{what}: {error}");
        };
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                fails(&bad, format!("byte {at} flipped by {flip:#x}"));
            }
            fails(&good[..at], format!("cut to {at} bytes"));
        }
        fails(&[&good[..], &[0]].concat(), "one byte more".into());
        // A header that is consistent with its own CRC but asks for the world.
        let mut huge = good.clone();
        huge[16..24].copy_from_slice(&(u64::from(u32::MAX) - 1).to_le_bytes());
        let crc = crc32fast::hash(&huge[..HEADER - 4]).to_le_bytes();
        huge[HEADER - 4..HEADER].copy_from_slice(&crc);
        fails(&huge, "huge item count".into());
    }
}
