//! Names that other programs give to keys and values, so that a message can name ours.

/// Other programs' names of a key, and ours: nanoGPT, Hugging Face's transformers, PyTorch and Lightning.
const KEYS: &[(&[&str], &str)] = &[
    (&["n_layer", "n_layers", "num_layers", "num_hidden_layers", "depth"], "layers"),
    (&["n_head", "n_heads", "num_heads", "num_attention_heads"], "heads"),
    (&["n_kv_heads", "num_kv_heads", "num_key_value_heads"], "kv_heads"),
    (&["n_embd", "n_embed", "hidden_size", "d_model", "embed_dim", "embedding_dim", "dim"], "width"),
    (&["n_inner", "intermediate_size", "d_ff", "ffn_dim", "hidden_dim"], "feed_forward"),
    (&["tie_word_embeddings", "tie_embeddings", "tied_embeddings"], "tied_head"),
    (&["rms_norm_eps", "norm_eps"], "rms_epsilon"),
    (&["dtype", "torch_dtype"], "precision"),
    (
        &[
            "block_size",
            "context_length",
            "context_size",
            "seq_len",
            "seq_length",
            "max_seq_len",
            "max_seq_length",
            "max_length",
            "n_ctx",
            "n_positions",
            "max_position_embeddings",
        ],
        "sequence_length",
    ),
    (&["batch_size", "train_batch_size", "per_device_train_batch_size"], "micro_batch_size"),
    (
        &["gradient_accumulation_steps", "gradient_accumulation", "grad_accum", "accumulate_grad_batches"],
        "micro_batches",
    ),
    (&["vocab_size", "n_vocab"], "vocabulary_size"),
    (&["lr", "max_lr", "peak_lr"], "learning_rate"),
    (&["min_lr", "min_learning_rate"], "final_fraction"),
    (&["warmup", "warmup_iters", "num_warmup_steps", "warmup_ratio"], "warmup_steps"),
    (&["scheduler", "lr_scheduler", "lr_scheduler_type", "lr_schedule", "decay_lr"], "schedule"),
    (&["clip", "grad_clip", "gradient_clip", "gradient_clip_val", "max_grad_norm"], "clip_norm"),
    (&["ema", "ema_decay", "ema_beta", "use_ema"], "average_decay"),
    (&["beta_1", "adam_beta1", "betas"], "beta1"),
    (&["beta_2", "adam_beta2"], "beta2"),
    (&["eps", "adam_epsilon"], "epsilon"),
    (&["wd"], "weight_decay"),
    (&["max_iters", "steps", "num_steps", "total_steps", "train_steps", "max_train_steps"], "max_steps"),
    (&["epochs", "num_epochs", "num_train_epochs"], "max_epochs"),
    (&["eval_interval", "eval_steps", "eval_every", "save_interval", "save_steps", "save_every"], "interval"),
    (&["save_total_limit"], "keep"),
    (&["mask_across_documents"], "document_mask"),
    (&["files", "path", "data", "data_files", "train_files"], "paths"),
    (&["text_column", "text_field", "field"], "column"),
    (&["random_seed"], "seed"),
    (&["num_workers", "threads", "num_threads"], "workers"),
    (&["init_from", "pretrained", "model_name_or_path"], "initial_checkpoint"),
];

/// Other programs' names of a value, ours, and why.
const VALUES: &[(&str, &str, &str)] = &[
    ("fp16", "bf16", "CPUs compute no fp16 here; bf16 has the range of f32"),
    ("float16", "bf16", "CPUs compute no fp16 here; bf16 has the range of f32"),
    ("half", "bf16", "CPUs compute no fp16 here; bf16 has the range of f32"),
    ("bfloat16", "bf16", "write \"bf16\""),
    ("i8", "int8", "write \"int8\""),
    ("fp8", "int8", "CPUs compute no fp8; int8 has as many bits"),
    ("fp32", "f32", "write \"f32\""),
    ("float32", "f32", "write \"f32\""),
];

/// Our keys for a name that another program uses.
pub(super) fn keys(name: &str) -> impl Iterator<Item = &'static str> + use<> {
    let plain = name.to_lowercase().replace('-', "_");
    KEYS.iter().filter(move |(theirs, _)| theirs.contains(&plain.as_str())).map(|(_, ours)| *ours)
}

/// Our value for one that another program uses, and why.
pub(super) fn value(name: &str) -> Option<(&'static str, &'static str)> {
    VALUES.iter().find(|(theirs, ..)| *theirs == name).map(|(_, ours, why)| (*ours, *why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STAGES;
    use crate::plan::RunSettings;
    use contract::{StageKeys, StageType};

    #[test]
    fn our_names_exist_and_theirs_do_not() {
        let stages = STAGES.iter().flat_map(StageType::keys);
        let known: Vec<&str> = stages.chain(RunSettings::keys()).map(|key| key.name).collect();
        for (theirs, ours) in KEYS {
            assert!(known.contains(ours), "{ours}");
            for name in theirs.iter().filter(|name| **name != "path" && **name != "clip") {
                assert!(!known.contains(name), "{name} is one of our keys");
            }
        }
    }
}
