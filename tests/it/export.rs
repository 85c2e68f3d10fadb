//! Exported models: transformers and llama.cpp compute with them what they compute with the checkpoint.
use crate::support::{self, Ran, Scratch, shared};
use safetensors::SafeTensors;
use serde_json::Value;

const LLAMA: [&str; 2] = ["--stage", "forward=llama.toml"];
const QWEN3: [&str; 2] = ["--stage", "forward=qwen3.toml"];
/// The models for which llama.cpp has an architecture.
const MODELS: [(&str, &[&str]); 4] = [
    ("gpt2", &[]),
    ("llama", &LLAMA),
    ("llama", &["--stage", "forward=llama.toml", "--set", "forward.tied_head=true"]),
    ("qwen3", &QWEN3),
];

fn export(scratch: &Scratch, source: &str, out: &str, more: &[&str]) -> Ran {
    scratch.pipeline(&[&["export", source, out][..], more].concat())
}

const BF16: [&str; 2] = ["--format", "safetensors-bf16"];
const GGUF: [&str; 2] = ["--format", "gguf"];

#[test]
fn a_model_in_bfloat16_is_a_model_folder() {
    let scratch = Scratch::new();
    scratch.write("SOURCE.json", r#"{"name": "Made-up words", "licence": "CC0"}"#);
    scratch.train("run", &LLAMA);
    let written: Value =
        serde_json::from_str(&export(&scratch, "run", "out", &[&BF16[..], &["--json"]].concat()).succeeds().stdout)
            .unwrap();
    assert_eq!(written["files"].as_array().map(Vec::len), Some(6));
    let original = scratch.last("run", "model.safetensors");
    let rounded = scratch.bytes("out/model.safetensors");
    let (original, rounded) =
        (SafeTensors::deserialize(&original).unwrap(), SafeTensors::deserialize(&rounded).unwrap());
    assert_eq!(original.len(), rounded.len());
    for (name, tensor) in original.tensors() {
        let halves = rounded.tensor(&name).unwrap();
        assert_eq!((halves.dtype(), halves.shape()), (safetensors::Dtype::BF16, tensor.shape()), "{name}");
        for (single, half) in tensor.data().chunks_exact(4).zip(halves.data().chunks_exact(2)) {
            let exact = f32::from_le_bytes(single.try_into().unwrap());
            let half = f32::from_bits(u32::from(u16::from_le_bytes(half.try_into().unwrap())) << 16);
            assert!((exact - half).abs() <= exact.abs() / 256.0, "{name}: {half} is not {exact}");
        }
    }
    let config: Value = serde_json::from_str(&scratch.read("out/config.json")).unwrap();
    assert_eq!((&config["dtype"], &config["torch_dtype"]), (&"bfloat16".into(), &"bfloat16".into()));
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(scratch.bytes(&format!("out/{file}")) == scratch.last("run", file), "{file} differs");
    }
    let (card, bits) = (scratch.read("out/README.md"), scratch.metrics("run")[5]["bits_per_byte"].as_f64().unwrap());
    for piece in [
        "| weights | bfloat16 |",
        &format!("| bits per byte (held-out documents) | {bits:.4} |"),
        "pipeline run run.toml --run-dir run --stage forward=llama.toml",
        "- Made-up words",
    ] {
        assert!(card.contains(piece), "{piece}: {card}");
    }
    scratch.pipeline(&["generate", "out", "--prompt", "kamo", "--max-tokens", "5"]).succeeds();
    // A model folder without a run is exported too, and keeps its card.
    export(&scratch, "out", "again", &BF16).succeeds();
    assert!(scratch.bytes("again/model.safetensors") == scratch.bytes("out/model.safetensors"));
    assert_eq!(scratch.read("again/README.md"), card);
    std::fs::remove_file(scratch.path("out/README.md")).unwrap();
    export(&scratch, "out", "third", &BF16).succeeds();
    let card = scratch.read("third/README.md");
    assert!(card.contains("| type | `llama` |") && !card.contains("pretrained with Millrace"), "{card}");
}

