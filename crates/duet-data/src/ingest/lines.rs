//! Standard input (or anything that is read once) as a source: a line is an event.

use std::{io::Read, time::Duration};

use bytes::Bytes;
use duet_core::{Error, Result};
use tokio::sync::mpsc;

use super::source::{Delivery, EventSource, Feed, Flow, Lag};

/// Bytes read at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that wait to be taken: the reading stops there.
const WAITING_BLOCKS: usize = 4;
/// A line longer than this is no event.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Lines of a reader, numbered from 1. They can't be handed out again: only what is committed survives a kill.
#[derive(Debug)]
pub struct LineSource {
    feed: Feed,
    blocks: mpsc::Receiver<Result<Bytes>>,
    /// Lines of the block that were not handed out yet.
    rest: Bytes,
    sequence: u64,
}

impl LineSource {
    /// Reads standard input; its name in the zone is the time of the call.
    pub fn stdin() -> Self {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        Self::new(&format!("stdin:{now}"), std::io::stdin())
    }

    /// Reads anything, in a thread of its own.
    pub fn new(name: &str, reader: impl Read + Send + 'static) -> Self {
        let (sender, blocks) = mpsc::channel(WAITING_BLOCKS);
        let feed = Feed { name: name.into(), identity: None };
        let label = name.to_owned();
        std::thread::spawn(move || read(&label, reader, &sender));
        Self { feed, blocks, rest: Bytes::new(), sequence: 0 }
    }
}

/// Sends blocks of whole lines; the last one may lack its line end.
fn read(name: &str, mut reader: impl Read, sender: &mpsc::Sender<Result<Bytes>>) {
    let mut rest: Vec<u8> = Vec::new();
    let mut lines = 0_u64;
    loop {
        let mut block = std::mem::take(&mut rest);
        let before = block.len();
        block.resize(before + BLOCK_BYTES, 0);
        let read = match reader.read(&mut block[before..]) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) => {
                let _ = sender.blocking_send(Err(Error::io(name)(error)));
                return;
            }
        };
        block.truncate(before + read);
        let ended = read == 0;
        match memchr::memrchr(b'\n', &block[before..]) {
            Some(end) => rest = block.split_off(before + end + 1),
            None if ended => {}
            None if block.len() > MAX_LINE_BYTES => {
                let message = "a line of more than 16 MiB: these are no events";
                let _ = sender.blocking_send(Err(Error::data_row(name, lines + 1, message)));
                return;
            }
            None => {
                rest = block;
                continue;
            }
        }
        lines += memchr::memchr_iter(b'\n', &block).count() as u64;
        // An error says that nobody listens any more.
        if (!block.is_empty() && sender.blocking_send(Ok(block.into())).is_err()) || ended {
            return;
        }
    }
}

impl EventSource for LineSource {
    type Ticket = ();

    fn feeds(&self) -> &[Feed] {
        std::slice::from_ref(&self.feed)
    }

    async fn receive(&mut self, limit: usize, wait: Duration, into: &mut Vec<Delivery<()>>) -> Result<Flow> {
        if self.rest.is_empty() {
            match tokio::time::timeout(wait, self.blocks.recv()).await {
                Err(_) => return Ok(Flow::Open),
                Ok(None) => return Ok(Flow::Ended),
                Ok(Some(block)) => self.rest = block?,
            }
        }
        // A block is not much longer than RECEIVE_BYTES, for it has a line of at most 16 MiB.
        for _ in 0..limit {
            if self.rest.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', &self.rest).map_or(self.rest.len(), |end| end + 1);
            let mut payload = self.rest.split_to(end);
            if payload.ends_with(b"\n") {
                payload.truncate(payload.len() - 1);
                if payload.ends_with(b"\r") {
                    payload.truncate(payload.len() - 1);
                }
            }
            self.sequence += 1;
            let sequence = self.sequence;
            into.push(Delivery { feed: 0, sequence, covers_from: sequence, received_ms: None, payload, ticket: () });
        }
        Ok(Flow::Open)
    }

    async fn acknowledge(&mut self, _: Vec<()>) -> Result<()> {
        Ok(())
    }

    async fn hold(&mut self, _: &[()]) -> Result<()> {
        Ok(())
    }

    fn hold_every(&self) -> Option<Duration> {
        None
    }

    async fn release(&mut self) {}

    async fn lag(&mut self) -> Result<Option<Lag>> {
        Ok(None)
    }
}
