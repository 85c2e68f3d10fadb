//! What is written is read back, by a small reader of the format's specification.
use super::architecture::GgufModel;
use super::dtype::BLOCK;
use super::writer::{ALIGNMENT, MAGIC, VERSION};
use super::*;
use anyhow::Result;
use compute::kernels::rotary::RopeScaling;
use compute::models::{Gpt2Shape, LlamaShape, Model, NanoChatShape, Qwen3Shape};
use contract::{ModelFacts, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A file that was read: its metadata, and the tensors with their values as f32.
#[derive(Debug, Default)]
struct File {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, (Vec<usize>, u32, Vec<f32>)>,
}

/// Reads from the beginning of the rest of a file.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("bytes");
        self.0 = rest;
        *bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(text.to_vec()).expect("UTF-8")
    }

    fn value(&mut self) -> Value {
        match self.u32() {
            4 => Value::U32(self.u32()),
            6 => Value::F32(f32::from_bits(self.u32())),
            7 => Value::Bool(self.bytes::<1>() == [1]),
            8 => Value::String(self.text()),
            9 => match (self.u32(), self.u64()) {
                (5, count) => Value::I32s((0..count).map(|_| self.u32() as i32).collect()),
                (8, count) => Value::Strings((0..count).map(|_| self.text()).collect()),
                (other, _) => panic!("an array of type {other}"),
            },
            other => panic!("a value of type {other}"),
        }
    }
}

fn read(file: &[u8]) -> File {
    let mut reader = Reader(file);
    assert_eq!((&reader.bytes(), reader.u32()), (MAGIC, VERSION));
    let (tensors, pairs) = (reader.u64(), reader.u64());
    let metadata = (0..pairs).map(|_| (reader.text(), reader.value())).collect();
    let infos: Vec<_> = (0..tensors)
        .map(|_| {
            let name = reader.text();
            let dimensions = reader.u32();
            let mut shape: Vec<usize> = (0..dimensions).map(|_| reader.u64() as usize).collect();
            shape.reverse();
            (name, shape, reader.u32(), reader.u64() as usize)
        })
        .collect();
    let head = file.len() - reader.0.len();
    let data = &file[head.next_multiple_of(ALIGNMENT)..];
    let tensors = infos.into_iter().map(|(name, shape, dtype, offset)| {
        assert!(offset.is_multiple_of(ALIGNMENT), "{name}");
        let values = decode(dtype, shape.iter().product(), &data[offset..]);
        (name, (shape, dtype, values))
    });
    File { metadata, tensors: tensors.collect() }
}

fn decode(dtype: u32, count: usize, bytes: &[u8]) -> Vec<f32> {
    let half = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().expect("two bytes"));
    match dtype {
        0 => bytes.chunks_exact(4).take(count).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect(),
        1 => bytes.chunks_exact(2).take(count).map(|b| f16::from_bits(half(b)).to_f32()).collect(),
        30 => bytes.chunks_exact(2).take(count).map(|b| bf16::from_bits(half(b)).to_f32()).collect(),
        8 => bytes
            .chunks_exact(2 + BLOCK)
            .take(count / BLOCK)
            .flat_map(|block| {
                let scale = f16::from_bits(half(&block[..2])).to_f32();
                block[2..].iter().map(move |level| f32::from(*level as i8) * scale)
            })
            .collect(),
        other => panic!("a tensor of type {other}"),
    }
}

/// The file of a model whose parameters contain their own place: the index of the parameter, and of the element.
fn file(facts: &ModelFacts, dtype: Dtype) -> Result<File> {
    let model = GgufModel::new(facts, dtype)?;
    let infos: Vec<TensorInfo> = model.tensors.iter().map(|tensor| tensor.info.clone()).collect();
    let parameter = |index: usize| Ok(numbered(facts, index));
    let mut out = Vec::new();
    write(&mut out, &model.metadata, &infos, &mut |index| model.tensors[index].values(parameter))?;
    Ok(read(&out))
}

fn numbered(facts: &ModelFacts, index: usize) -> Tensor {
    let spec = &facts.parameters[index];
    let values: Vec<f32> = (0..spec.len()).map(|element| (1000 * index + element) as f32 / 1024.0).collect();
    Tensor::from_values(spec.shape.clone(), &values)
}

fn llama() -> LlamaShape {
    LlamaShape {
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 4,
        width: 12,
        feed_forward: 20,
        vocabulary: 30,
        length: 7,
        tied_head: false,
        rms_epsilon: 1e-5,
        rope_theta: 5e5,
        rope_scaling: RopeScaling::None,
        end_of_text: 29,
    }
}

fn gpt2() -> ModelFacts {
    let (layers, heads, width, feed_forward, vocabulary, length, end_of_text) = (2, 2, 8, 20, 30, 7, 29);
    let shape = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text };
    shape.model().facts().clone()
}

fn parameter(facts: &ModelFacts, name: &str) -> Tensor {
    let index = facts.parameters.iter().position(|spec| spec.name == name).expect("a parameter");
    numbered(facts, index)
}

