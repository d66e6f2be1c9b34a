//! A batch of events to Parquet parts in memory, one for each hour (or day), in parallel.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryBuilder, Int64Builder, StringBuilder, UInt64Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use duet_core::{Error, Result};
use parquet::{
    arrow::{
        ArrowSchemaConverter,
        arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves},
    },
    basic::{Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnPath, TypePtr},
};
use rayon::prelude::*;

use super::{Compression, Events, Granularity, NOT_RECEIVED, event_hour};

/// Rows of a row group, at most.
const GROUP_ROWS: usize = 1 << 16;
/// Payload bytes of a row group, unless it is a single row.
const GROUP_BYTES: usize = 32 << 20;
/// Rows whose time is read by one task.
const TASK_ROWS: usize = 1 << 12;
/// The key of events without a readable time.
const UNKNOWN: i32 = i32::MIN;

/// A part that is not written yet.
#[derive(Debug)]
pub(crate) struct EncodedPart {
    /// Hours or days since 1970-01-01, by the zone's granularity; nothing where the time can't be read.
    pub(super) period: Option<i32>,
    pub(super) rows: u64,
    pub(super) payload_bytes: u64,
    pub(super) bytes: Bytes,
    pub(super) crc32: String,
}

/// Block and row of an event.
type At = (u32, u32);

/// Encodes a batch; parts come in order of time, unknown times first. Rows of a part are sorted by source and sequence.
pub(crate) fn encode(batch: &[Events], granularity: Granularity, compression: Compression) -> Result<Vec<EncodedPart>> {
    let format = Format::new(compression)?;
    let mut periods: BTreeMap<i32, Vec<At>> = BTreeMap::new();
    let keys: Vec<Vec<i32>> = batch.par_iter().map(|events| keys(events, granularity)).collect();
    for (block, keys) in keys.iter().enumerate() {
        let mut row = 0;
        // Neighbours mostly share their period.
        for run in keys.chunk_by(|a, b| a == b) {
            let list = periods.entry(run[0]).or_default();
            list.extend((row..row + run.len()).map(|row| (block as u32, row as u32)));
            row += run.len();
        }
    }
    let periods: Vec<(i32, Vec<At>)> = periods.into_iter().collect();
    periods
        .into_par_iter()
        .map(|(period, mut rows)| {
            let key = |&(block, row): &At| {
                let events = &batch[block as usize];
                (&*events.source, events.rows[row as usize].sequence)
            };
            if !rows.is_sorted_by_key(key) {
                rows.sort_by(|a, b| key(a).cmp(&key(b)));
            }
            format.part(batch, period, &rows)
        })
        .collect()
}

fn keys(events: &Events, granularity: Granularity) -> Vec<i32> {
    let mut keys = vec![UNKNOWN; events.rows.len()];
    keys.par_chunks_mut(TASK_ROWS).enumerate().for_each(|(task, keys)| {
        for (at, key) in keys.iter_mut().enumerate() {
            let Some(hour) = event_hour(events.payload(task * TASK_ROWS + at)) else { continue };
            let period = match granularity {
                Granularity::Hour => hour,
                Granularity::Day => hour.div_euclid(24),
            };
            *key = i32::try_from(period).unwrap_or(UNKNOWN);
        }
    });
    keys
}

/// The form of all parts of a batch.
struct Format {
    schema: SchemaRef,
    root: TypePtr,
    properties: WriterPropertiesPtr,
    factory: ArrowRowGroupWriterFactory,
}

