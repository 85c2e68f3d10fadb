//! The same numbers whatever the workers, and whenever: only settings decide them.
use crate::support::Scratch;
use std::collections::BTreeMap;

/// Every file of the checkpoints, and every number that was reported.
fn outcome(scratch: &Scratch, directory: &str) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    (scratch.checkpoint_files(directory), scratch.numbers(directory))
}

fn same_for_all_workers(micro_batches: usize, more: &[&str]) {
    let scratch = Scratch::new();
    scratch.write("gpt2.toml", "type = \"bpe\"\ntokenizer = \"gpt2\"\n");
    let leaves = format!("pack.micro_batches={micro_batches}");
    let mut first = None;
    for workers in ["1", "2", "3"] {
        let mut arguments = vec!["--set", &leaves, "--workers", workers];
        arguments.extend(more);
        scratch.train(workers, &arguments);
        let found = outcome(&scratch, workers);
        let expected = first.get_or_insert_with(|| found.clone());
        assert_eq!(found.1, expected.1, "numbers with {workers} workers, {micro_batches} leaves");
        for (name, content) in &expected.0 {
            assert!(
                found.0.get(name) == Some(content),
                "{name} with {workers} workers, {micro_batches} leaves differs"
            );
        }
        assert_eq!(found.0.len(), expected.0.len());
    }
}

#[test]
fn one_leaf() {
    same_for_all_workers(1, &[]);
}

#[test]
fn two_leaves() {
    same_for_all_workers(2, &[]);
}

#[test]
fn three_leaves() {
    same_for_all_workers(3, &[]);
}

#[test]
fn four_leaves() {
    same_for_all_workers(4, &[]);
}

#[test]
fn six_leaves() {
    same_for_all_workers(6, &[]);
}

#[test]
fn six_leaves_of_three_lanes() {
    same_for_all_workers(6, &["--set", "pack.lanes=3"]);
}

#[test]
fn smaller_micro_batches_of_the_same_lanes_learn_the_same_up_to_rounding() {
    let scratch = Scratch::new();
    scratch.train("two", &["--set", "pack.micro_batches=2", "--set", "pack.micro_batch_size=4"]);
    for (micro_batches, size) in [(4, 2), (8, 1)] {
        let set = [format!("pack.micro_batches={micro_batches}"), format!("pack.micro_batch_size={size}")];
        scratch.train(&set[0], &["--set", &set[0], "--set", &set[1], "--workers", "3"]);
        let (found, expected) = (scratch.losses(&set[0]), scratch.losses("two"));
        for (step, (a, b)) in found.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() < 1e-4, "step {}: {a} with {micro_batches} micro-batches, {b} with 2", step + 1);
        }
    }
    scratch.train("lanes", &["--set", "pack.lanes=1", "--set", "pack.micro_batch_size=4"]);
    assert_ne!(scratch.losses("lanes")[0], scratch.losses("two")[0], "one lane reads other documents");
}

#[test]
fn leaves_of_unequal_targets_with_documents_masked() {
    same_for_all_workers(3, &["--set", "pack.document_mask=true"]);
    same_for_all_workers(3, &["--set", "pack.document_mask=true", "--set", "pack.type=best_fit"]);
}

#[test]
fn another_model() {
    let more = ["--stage", "forward=llama.toml", "--set", "pack.document_mask=true"];
    same_for_all_workers(3, &more);
}

#[test]
fn another_optimizer() {
    same_for_all_workers(3, &["--stage", "optimize=muon.toml"]);
}

#[test]
fn an_average_of_the_weights() {
    same_for_all_workers(3, &["--set", "optimize.average_decay=0.9"]);
}

/// The embedding has seven sections; with Muon, the matrices have one each.
#[test]
fn tensors_with_several_owners() {
    let wide = ["--stage", "tokenize=gpt2.toml", "--set", "forward.width=32", "--set", "forward.heads=2"];
    same_for_all_workers(3, &[&wide[..], &["--set", "optimize.average_decay=0.9"]].concat());
    same_for_all_workers(4, &[&wide[..], &["--stage", "optimize=muon.toml"]].concat());
}

#[test]
fn muon_learns_at_least_as_fast_as_adamw() {
    let scratch = Scratch::new();
    let more = ["--set", "run.max_steps=60"];
    scratch.train("adamw", &more);
    scratch.train("muon", &[&["--stage", "optimize=muon.toml"], &more[..]].concat());
    let end = |directory: &str| scratch.losses(directory)[50..].iter().sum::<f64>() / 10.0;
    println!("mean loss of the last ten steps: adamw {:.4}, muon {:.4}", end("adamw"), end("muon"));
    assert!(end("muon") < end("adamw") + 0.01);
}

#[test]
fn three_leaves_in_bfloat16() {
    same_for_all_workers(3, &["--set", "forward.precision=bf16"]);
}

/// Gradients are rounded stochastically, by the seed and the position of the leaf.
#[test]
fn three_leaves_in_eight_bits() {
    let int8 = ["--set", "forward.precision=int8"];
    same_for_all_workers(3, &int8);
    same_for_all_workers(3, &[&int8[..], &["--stage", "forward=llama.toml", "--stage", "optimize=muon.toml"]].concat());
    // So many ids that the gradient of the head comes in parts.
    let wide = ["--stage", "tokenize=gpt2.toml", "--set", "forward.width=64", "--set", "forward.heads=2"];
    same_for_all_workers(2, &[&int8[..], &wide, &["--set", "run.max_steps=3"]].concat());
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_gives_others() {
    let scratch = Scratch::new();
    scratch.train("a", &[]);
    scratch.train("b", &[]);
    scratch.train("c", &["--set", "run.seed=2"]);
    assert!(outcome(&scratch, "a") == outcome(&scratch, "b"), "a second run differs");
    assert_ne!(scratch.losses("a"), scratch.losses("c"), "another seed changed nothing");
}

#[test]
fn masking_documents_changes_the_numbers() {
    let scratch = Scratch::new();
    scratch.train("open", &[]);
    scratch.train("masked", &["--set", "pack.document_mask=true"]);
    let (open, masked) = (scratch.losses("open"), scratch.losses("masked"));
    assert_ne!(open, masked);
    assert!((open[5] - masked[5]).abs() < 0.5, "{open:?} and {masked:?} are different worlds");
}

#[test]
fn one_sequence_at_a_time_comes_to_the_same() {
    let scratch = Scratch::new();
    for model in [&[][..], &["--stage", "forward=llama.toml"]] {
        let [batched, single] = ["batched", "single"].map(|name| format!("{name}-{}", model.len()));
        scratch.train(&batched, model);
        scratch.train(&single, &[model, &["--set", "forward.batching=per_sequence"]].concat());
        for (step, (a, b)) in scratch.losses(&batched).iter().zip(scratch.losses(&single)).enumerate() {
            assert!((a - b).abs() < 1e-4, "step {}: batched {a}, per sequence {b}", step + 1);
        }
    }
}
