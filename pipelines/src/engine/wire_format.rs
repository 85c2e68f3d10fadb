//! Messages: how packets are written for other processes: fields in order, numbers little-endian, lists after their length.
//!
//! Only kinds that cross processes have a format. The reader is the same version of this program (hosts with another one
//! are not admitted), so there are no version numbers here; what cannot be read is an error nevertheless.
use anyhow::{Result, bail, ensure};
use contract::{
    Batch, Buffer, DocumentLoss, Gather, Gradient, Kind, Metric, Metrics, Norms, Packet, Purpose, Sample,
    SectionChange, Tensor,
};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// A packet that can be sent to another process.
#[derive(Debug)]
pub enum Message {
    /// See [`Batch`].
    Batch(Batch),
    /// See [`Gradient`].
    Gradient(Gradient),
    /// See [`Norms`].
    Norms(Norms),
    /// See [`Metrics`].
    Metrics(Metrics),
}

/// Whether packets of this kind can be sent to another process.
pub fn has_format(kind: Kind) -> bool {
    matches!(kind, Kind::Batch | Kind::Gradient | Kind::Norms | Kind::Metrics)
}

impl TryFrom<Packet> for Message {
    type Error = Packet;
    fn try_from(packet: Packet) -> Result<Self, Packet> {
        match packet {
            Packet::Batch(batch) => Ok(Self::Batch(batch)),
            Packet::Gradient(gradient) => Ok(Self::Gradient(gradient)),
            Packet::Norms(norms) => Ok(Self::Norms(norms)),
            Packet::Metrics(metrics) => Ok(Self::Metrics(metrics)),
            other => Err(other),
        }
    }
}

impl From<Message> for Packet {
    fn from(message: Message) -> Self {
        match message {
            Message::Batch(batch) => Self::Batch(batch),
            Message::Gradient(gradient) => Self::Gradient(gradient),
            Message::Norms(norms) => Self::Norms(norms),
            Message::Metrics(metrics) => Self::Metrics(metrics),
        }
    }
}

/// Writes a message.
///
/// # Errors
/// If `out` cannot be written to.
pub fn write(message: &Message, out: &mut dyn Write) -> io::Result<()> {
    match message {
        Message::Batch(batch) => {
            number(out, 0)?;
            let Batch { leaf, purpose, part, sequences, length, tokens, targets, document_starts, documents } = batch;
            let numbers = [*leaf as usize, code_of(*purpose), *part as usize, *sequences, *length];
            numbers.into_iter().try_for_each(|n| number(out, n as u64))?;
            [tokens, targets, document_starts, documents].into_iter().try_for_each(|ids| words(out, ids))
        }
        Message::Gradient(Gradient { leaves, section, owner, targets, data }) => {
            number(out, 1)?;
            let numbers =
                [u64::from(leaves.start), u64::from(leaves.end), *section as u64, u64::from(*owner), *targets];
            numbers.into_iter().try_for_each(|n| number(out, n))?;
            number(out, data.shape.len() as u64)?;
            data.shape.iter().try_for_each(|n| number(out, *n as u64))?;
            words(out, &data.data)
        }
        Message::Norms(Norms { section, targets, blocks }) => {
            number(out, 2)?;
            [*section as u64, *targets, blocks.len() as u64].into_iter().try_for_each(|n| number(out, n))?;
            blocks.iter().try_for_each(|block| number(out, block.to_bits()))
        }
        Message::Metrics(Metrics { purpose, from, worker, values, documents, samples, changes }) => {
            number(out, 3)?;
            let numbers = [code_of(*purpose), from.0 as usize, from.1 as usize, *worker, values.len()];
            numbers.into_iter().try_for_each(|n| number(out, n as u64))?;
            values.iter().try_for_each(|Metric { name, gather, value }| {
                text(out, name)?;
                number(out, GATHERS.iter().position(|g| g == gather).unwrap_or_default() as u64)?;
                number(out, value.to_bits())
            })?;
            number(out, documents.len() as u64)?;
            documents.iter().try_for_each(|DocumentLoss { document, tokens, nats }| {
                [u64::from(*document), u64::from(*tokens), nats.to_bits()].into_iter().try_for_each(|n| number(out, n))
            })?;
            number(out, samples.len() as u64)?;
            samples
                .iter()
                .try_for_each(|sample| [&sample.prompt, &sample.text].iter().try_for_each(|t| text(out, t)))?;
            number(out, changes.len() as u64)?;
            changes.iter().try_for_each(|SectionChange { section, gradient, weight, update }| {
                number(out, *section as u64)?;
                [gradient, weight, update].into_iter().try_for_each(|sum| number(out, sum.to_bits()))
            })
        }
    }
}

