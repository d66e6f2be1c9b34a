//! Files and directories that appear whole or not at all, and are checked when they are read.
//!
//! * [`write_file`], [`StagedFile`]: one file, from memory or in a stream: written beside its place, synced, renamed.
//! * [`DirWriter`]: a directory (dataset, checkpoint, bundle) with a `manifest.json` that lists every file with size
//!   and CRC-32; built as `.NAME.partial`, then renamed. Whatever a killed run left is removed by the next one.
//!   It replaces only what it wrote: a directory with anything else in it is left alone, with an error.
//! * [`Manifest::open`]: reads the manifest, checks magic, version, its own CRC and every listed file.
//!
//! A truncated file or a flipped byte is therefore an error that names the file, never a wrong answer.

mod directory;
mod manifest;
mod staged;

pub use directory::{DirWriter, IfExists, remove, tidy};
pub use manifest::{FileEntry, MANIFEST, Manifest, checksum, write_manifest};
pub use staged::{StagedFile, link_file, write_file};