#[test]
fn files_that_are_there_stay_unless_they_may_be_replaced() {
    let scratch = Scratch::new();
    scratch.train("run", &[]);
    let last = format!("run/checkpoints/{}", scratch.checkpoints("run").pop().unwrap());
    export(&scratch, "run", "out", &BF16).succeeds();
    let overwrite = |format: [&'static str; 2]| [&format[..], &["--overwrite"]].concat();
    export(&scratch, "run", "out", &BF16).fails(2, &["out/model.safetensors is of an earlier export", "--overwrite"]);
    scratch.write("out/model.safetensors.index.json", "{}");
    scratch.write("out/notes.txt", "mine");
    export(&scratch, &last, "out", &overwrite(BF16)).succeeds();
    assert!(!scratch.path("out/model.safetensors.index.json").exists() && scratch.path("out/notes.txt").exists());
    for checkpoint in [&*last, "out"] {
        export(&scratch, checkpoint, checkpoint, &overwrite(BF16)).fails(2, &["is the model that is exported"]);
    }
    export(&scratch, "out", &last, &overwrite(BF16)).fails(2, &["is a checkpoint: name another folder"]);
    export(&scratch, "run", "model.gguf", &GGUF).succeeds();
    export(&scratch, "run", "model.gguf", &GGUF).fails(2, &["model.gguf is of an earlier export", "--overwrite"]);
    export(&scratch, "run", "model.gguf", &overwrite(GGUF)).succeeds();
    export(&scratch, "run", "out", &GGUF).fails(2, &["out is a folder: name a file, such as out/model.gguf"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model.gguf", scratch.path("link.gguf")).unwrap();
        export(&scratch, "run", "link.gguf", &overwrite(GGUF)).fails(1, &["link.gguf: it is a symbolic link"]);
    }
}

#[test]
fn a_format_that_does_not_fit_is_refused_with_those_that_do() {
    let scratch = Scratch::new();
    scratch.train("run", &[]);
    let stages = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\n\
                  tokenizer = \"gpt2\"\n[stage.write]\ntype = \"parquet\"\nshards = 1\n";
    scratch.write("corpus.toml", format!("[run]\nname = \"corpus\"\n{stages}"));
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "corpus"]).succeeds();
    for source in ["run".into(), format!("run/checkpoints/{}", scratch.checkpoints("run").pop().unwrap())] {
        let said = "is a model, which cannot be exported as nanogpt; formats for it: safetensors-bf16, gguf";
        export(&scratch, &source, "out", &["--format", "nanogpt"]).fails(2, &[said]);
    }
    for source in ["corpus", "corpus/v1"] {
        let said = "is a prepared corpus, which cannot be exported as gguf; formats for it: nanogpt, llm.c";
        export(&scratch, source, "out", &GGUF).fails(2, &[said]);
    }
    export(&scratch, "run", "out", &["--format", "onnx"]).fails(2, &["onnx", "safetensors-bf16, gguf, nanogpt, llm.c"]);
    let typed = [&BF16[..], &["--dtype", "f16"]].concat();
    export(&scratch, "run", "out", &typed).fails(2, &["--dtype is for --format gguf"]);
    export(&scratch, "rum", "out", &GGUF).fails(2, &["there is no run or checkpoint rum", "similar: run"]);
    assert!(!scratch.path("out").exists());
}

#[test]
fn what_llama_cpp_cannot_compute_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    scratch.train("nanochat", &["--stage", "forward=nanochat.toml"]);
    export(&scratch, "nanochat", "out.gguf", &GGUF).fails(1, &["llama.cpp has no architecture for NanoChat"]);
    scratch.train("run", &[]);
    export(&scratch, "run", "copy", &BF16).succeeds();
    let mut tokenizer: Value = serde_json::from_str(&scratch.read("copy/tokenizer.json")).unwrap();
    let bytes = tokenizer["pre_tokenizer"].clone();
    let digits = serde_json::json!({"type": "Digits", "individual_digits": true});
    tokenizer["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [digits, bytes]});
    scratch.write("copy/tokenizer.json", tokenizer.to_string());
    export(&scratch, "copy", "out.gguf", &GGUF).fails(2, &["llama.cpp would make other tokens", "pre-tokenizer"]);
    std::fs::remove_file(scratch.path("copy/tokenizer.json")).unwrap();
    export(&scratch, "copy", "out.gguf", &GGUF).fails(2, &["copy has no tokenizer.json"]);
    assert!(!scratch.path("out.gguf").exists());
}

#[test]
fn matrices_whose_rows_do_not_fill_blocks_are_in_f16() {
    let scratch = Scratch::new();
    scratch.train("run", &["--set", "forward.width=48", "--set", "forward.feed_forward=64"]);
    let said = export(&scratch, "run", "model.gguf", &[&GGUF[..], &["--dtype", "q8_0"]].concat()).succeeds().stderr;
    // The embedding, and three of the four matrices of two blocks; rows of `mlp.c_proj` have 64 columns.
    assert!(said.contains("note: rows of 7 matrices are no multiples of 32, so those matrices are in f16"), "{said}");
}