impl Format {
    fn new(compression: Compression) -> Result<Self> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("source", DataType::Utf8, false),
            Field::new("sequence", DataType::UInt64, false),
            Field::new("received_ms", DataType::Int64, true),
            Field::new("payload", DataType::Binary, false),
        ]));
        let codec = match compression {
            Compression::Zstd => {
                parquet::basic::Compression::ZSTD(ZstdLevel::try_new(1).map_err(|error| failed(&error))?)
            }
            Compression::None => parquet::basic::Compression::UNCOMPRESSED,
        };
        let mut properties = WriterProperties::builder()
            .set_compression(codec)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(Some(GROUP_ROWS));
        for (name, encoding) in [
            ("sequence", Encoding::DELTA_BINARY_PACKED),
            ("received_ms", Encoding::DELTA_BINARY_PACKED),
            ("payload", Encoding::PLAIN),
        ] {
            let column = ColumnPath::from(name);
            properties =
                properties.set_column_dictionary_enabled(column.clone(), false).set_column_encoding(column, encoding);
        }
        let properties = Arc::new(properties.build());
        let root = ArrowSchemaConverter::new().convert(&schema).map_err(|error| failed(&error))?.root_schema_ptr();
        let writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&root), Arc::clone(&properties));
        let factory = ArrowRowGroupWriterFactory::new(&writer.map_err(|error| failed(&error))?, Arc::clone(&schema));
        Ok(Self { schema, root, properties, factory })
    }

    fn part(&self, batch: &[Events], period: i32, rows: &[At]) -> Result<EncodedPart> {
        let length = |&(block, row): &At| batch[block as usize].rows[row as usize].length as usize;
        let mut groups = Vec::new();
        let (mut start, mut bytes, mut payload_bytes) = (0, 0, 0_u64);
        for (at, row) in rows.iter().enumerate() {
            if at > start && (at - start == GROUP_ROWS || bytes + length(row) > GROUP_BYTES) {
                groups.push((&rows[start..at], bytes));
                (start, bytes) = (at, 0);
            }
            bytes += length(row);
            payload_bytes += length(row) as u64;
        }
        groups.push((&rows[start..], bytes));
        let groups: Result<Vec<Vec<ArrowColumnChunk>>, ParquetError> =
            groups.into_par_iter().map(|(rows, bytes)| self.group(batch, rows, bytes)).collect();
        let bytes = groups.and_then(|groups| self.assemble(groups)).map_err(|error| failed(&error))?;
        Ok(EncodedPart {
            period: (period != UNKNOWN).then_some(period),
            rows: rows.len() as u64,
            payload_bytes,
            crc32: format!("{:08x}", crc32fast::hash(&bytes)),
            bytes: bytes.into(),
        })
    }

    fn group(&self, batch: &[Events], rows: &[At], bytes: usize) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
        let mut sources = StringBuilder::with_capacity(rows.len(), 16 * rows.len());
        let mut sequences = Vec::with_capacity(rows.len());
        let mut received = Int64Builder::with_capacity(rows.len());
        let mut payloads = BinaryBuilder::with_capacity(rows.len(), bytes);
        for &(block, at) in rows {
            let events = &batch[block as usize];
            let row = events.rows[at as usize];
            sources.append_value(&events.source);
            sequences.push(row.sequence);
            received.append_option((row.received_ms != NOT_RECEIVED).then_some(row.received_ms));
            payloads.append_value(events.payload(at as usize));
        }
        let columns: [ArrayRef; 4] = [
            Arc::new(sources.finish()),
            Arc::new(UInt64Array::from(sequences)),
            Arc::new(received.finish()),
            Arc::new(payloads.finish()),
        ];
        let writers = self.factory.create_column_writers(0)?;
        let columns = columns.iter().zip(self.schema.fields());
        writers
            .into_iter()
            .zip(columns)
            .map(|(mut writer, (column, field))| {
                for leaf in compute_leaves(field, column)? {
                    writer.write(&leaf)?;
                }
                writer.close()
            })
            .collect()
    }

    fn assemble(&self, groups: Vec<Vec<ArrowColumnChunk>>) -> Result<Vec<u8>, ParquetError> {
        let size: u64 = groups.iter().flatten().map(|chunk| chunk.close().bytes_written).sum();
        let out = Vec::with_capacity(size as usize + (4 << 10));
        let mut writer = SerializedFileWriter::new(out, Arc::clone(&self.root), Arc::clone(&self.properties))?;
        for chunks in groups {
            let mut group = writer.next_row_group()?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close()?;
        }
        writer.into_inner()
    }
}

fn failed(error: &ParquetError) -> Error {
    Error::Internal(format!("Parquet part: {error}"))
}
