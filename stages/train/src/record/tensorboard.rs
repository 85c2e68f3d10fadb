//! TensorBoard event files: TFRecords of `Event` messages with scalar values and texts.
//!
//! Formats: TensorFlow's `core/lib/io/record_writer.h` (records and their masked CRC32C, Castagnoli) and
//! `core/util/event.proto`, `core/framework/summary.proto`, `core/framework/tensor.proto` (messages).
use super::{Opening, SampleLine, Sink, StepLine};
use anyhow::{Context, Result, ensure};
use contract::files::write_whole;
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The subdirectory of a run directory to pass to `tensorboard --logdir`.
pub const EVENTS_FOLDER: &str = "tb";
/// Prefix that TensorBoard recognises event files by, and suffix of files that this program writes.
const NAME: (&str, &str) = ("events.out.tfevents.", ".millrace");

/// An event; fields and their numbers are those of TensorFlow's `Event` message.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Number of updates so far.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// The format version, in the first event of a file.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// The measured values.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
    /// Marks the start of a session: TensorBoard discards earlier values from `step` on.
    #[prost(message, optional, tag = "7")]
    pub session_log: Option<SessionLog>,
}

/// Measured values.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Scalar>,
}

/// A measured value.
#[derive(Clone, PartialEq, Message)]
pub struct Scalar {
    /// The name of the value.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The value. It is a variant of a `oneof` in TensorFlow's message and therefore written even if it is 0.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    /// A text.
    #[prost(message, optional, tag = "8")]
    pub tensor: Option<TextTensor>,
    /// The plugin that shows it, if it is a text.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// A tensor of strings: TensorFlow's `TensorProto`.
#[derive(Clone, PartialEq, Message)]
pub struct TextTensor {
    /// 7: strings.
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    /// Its shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    /// The strings.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub strings: Vec<Vec<u8>>,
}

/// The shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    /// The dimensions.
    #[prost(message, repeated, tag = "2")]
    pub dimensions: Vec<Dimension>,
}

/// A dimension of a tensor.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Dimension {
    /// Its size.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// TensorFlow's `SummaryMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// The plugin.
    #[prost(message, optional, tag = "1")]
    pub plugin: Option<Plugin>,
}

/// A plugin of TensorBoard.
#[derive(Clone, PartialEq, Message)]
pub struct Plugin {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The start of a session.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SessionLog {
    /// 1: start.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Opens an event file of the run with the steps before the one that it starts at.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn open(opening: &Opening) -> Result<Box<dyn Sink>> {
    Ok(Box::new(EventFile::create(&opening.run_dir.join(EVENTS_FOLDER), opening.lines, opening.samples)?))
}

/// The event file of a run in progress.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a file in `folder` that contains `steps`, those before the step that a run resumes at, and their
    /// samples. It replaces earlier event files of this program.
    ///
    /// # Errors
    /// If the file cannot be written or earlier ones cannot be removed.
    pub fn create(folder: &Path, steps: &[StepLine], samples: &[SampleLine]) -> Result<Self> {
        let create = || -> Result<Self> {
            fs::create_dir_all(folder)?;
            let mut earlier: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
            earlier.retain(|path| is_ours(&path.file_name().unwrap_or_default().to_string_lossy()));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // The name sorts after all earlier ones: TensorBoard reads files in order of their names and never goes
            // back.
            let path = (now.as_secs()..).map(|second| folder.join(format!("{}{second:010}{}", NAME.0, NAME.1)));
            let path = path.into_iter().find(|path| earlier.iter().all(|e| e < path)).unwrap_or_default();
            let first = Event { file_version: Some("brain.Event:2".into()), ..Event::default() };
            let start = Event { session_log: Some(SessionLog { status: 1 }), ..Event::default() };
            let mut bytes = Vec::new();
            for event in [first, start] {
                record(&Event { wall_time: now.as_secs_f64(), ..event }, &mut bytes);
            }
            for line in steps {
                record(&event(line), &mut bytes);
                let of_step = samples.iter().filter(|sample| sample.step == line.step);
                of_step.enumerate().for_each(|(at, sample)| record(&text_event(line, at, sample), &mut bytes));
            }
            write_whole(&path, |out| Ok(out.write_all(&bytes)?))?;
            for path in &earlier {
                fs::remove_file(path)?;
            }
            let file = OpenOptions::new().append(true).open(&path)?;
            Ok(Self { path, file })
        };
        create().with_context(|| format!("cannot write event files in {}", folder.display()))
    }
}

/// Whether a file is an event file of this program, or a temporary one that a killed process has left.
fn is_ours(name: &str) -> bool {
    let (visible, hidden) = (name.ends_with(NAME.1), name.starts_with('.') && name.ends_with(".part"));
    name.trim_start_matches('.').starts_with(NAME.0) && (visible || hidden)
}

