//! The format `gguf`: one file for llama.cpp and the programs around it.
use super::model::Source;
use super::{Content, Context, Export, Exported};
use crate::problem::Usage;
use anyhow::{Context as _, Result, bail};
use contract::files::write_whole;
use text::tokenizer::llama_cpp::LlamaCppTokenizer;
use train::gguf::{Dtype, GgufModel, TensorInfo, Value, write};

/// Version of the quantized types (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// Writes a model as a GGUF file.
///
/// # Errors
/// [`Usage`] if the file exists and is not to be replaced; if llama.cpp does not support the model or its tokenizer; if
/// a file cannot be read or written.
pub fn export(asked: &Export, context: &Context) -> Result<Vec<Exported>> {
    let (path, dtype) = (&asked.out, asked.dtype.map_or(Dtype::F32, Dtype::from));
    if path.is_dir() {
        let file = path.join("model.gguf");
        return Err(Usage(format!("{} is a folder: name a file, such as {}", path.display(), file.display())).into());
    }
    asked.check_replaceable(path)?;
    let source = Source::open(&asked.source, context.stages)?;
    let at = || format!("cannot export {} as GGUF", source.folder.display());
    let facts = &source.model.model.facts;
    let model = GgufModel::new(facts, dtype).with_context(at)?;
    let Some(tokenizer) = &source.tokenizer else {
        let why = "has no tokenizer.json, and a GGUF file contains the tokenizer";
        return Err(Usage(format!("{} {why}", source.folder.display())).into());
    };
    let vocabulary = facts.parameters[facts.head].shape[0];
    let lists = LlamaCppTokenizer::new(tokenizer, vocabulary).with_context(at)?;
    let end = source.ends.first().copied().unwrap_or(tokenizer.end_of_text());
    if let Some(other) = lists.ends.filter(|other| *other != end) {
        bail!("{}: the tokenizer adds token {other} after each text, and {end} ends one", source.folder.display());
    }
    let others = model.other_matrices(dtype);
    if others > 0 {
        context.say(&format!("note: rows of {others} matrices are no multiples of 32, so those matrices are in f16"));
    }
    let mut metadata = model.metadata.clone();
    metadata.extend(general(&facts.summary, dtype));
    metadata.extend(of_tokenizer(lists, end));
    // Llama 3 has another token that ends a turn.
    let turn = source.ends.get(1).map(|id| ("tokenizer.ggml.eot_token_id".to_owned(), Value::U32(*id)));
    metadata.extend(turn);
    let tensors: Vec<TensorInfo> = model.tensors.iter().map(|tensor| tensor.info.clone()).collect();
    write_whole(path, |file| {
        write(file, &metadata, &tensors, &mut |index| {
            model.tensors[index].values(|parameter| source.model.parameter(parameter))
        })
    })?;
    let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    Ok(vec![Exported { path: path.clone(), content: Content::Model { bytes } }])
}

/// What the specification calls general metadata, without the architecture.
fn general(summary: &str, dtype: Dtype) -> Vec<(String, Value)> {
    let entries = [
        ("type", Value::String("model".into())),
        ("name", Value::String(summary.into())),
        ("file_type", Value::U32(dtype.file_type())),
        ("quantization_version", Value::U32(QUANTIZATION_VERSION)),
    ];
    entries.into_iter().map(|(key, value)| (format!("general.{key}"), value)).collect()
}

/// The tokenizer. `end` is the id of the token that ends a text.
fn of_tokenizer(lists: LlamaCppTokenizer, end: u32) -> Vec<(String, Value)> {
    let LlamaCppTokenizer { tokens, types, merges, begins, ends } = lists;
    let entries = [
        ("model", Value::String("gpt2".into())),
        ("pre", Value::String("gpt-2".into())),
        ("tokens", Value::Strings(tokens)),
        ("token_type", Value::I32s(types.into_iter().map(|kind| kind as i32).collect())),
        ("merges", Value::Strings(merges)),
        ("bos_token_id", Value::U32(begins.unwrap_or(end))),
        ("eos_token_id", Value::U32(end)),
        ("padding_token_id", Value::U32(end)),
        ("add_bos_token", Value::Bool(begins.is_some())),
        ("add_eos_token", Value::Bool(ends.is_some())),
        ("add_space_prefix", Value::Bool(false)),
    ];
    entries.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
}