/// The length of what [`write()`] writes.
pub fn length(message: &Message) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    write(message, &mut count).expect("counting does not fail");
    count.0
}

/// Reads a message.
///
/// # Errors
/// If these are not the bytes of one message.
pub fn read(bytes: &[u8]) -> Result<Message> {
    let mut bytes = Bytes(bytes);
    let message = match bytes.number()? {
        0 => {
            let (leaf, purpose, part) = (bytes.small()?, purpose(bytes.number()?)?, bytes.small()?);
            let (sequences, length) = (bytes.size()?, bytes.size()?);
            let mut ids = || -> Result<_> { Ok(bytes.words::<u32>()?.into()) };
            let (tokens, targets, document_starts, documents) = (ids()?, ids()?, ids()?, ids()?);
            let batch = Batch { leaf, purpose, part, sequences, length, tokens, targets, document_starts, documents };
            Message::Batch(batch)
        }
        1 => {
            let (leaves, section) = (bytes.small()?..bytes.small()?, bytes.size()?);
            let (owner, targets) = (bytes.small()?, bytes.number()?);
            let shape: Vec<usize> = (0..bytes.size()?).map(|_| bytes.size()).collect::<Result<_>>()?;
            let values = bytes.list::<f32>()?;
            let mut data = Buffer::scratch(values.len() / size_of::<f32>());
            bytemuck::cast_slice_mut(&mut data).copy_from_slice(values);
            ensure!(shape.iter().product::<usize>() == data.len(), "a tensor {shape:?} of {} values", data.len());
            let data = Tensor { shape, data };
            Message::Gradient(Gradient { leaves, section, owner, targets, data })
        }
        2 => {
            let (section, targets) = (bytes.size()?, bytes.number()?);
            let blocks = (0..bytes.size()?).map(|_| bytes.number().map(f64::from_bits)).collect::<Result<_>>()?;
            Message::Norms(Norms { section, targets, blocks })
        }
        3 => {
            let (purpose, from, worker) = (purpose(bytes.number()?)?, (bytes.small()?, bytes.small()?), bytes.size()?);
            let value = |bytes: &mut Bytes| -> Result<Metric> {
                let name = interned(bytes.text()?);
                let Some(gather) = GATHERS.get(bytes.size()?).copied() else { bail!("an unknown way to gather") };
                Ok(Metric { name, gather, value: f64::from_bits(bytes.number()?) })
            };
            let values = (0..bytes.size()?).map(|_| value(&mut bytes)).collect::<Result<_>>()?;
            let document = |bytes: &mut Bytes| -> Result<DocumentLoss> {
                let (document, tokens) = (bytes.small()?, bytes.small()?);
                Ok(DocumentLoss { document, tokens, nats: f64::from_bits(bytes.number()?) })
            };
            let documents = (0..bytes.size()?).map(|_| document(&mut bytes)).collect::<Result<_>>()?;
            let sample = |bytes: &mut Bytes| -> Result<Sample> {
                Ok(Sample { prompt: bytes.text()?.to_owned(), text: bytes.text()?.to_owned() })
            };
            let samples = (0..bytes.size()?).map(|_| sample(&mut bytes)).collect::<Result<_>>()?;
            let change = |bytes: &mut Bytes| -> Result<SectionChange> {
                let (section, mut sum) = (bytes.size()?, || bytes.number().map(f64::from_bits));
                Ok(SectionChange { section, gradient: sum()?, weight: sum()?, update: sum()? })
            };
            let changes = (0..bytes.size()?).map(|_| change(&mut bytes)).collect::<Result<_>>()?;
            Message::Metrics(Metrics { purpose, from, worker, values, documents, samples, changes })
        }
        kind => bail!("a message of unknown kind {kind}"),
    };
    ensure!(bytes.0.is_empty(), "{} bytes too many", bytes.0.len());
    Ok(message)
}

/// By code.
const GATHERS: [Gather; 4] = [Gather::Sum, Gather::PerTarget, Gather::First, Gather::Max];

fn code_of(purpose: Purpose) -> usize {
    usize::from(purpose == Purpose::Validate)
}

fn purpose(code: u64) -> Result<Purpose> {
    match code {
        0 => Ok(Purpose::Train),
        1 => Ok(Purpose::Validate),
        _ => bail!("an unknown purpose"),
    }
}

fn number(out: &mut dyn Write, n: u64) -> io::Result<()> {
    out.write_all(&n.to_le_bytes())
}

fn text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    number(out, text.len() as u64)?;
    out.write_all(text.as_bytes())
}