impl EventFile {
    fn append(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        let mut bytes = Vec::new();
        events.into_iter().for_each(|event| record(&event, &mut bytes));
        self.file.write_all(&bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Sink for EventFile {
    fn write(&mut self, line: &StepLine) -> Result<()> {
        self.append([event(line)])
    }

    fn samples(&mut self, line: &StepLine, samples: &[SampleLine]) -> Result<()> {
        self.append(samples.iter().enumerate().map(|(at, sample)| text_event(line, at, sample)))
    }
}

/// The event with the scalars of a step.
fn event(line: &StepLine) -> Event {
    let scalar = |(tag, value)| Scalar { tag, simple_value: Some(value as f32), ..Scalar::default() };
    with_values(line, line.scalars().into_iter().map(scalar).collect())
}

/// The event with a sample of a step, the `at`-th from 0: a text under the tag `sample/1`, `sample/2` …
fn text_event(line: &StepLine, at: usize, sample: &SampleLine) -> Event {
    let text = format!("{}{}", sample.prompt, sample.text);
    let shape = Some(Shape { dimensions: vec![Dimension { size: 1 }] });
    let tensor = Some(TextTensor { dtype: 7, shape, strings: vec![text.into_bytes()] });
    let metadata = Some(Metadata { plugin: Some(Plugin { name: "text".into() }) });
    with_values(line, vec![Scalar { tag: format!("sample/{}", at + 1), simple_value: None, tensor, metadata }])
}

fn with_values(line: &StepLine, value: Vec<Scalar>) -> Event {
    Event { wall_time: line.time, step: line.step as i64, summary: Some(Summary { value }), ..Event::default() }
}

/// Appends a message as a record: length, CRC of the length, message, CRC of the message; all little-endian.
fn record(event: &Event, to: &mut Vec<u8>) {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    to.extend(length);
    to.extend(masked_crc(&length).to_le_bytes());
    to.extend(&message);
    to.extend(masked_crc(&message).to_le_bytes());
}

/// The masked CRC of TFRecords: rotated and offset, since a CRC of data that contains CRCs would be weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The events of a file, up to the first incomplete record.
///
/// # Errors
/// If the file cannot be read, a CRC does not match, or a message is not an `Event`.
pub fn read_events(path: &Path) -> Result<Vec<Event>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let at = || format!("{}, byte {}", path.display(), bytes.len() - rest.len());
        let (length, crc) = head.split_at(8);
        ensure!(masked_crc(length).to_le_bytes() == crc, "{}: the CRC of a record's length does not match", at());
        let length = length.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let Some((message, after)) = after.split_at_checked(length) else { break };
        let Some((crc, after)) = after.split_first_chunk::<4>() else { break };
        ensure!(masked_crc(message).to_le_bytes() == *crc, "{}: the CRC of a record does not match", at());
        events.push(Event::decode(message).with_context(|| format!("{}: not an event", at()))?);
        rest = after;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(step: u64) -> StepLine {
        StepLine { step, loss: 1.0 / step as f64, time: 1e9 + step as f64, ..StepLine::default() }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn records_equal_those_of_tensorflow() {
        // CRC32C of 32 zero bytes from RFC 3720, B.4; masked as in TensorFlow.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        // The first record of every file of TensorFlow's SummaryWriter, except for the time.
        let mut bytes = Vec::new();
        record(&Event { wall_time: 1.0, file_version: Some("brain.Event:2".into()), ..Event::default() }, &mut bytes);
        let message = [b"\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0d", &b"brain.Event:2"[..]].concat();
        assert_eq!(bytes[..8], 24u64.to_le_bytes());
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22], "the CRC of length 24");
        assert_eq!(bytes[12..36], message);
    }

    #[test]
    fn a_resumed_run_appears_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("events.out.tfevents.1.other"), "of another program").unwrap();
        let mut file = EventFile::create(folder.path(), &[], &[]).unwrap();
        (1..=5).for_each(|step| file.write(&line(step)).unwrap());
        let before = files(folder.path());
        let lines = [line(1), line(2), line(3)];
        let samples = [2, 3].map(|step| SampleLine { step, prompt: "A".into(), text: " b".into() });
        let mut file = EventFile::create(folder.path(), &lines, &samples).unwrap();
        file.write(&StepLine { validation_loss: Some(2.5), ..line(4) }).unwrap();
        let after = files(folder.path());
        assert_eq!((before.len(), after.len()), (2, 2), "files of other programs stay, ours is replaced");
        assert!(after[1] > before[1], "the new name sorts after the old one");
        let events = read_events(&after[1]).unwrap();
        let steps: Vec<i64> = events.iter().filter(|e| e.summary.is_some()).map(|e| e.step).collect();
        assert_eq!(steps, [1, 2, 2, 3, 3, 4], "samples follow the scalars of their step");
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let sample = &events[4].summary.as_ref().unwrap().value[0];
        let tensor = sample.tensor.as_ref().unwrap();
        assert_eq!((&*sample.tag, sample.simple_value, &*tensor.strings[0]), ("sample/1", None, &b"A b"[..]));
        let last = events[7].summary.clone().unwrap().value;
        let value = |tag: &str| last.iter().find(|v| v.tag == tag).and_then(|v| v.simple_value);
        assert_eq!((value("validation_loss"), value("loss"), value("bits_per_byte")), (Some(2.5), Some(0.25), None));
        assert_eq!(value("data_wait_ms"), Some(0.0), "zeros are written");
        assert_eq!(events[7].wall_time, 1e9 + 4.0);
    }

    proptest! {
        #[test]
        fn corruption_is_detected_and_truncation_keeps_whole_records(steps in 1..6u64, at in any::<prop::sample::Index>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            let mut bytes = Vec::new();
            (1..=steps).for_each(|step| record(&event(&line(step)), &mut bytes));
            fs::write(&path, &bytes).unwrap();
            let whole = read_events(&path).unwrap();
            prop_assert_eq!(whole.len() as u64, steps);
            let at = at.index(bytes.len());
            fs::write(&path, &bytes[..at]).unwrap();
            let cut = read_events(&path).unwrap();
            prop_assert!(whole.starts_with(&cut) && cut.len() < whole.len());
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            prop_assert!(read_events(&path).is_err());
        }
    }
}
