//! The registry: every stage type that comes with the program, in the order data meets them.
use contract::{StageType, stage_type};

/// Every stage type that comes with the program. One from another crate joins with
/// [`App::with`](crate::App::with).
pub const STAGES: &[StageType] = &[
    stage_type::<text::ReadDocuments>("documents"),
    stage_type::<text::ReadTokens>("tokens"),
    stage_type::<text::Clean>("clean"),
    stage_type::<text::Length>("length"),
    stage_type::<text::Language>("language"),
    stage_type::<text::GopherQuality>("gopher_quality"),
    stage_type::<text::GopherRepetition>("gopher_repetition"),
    stage_type::<text::C4>("c4"),
    stage_type::<text::FineWeb>("fineweb"),
    stage_type::<text::BlockList>("block_list"),
    stage_type::<text::Deduplicate>("minhash"),
    stage_type::<text::Tokenize>("bpe"),
    stage_type::<text::Concat>("concat"),
    stage_type::<text::Write>("parquet"),
    stage_type::<train::forward::Gpt2Forward>("gpt2"),
    stage_type::<train::forward::llama::LlamaForward>("llama"),
    stage_type::<train::loss::CrossEntropyLoss>("cross_entropy"),
    stage_type::<train::backward::Backward>("backward"),
    stage_type::<train::reduce::Reduce>("tree_sum"),
    stage_type::<train::optimize::AdamWOptimize>("adamw"),
    stage_type::<train::optimize::muon::MuonOptimize>("muon"),
    stage_type::<train::evaluate::Evaluate>("evaluate"),
    stage_type::<train::checkpoint::Checkpoint>("checkpoint"),
    stage_type::<train::record::Record>("record"),
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_type_is_unique_and_documented_and_its_example_parses() {
        assert_eq!(crate::plan::check_registry(super::STAGES), Vec::<String>::new());
    }
}
