//! TensorBoard's files of events: `events.out.tfevents.*` in a run's folder, with `--report-to tensorboard`.
//!
//! A record is its length, a checksum of that, the message, a checksum of it (`tensorboard/compat/tensorflow_stub/pywrap_tensorflow.py`); the messages are those of
//! `tensorboard/compat/proto/event.proto` and `summary.proto`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

use crate::error::{Context, Result};
use crate::evaluate::EvalRecord;
use crate::files::inside;
use crate::num;
use crate::training::metrics::StepRecord;

static CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What a checksum is rotated and raised by, so that one of data with checksums in it is none of theirs.
const MASK: u32 = 0xa282_ead8;

/// The first record of a file.
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of a choice: it is written even where it is 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Says where a run goes on: what was recorded of later steps does not count any more.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The status of a session that starts.
const START: i32 = 1;

/// A file of events.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Begins a file in the folder of a run that goes on after `done` steps.
    pub(super) fn create(folder: &Path, done: u64) -> Result<Self> {
        let name = |number: u32| format!("events.out.tfevents.{:010}.peft-onnx.{}.{number}", since_1970().trunc(), std::process::id());
        let path = (0..u32::MAX).map(|number| folder.join(name(number))).find(|path| path.symlink_metadata().is_err()).unwrap_or_default();
        let mut events = Self { file: inside::append(&path)?, path };
        events.write(&Event { file_version: Some(VERSION.to_owned()), ..now(0) })?;
        if done > 0 {
            events.write(&Event { session_log: Some(SessionLog { status: START }), ..now(done + 1) })?;
        }
        Ok(events)
    }

    /// A step of training.
    pub(super) fn step(&mut self, record: &StepRecord) -> Result<()> {
        let values = [
            ("train/loss", f64::from(record.loss)),
            ("train/learning_rate", record.learning_rate),
            ("train/grad_norm", f64::from(record.grad_norm)),
            ("train/epoch", record.epoch),
        ];
        self.values(record.step, values.into_iter().map(|(tag, value)| (tag.to_owned(), value)))
    }

    /// An evaluation.
    pub(super) fn evaluation(&mut self, record: &EvalRecord) -> Result<()> {
        let first = [("loss", Some(record.loss)), ("perplexity", record.perplexity), ("accuracy", record.accuracy)];
        let first = first.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let others = record.metrics.iter().filter(|(name, _)| *name != "accuracy").map(|(name, value)| (name.clone(), *value));
        let all: Vec<(String, f64)> = first.chain(others).map(|(name, value)| (format!("{}/{name}", record.split), value)).collect();
        self.values(record.step, all.into_iter())
    }

    fn values(&mut self, step: u64, values: impl Iterator<Item = (String, f64)>) -> Result<()> {
        let value = values.map(|(tag, value)| Value { tag, simple_value: Some(narrow(value)) }).collect();
        self.write(&Event { summary: Some(Summary { value }), ..now(step) })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        // One call for the record, so that a reader never sees half of it.
        self.file.write_all(&record(&event.encode_to_vec())).in_file(&self.path)
    }
}

/// A message with its length and its checksums.
fn record(message: &[u8]) -> Vec<u8> {
    let length = num::wide(message.len()).to_le_bytes();
    [&length[..], &masked(&length), message, &masked(message)].concat()
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    CHECKSUM.checksum(bytes).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

fn now(step: u64) -> Event {
    Event { wall_time: since_1970(), step: i64::try_from(step).unwrap_or(i64::MAX), ..Event::default() }
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "TensorBoard keeps numbers so")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_checksums_of_tensorflow() {
        // The first record of every file that TensorFlow writes, but for the time.
        let event = Event { file_version: Some(VERSION.to_owned()), ..Event::default() };
        let expected =
            [&15_u64.to_le_bytes()[..], &0x092b_536d_u32.to_le_bytes(), b"\x1a\x0dbrain.Event:2", &0x2951_98fc_u32.to_le_bytes()];
        assert_eq!(record(&event.encode_to_vec()), expected.concat());
    }
}