#[test]
fn a_gpt2_has_transposed_matrices_and_no_head() {
    let facts = gpt2();
    let found = file(&facts, Dtype::F32).unwrap();
    assert_eq!(found.metadata["general.architecture"], Value::String("gpt2".into()));
    for (key, size) in [("block_count", 2), ("context_length", 7), ("feed_forward_length", 20), ("vocab_size", 30)] {
        assert_eq!(found.metadata[&format!("gpt2.{key}")], Value::U32(size));
    }
    assert_eq!(found.metadata["gpt2.attention.layer_norm_epsilon"], Value::F32(1e-5));
    assert_eq!(found.tensors.len(), facts.parameters.len());
    assert!(!found.tensors.contains_key("output.weight"), "the head is tied");
    let (shape, _, values) = &found.tensors["blk.1.attn_qkv.weight"];
    assert_eq!(shape, &[24, 8]);
    let original = parameter(&facts, "transformer.h.1.attn.c_attn.weight");
    assert_eq!(values[3 * 8 + 5], original.data[5 * 24 + 3]);
    assert_eq!(found.tensors["blk.1.attn_qkv.bias"].2, parameter(&facts, "transformer.h.1.attn.c_attn.bias").data[..]);
    assert_eq!(found.tensors["position_embd.weight"].0, [7, 8]);
}

#[test]
fn rows_of_a_llamas_queries_and_keys_are_interleaved() {
    let facts = llama().model().facts().clone();
    let found = file(&facts, Dtype::F32).unwrap();
    for (name, theirs) in [("attn_q", "q_proj"), ("attn_k", "k_proj")] {
        let original = parameter(&facts, &format!("model.layers.0.self_attn.{theirs}.weight"));
        let rows = |values: &[f32]| values.chunks_exact(12).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let (found, original) = (rows(&found.tensors[&format!("blk.0.{name}.weight")].2), rows(&original.data));
        // Of each head of four rows.
        for (head, original) in found.chunks_exact(4).zip(original.chunks_exact(4)) {
            assert_eq!(head, [0, 2, 1, 3].map(|row| original[row].clone()));
        }
    }
    for (name, theirs) in [("attn_v", "self_attn.v_proj"), ("ffn_gate", "mlp.gate_proj")] {
        let original = parameter(&facts, &format!("model.layers.0.{theirs}.weight"));
        assert_eq!(found.tensors[&format!("blk.0.{name}.weight")].2, original.data[..]);
    }
    assert!(found.tensors.contains_key("output.weight"), "the head is not tied");
    assert_eq!(found.metadata["llama.attention.head_count_kv"], Value::U32(2));
    assert_eq!(found.metadata["llama.rope.freq_base"], Value::F32(5e5));
}

#[test]
fn scaled_rotary_frequencies_are_described() {
    let linear = LlamaShape { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..llama() };
    let found = file(linear.model().facts(), Dtype::F32).unwrap();
    assert_eq!(found.metadata["llama.rope.scaling.factor"], Value::F32(2.0));
    assert!(!found.tensors.contains_key("rope_freqs.weight"));
    let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
    let llama3 = LlamaShape { rope_scaling: scaling, ..llama() };
    let found = file(llama3.model().facts(), Dtype::F32).unwrap();
    // The first frequency has ten periods in the original context, the second less than one.
    assert_eq!(found.tensors["rope_freqs.weight"].2, [1.0, 8.0]);
    let refused = file(Qwen3Shape(llama3).model().facts(), Dtype::F32).unwrap_err();
    assert!(refused.to_string().contains("rotary frequencies of a Qwen 3"), "{refused}");
}

#[test]
fn a_qwen3_keeps_its_rows_and_has_norms_of_heads() {
    let facts = Qwen3Shape(LlamaShape { tied_head: true, ..llama() }).model().facts().clone();
    let found = file(&facts, Dtype::F32).unwrap();
    assert_eq!(found.metadata["general.architecture"], Value::String("qwen3".into()));
    let original = parameter(&facts, "model.layers.1.self_attn.q_proj.weight");
    assert_eq!(found.tensors["blk.1.attn_q.weight"].2, original.data[..]);
    assert_eq!(found.tensors["blk.1.attn_k_norm.weight"].0, [4]);
    assert!(!found.tensors.contains_key("output.weight"));
}

#[test]
fn a_nanochat_is_rejected_with_the_reason() {
    let facts = NanoChatShape { llama: llama(), logit_softcap: None }.model().facts().clone();
    let refused = file(&facts, Dtype::F32).unwrap_err().to_string();
    assert!(refused.contains("llama.cpp has no architecture for NanoChat"), "{refused}");
}