/// Transformers computes with the exported weights what it computes with the rounded weights of the checkpoint.
const LOADED: &str = "
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
original = AutoModelForCausalLM.from_pretrained('FOLDER')
model, about = AutoModelForCausalLM.from_pretrained('out', output_loading_info=True)
wrong = {key: list(about[key]) for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')}
assert not any(wrong.values()), wrong
assert model.dtype == torch.bfloat16 and original.dtype == torch.float32
theirs = original.state_dict()
assert all(torch.equal(theirs[name].bfloat16(), tensor) for name, tensor in model.state_dict().items())
tokenizer = AutoTokenizer.from_pretrained('out')
ids = tokenizer('kamo rite', return_tensors='pt')
text = tokenizer.decode(model.generate(**ids, max_new_tokens=5, do_sample=False)[0])
print(json.dumps({'text': text}))
";

#[test]
fn transformers_loads_a_model_in_bfloat16() {
    for stage in [&[][..], &["--stage", "forward=nanochat.toml"]] {
        let scratch = Scratch::new();
        scratch.train("run", stage);
        export(&scratch, "run", "out", &BF16).succeeds();
        let loaded = LOADED.replace("FOLDER", "run/checkpoints/step-00000006");
        let Some(found) = support::script(&scratch, "torch, transformers", &loaded) else { return };
        assert!(found["text"].as_str().unwrap().starts_with("kamo rite"), "{found}");
    }
}

/// Reads a file with llama.cpp's own library, whose table of names and quantization say what is expected.
const READ: &str = "
import json, numpy, gguf
from gguf import GGMLQuantizationType as Type
raw = open('FOLDER/model.safetensors', 'rb').read()
start = 8 + int.from_bytes(raw[:8], 'little')
parameters = {
    name: numpy.frombuffer(raw[start + about['data_offsets'][0]:start + about['data_offsets'][1]], numpy.float32)
          .reshape(about['shape'])
    for name, about in json.loads(raw[8:start]).items() if name != '__metadata__'
}
config, tokenizer = json.load(open('FOLDER/config.json')), json.load(open('FOLDER/tokenizer.json'))
kind, dtype = config['model_type'], Type['DTYPE'.upper()]
reader = gguf.GGUFReader('model.gguf')
fields = {name: field.contents() for name, field in reader.fields.items()}
assert fields['general.architecture'] == kind and fields[kind + '.block_count'] == 2, fields
assert fields[kind + '.context_length'] == 32 and fields[kind + '.embedding_length'] == 32
vocabulary = sorted(tokenizer['model']['vocab'], key=tokenizer['model']['vocab'].get)
assert fields['tokenizer.ggml.tokens'] == vocabulary and fields['tokenizer.ggml.pre'] == 'gpt-2'
assert fields['tokenizer.ggml.merges'] == [' '.join(pair) for pair in tokenizer['model']['merges']]
end = vocabulary.index('<|endoftext|>')
assert fields['tokenizer.ggml.eos_token_id'] == fields['tokenizer.ggml.bos_token_id'] == end
types = [gguf.TokenType.NORMAL] * len(vocabulary)
types[end] = gguf.TokenType.CONTROL
assert fields['tokenizer.ggml.token_type'] == types and fields['tokenizer.ggml.add_bos_token'] is False
architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
names = gguf.get_tensor_name_map(architecture, 2)
found = {tensor.name: tensor for tensor in reader.tensors}
assert len(found) == len(parameters) == len(reader.tensors)
for name, values in parameters.items():
    ours = names.get_name(name, ('.weight', '.bias'))
    if kind == 'gpt2' and values.ndim == 2 and '.h.' in name:
        values = values.T
    if kind == 'llama' and ('q_proj' in name or 'k_proj' in name):
        heads = config['num_attention_heads' if 'q_proj' in name else 'num_key_value_heads']
        values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    expected = Type.F32 if values.ndim == 1 or ours == 'position_embd.weight' else dtype
    if expected == Type.Q8_0 and values.shape[-1] % 32:
        expected = Type.F16
    tensor = found.pop(ours)
    assert tensor.tensor_type == expected and list(tensor.shape) == list(values.shape)[::-1], (ours, tensor)
    values = numpy.ascontiguousarray(values)
    assert tensor.data.tobytes() == gguf.quants.quantize(values, expected).tobytes(), ours
print(json.dumps({'fields': len(fields)}))
";

#[test]
fn the_library_of_llama_cpp_reads_what_is_written() {
    for (_, stage) in MODELS {
        let scratch = Scratch::new();
        scratch.train("run", stage);
        for dtype in ["f32", "f16", "bf16", "q8_0"] {
            export(&scratch, "run", "model.gguf", &[&GGUF[..], &["--dtype", dtype, "--overwrite"]].concat()).succeeds();
            let read = READ.replace("FOLDER", "run/checkpoints/step-00000006").replace("DTYPE", dtype);
            let Some(found) = support::script(&scratch, "numpy, gguf", &read) else { return };
            assert!(found["fields"].as_u64() > Some(20), "{found}");
        }
    }
}

/// Logits and greedy text of llama.cpp with each type of matrices, and logits of transformers with the checkpoint.
const COMPUTED: &str = "
import json, numpy, torch
import llama_cpp.llama_cpp as library
from llama_cpp import Llama
from transformers import AutoModelForCausalLM, AutoTokenizer
defaults = library.llama_model_default_params
def plain():
    # llama.cpp 0.5.0 repacks q8_0 for AMX, and then crashes (SIGILL: the tiles are not configured).
    parameters = defaults()
    parameters.use_extra_bufts = False
    return parameters
library.llama_model_default_params = plain
folder, prompt = 'FOLDER', 'kamo rite su'
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer('kamo rite suno la vi en dor pa gu. ' * 3)['input_ids'][:60]
with torch.no_grad():
    expected = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0].numpy()