/// Writes 32-bit numbers as they are in memory. (All CPUs that this program is built for are little-endian.)
fn words<T: bytemuck::Pod>(out: &mut dyn Write, values: &[T]) -> io::Result<()> {
    number(out, values.len() as u64)?;
    out.write_all(bytemuck::cast_slice(values))
}

/// What has not been read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else { bail!("{count} bytes expected") };
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = [0; size_of::<u64>()];
        number.copy_from_slice(self.take(size_of::<u64>())?);
        Ok(u64::from_le_bytes(number))
    }

    fn text(&mut self) -> Result<&'a str> {
        let length = self.size()?;
        Ok(std::str::from_utf8(self.take(length)?)?)
    }

    fn size(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.number()?)?)
    }

    fn small(&mut self) -> Result<u32> {
        Ok(u32::try_from(self.number()?)?)
    }

    /// The bytes of a list of `T`.
    fn list<T>(&mut self) -> Result<&'a [u8]> {
        let count = self.size()?;
        let Some(bytes) = count.checked_mul(size_of::<T>()) else { bail!("a list of {count} values") };
        self.take(bytes)
    }

    fn words<T: bytemuck::Pod>(&mut self) -> Result<Vec<T>> {
        let bytes = self.list::<T>()?;
        let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
        Ok(values)
    }
}

/// Metrics are named by constants of the program. Those of a stage type that another process has are the same, but
/// arrive as text: each is kept once, for ever.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages() -> impl Strategy<Value = Message> {
        let purpose = || prop_oneof![Just(Purpose::Train), Just(Purpose::Validate)];
        let batch = (any::<[u32; 2]>(), purpose(), prop::collection::vec(any::<u32>(), 0..9)).prop_map(
            |([leaf, part], purpose, ids)| {
                let (tokens, targets, document_starts) = (ids.clone().into(), ids.clone().into(), ids.clone().into());
                let (sequences, length, documents) = (3, ids.len(), ids.into());
                let batch =
                    Batch { leaf, purpose, part, sequences, length, tokens, targets, document_starts, documents };
                Message::Batch(batch)
            },
        );
        let gradient = (any::<[u32; 4]>(), any::<u64>(), prop::collection::vec(any::<f32>(), 0..9)).prop_map(
            |([start, end, section, owner], targets, values)| {
                let (leaves, section, data) =
                    (start..end, section as usize, Tensor::from_values([values.len(), 1], &values));
                Message::Gradient(Gradient { leaves, section, owner, targets, data })
            },
        );
        let norms = (any::<u32>(), any::<u64>(), prop::collection::vec(any::<f64>(), 0..4)).prop_map(
            |(section, targets, blocks)| Message::Norms(Norms { section: section as usize, targets, blocks }),
        );
        let metrics = (purpose(), any::<[u32; 3]>(), prop::collection::vec((0..4usize, any::<f64>()), 0..4)).prop_map(
            |(purpose, [leaf, part, worker], values)| {
                let value = |(gather, value): (usize, f64)| Metric {
                    name: ["loss", "targets", "ü", ""][gather],
                    gather: GATHERS[gather],
                    value,
                };
                let documents = values.iter().map(|(tokens, nats)| DocumentLoss {
                    document: part,
                    tokens: *tokens as u32,
                    nats: *nats,
                });
                let documents = documents.collect();
                let sample = |value: &(usize, f64)| Sample { prompt: "ü".repeat(value.0), text: value.1.to_string() };
                let samples = values.iter().map(sample).collect();
                let change =
                    |&(section, x): &(usize, f64)| SectionChange { section, gradient: x, weight: -x, update: 0.5 };
                let changes = values.iter().map(change).collect();
                let (from, worker, values) = ((leaf, part), worker as usize, values.into_iter().map(value).collect());
                Message::Metrics(Metrics { purpose, from, worker, values, documents, samples, changes })
            },
        );
        prop_oneof![batch, gradient, norms, metrics]
    }

    fn written(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(message, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(message in messages()) {
            let bytes = written(&message);
            prop_assert_eq!(bytes.len(), length(&message));
            // NaNs are not equal to themselves, but their bytes are.
            prop_assert_eq!(written(&read(&bytes).unwrap()), bytes.clone());
            prop_assert!((0..bytes.len()).all(|cut| read(&bytes[..cut]).is_err()));
            let packet = Packet::from(message);
            prop_assert!(has_format(packet.kind()) && Message::try_from(packet).is_ok());
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5u8) {
            let _ = read(&[&[kind, 0, 0, 0, 0, 0, 0, 0], &bytes[..]].concat());
        }
    }
}