#[test]
fn vectors_and_positions_stay_in_f32_and_odd_rows_become_f16() {
    let wide = LlamaShape { width: 32, ..llama() };
    let model = GgufModel::new(wide.model().facts(), Dtype::Q8_0).unwrap();
    let dtype = |name: &str| model.tensors.iter().find(|tensor| tensor.info.name == name).unwrap().info.dtype;
    assert_eq!(dtype("blk.0.attn_q.weight"), Dtype::Q8_0);
    assert_eq!(dtype("blk.0.attn_output.weight"), Dtype::F16, "its rows are 16 wide");
    assert_eq!(dtype("blk.0.attn_norm.weight"), Dtype::F32);
    // attn_output and ffn_down of two blocks.
    assert_eq!(model.other_matrices(Dtype::Q8_0), 4);
    let model = GgufModel::new(&gpt2(), Dtype::Bf16).unwrap();
    let positions = model.tensors.iter().find(|tensor| tensor.info.name == "position_embd.weight").unwrap();
    assert_eq!(positions.info.dtype, Dtype::F32);
    assert_eq!(model.other_matrices(Dtype::Bf16), 0);
}

#[test]
fn values_that_a_type_cannot_represent_are_rejected() {
    let encode = |dtype: Dtype, value: f32| dtype.encode(&[value; BLOCK], &mut Vec::new());
    for (dtype, too_large) in [(Dtype::F16, 7e4), (Dtype::Bf16, f32::MAX), (Dtype::Q8_0, 9e6), (Dtype::F32, f32::NAN)] {
        assert!(encode(dtype, too_large).unwrap_err().to_string().contains("the largest that"), "{dtype:?}");
        assert!(encode(dtype, 6e4).is_ok(), "{dtype:?}");
        assert!(encode(dtype, f32::INFINITY).is_err(), "{dtype:?}");
    }
}

/// A block by hand: the largest value becomes ±127.
#[test]
fn a_block_is_a_scale_and_bytes() {
    let mut values = [0.0; BLOCK];
    values[..4].copy_from_slice(&[-2.0, 1.0, 0.0079, 0.5]);
    let mut out = Vec::new();
    Dtype::Q8_0.encode(&values, &mut out).unwrap();
    assert_eq!(out[..2], f16::from_f32(2.0 / 127.0).to_le_bytes());
    assert_eq!(out[2..6].iter().map(|byte| *byte as i8).collect::<Vec<_>>(), [-127, 64, 1, 32]);
    assert_eq!(out.len(), 34);
    out.clear();
    Dtype::Q8_0.encode(&[0.0; BLOCK], &mut out).unwrap();
    assert_eq!(out, [0; 34]);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u32>().prop_map(Value::U32),
        (-1e9_f32..1e9).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,9}".prop_map(Value::String),
        prop::collection::vec(any::<i32>(), 0..5).prop_map(Value::I32s),
        prop::collection::vec(".{0,9}", 0..5).prop_map(Value::Strings),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        metadata in prop::collection::btree_map("[a-z.]{1,9}", value(), 0..6),
        shapes in prop::collection::vec(prop::collection::vec(1_usize..4, 1..4), 0..5),
        dtypes in prop::collection::vec(0_usize..4, 5),
        seed in any::<u32>(),
    ) {
        let all = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0];
        let tensors: Vec<(TensorInfo, Tensor)> = shapes
            .into_iter()
            .enumerate()
            .map(|(index, mut shape)| {
                let dtype = all[dtypes[index]];
                if dtype == Dtype::Q8_0 {
                    shape.push(BLOCK);
                }
                let count: usize = shape.iter().product();
                let number = |i: usize| (seed.wrapping_mul(1 + (index * 97 + i) as u32) as f32 / u32::MAX as f32) - 0.5;
                let values: Vec<f32> = (0..count).map(number).collect();
                let tensor = Tensor::from_values(shape.clone(), &values);
                (TensorInfo { name: format!("t{index}"), shape, dtype }, tensor)
            })
            .collect();
        let infos: Vec<TensorInfo> = tensors.iter().map(|(info, _)| info.clone()).collect();
        let pairs: Vec<(String, Value)> = metadata.clone().into_iter().collect();
        let mut out = Vec::new();
        let copy = |index: usize| {
            let tensor: &Tensor = &tensors[index].1;
            Ok(Tensor::from_values(tensor.shape.clone(), &tensor.data))
        };
        write(&mut out, &pairs, &infos, &mut { copy }).unwrap();
        prop_assert_eq!(out.len() % ALIGNMENT, 0);
        let found = read(&out);
        prop_assert_eq!(found.metadata, metadata);
        for (info, tensor) in &tensors {
            let (shape, dtype, values) = &found.tensors[&info.name];
            prop_assert_eq!((shape, *dtype), (&info.shape, info.dtype.id()));
            // Half the distance between neighbours, relative to the largest value of a block.
            let tolerance = match info.dtype {
                Dtype::F32 => 0.0,
                Dtype::F16 => 0.5 / 2048.0,
                Dtype::Bf16 => 0.5 / 256.0,
                Dtype::Q8_0 => 0.5 / 127.0,
            };
            for (found, expected) in values.iter().zip(tensor.data.iter()) {
                prop_assert!((found - expected).abs() <= tolerance, "{} is not {}", found, expected);
            }
        }
    }
}