answers = {}
for dtype in ('f32', 'f16', 'bf16', 'q8_0'):
    # Keys and values in f32 (type 0), as here.
    llama = Llama(dtype + '.gguf', n_ctx=256, n_threads=1, logits_all=True, type_k=0, type_v=0, verbose=False)
    assert llama.tokenize(prompt.encode(), add_bos=False, special=True) == tokenizer(prompt)['input_ids']
    llama.eval(ids)
    logits = numpy.array(llama.scores[:len(ids)])
    difference = float(abs(logits - expected).max() / abs(expected).max())
    llama.reset()
    text = llama.create_completion(prompt, max_tokens=150, temperature=0)['choices'][0]['text']
    answers[dtype] = {'difference': difference, 'text': text}
print(json.dumps(answers))
";

#[test]
fn llama_cpp_computes_the_same_logits_and_text() {
    for (model, stage) in MODELS {
        let scratch = Scratch::new();
        let long =
            ["--set", "pack.sequence_length=256", "--set", "run.max_steps=30", "--set", "optimize.learning_rate=3e-3"];
        scratch.train("run", &[stage, &long].concat());
        for dtype in ["f32", "f16", "bf16", "q8_0"] {
            let file = format!("{dtype}.gguf");
            export(&scratch, "run", &file, &[&GGUF[..], &["--dtype", dtype]].concat()).succeeds();
        }
        let computed = COMPUTED.replace("FOLDER", "run/checkpoints/step-00000030");
        let Some(theirs) = support::script(&scratch, "torch, transformers, llama_cpp", &computed) else { return };
        let ran =
            ["generate", "run", "--prompt", "kamo rite su", "--max-tokens", "150", "--temperature", "0", "--json"];
        let ours: Value = serde_json::from_str(&scratch.pipeline(&ran).succeeds().stdout).unwrap();
        for (dtype, most) in [("f32", 1e-3), ("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2)] {
            let difference = theirs[dtype]["difference"].as_f64().unwrap();
            println!("{model} {dtype}: logits differ by {difference:.1e} of the largest");
            assert!(difference < most, "{model} {dtype}: {difference}");
        }
        assert_eq!(theirs["f32"]["text"], ours["text"], "{model}");
        assert!(ours["tokens"].as_array().is_some_and(|tokens| tokens.len() >= 30), "{model}: {}", ours["text"]);
    }
}

/// Whether llama.cpp makes the tokens of Hugging Face's library of every document.
const TOKENIZED: &str = "
import json, pyarrow.parquet
from llama_cpp import Llama
from tokenizers import Tokenizer
llama = Llama('model.gguf', vocab_only=True, verbose=False)
tokenizer = Tokenizer.from_file('run/tokenizer.json')
texts = pyarrow.parquet.read_table('CORPUS', columns=['text'])['text'].to_pylist()
different, count = [], 0
for row, text in enumerate(texts):
    theirs = llama.tokenize(text.encode(), add_bos=False, special=True)
    ours = tokenizer.encode(text, add_special_tokens=False).ids
    count += len(ours)
    if theirs != ours:
        different.append(row)
print(json.dumps({'documents': len(texts), 'tokens': count, 'different': different}))
";

#[test]
fn llama_cpp_makes_the_same_tokens() {
    let Some(corpus) = shared("data/corpus/wiki-en-dev.parquet") else { return };
    let Some(tokenizer) = shared("peers/wiki-10k.tokenizer.json") else { return };
    for tokenizer in [tokenizer.display().to_string(), "gpt2".to_owned()] {
        let scratch = Scratch::new();
        scratch.write("tokenize.toml", format!("type = \"bpe\"\ntokenizer = {tokenizer:?}\n"));
        scratch.train("run", &["--stage", "tokenize=tokenize.toml", "--set", "run.max_steps=1"]);
        export(&scratch, "run", "model.gguf", &GGUF).succeeds();
        let script = TOKENIZED.replace("CORPUS", &corpus.display().to_string());
        let Some(found) = support::script(&scratch, "llama_cpp, tokenizers, pyarrow", &script) else { return };
        println!("{tokenizer}: {} documents, {} tokens", found["documents"], found["tokens"]);
        assert_eq!(found["different"], Value::Array(Vec::new()), "{tokenizer}");
    }
}
