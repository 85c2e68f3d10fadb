//! The registry: every stage type that comes with the program, in the order data meets them.
use contract::{StageType, stage_type};
use text::filter::filter_type;
use train::forward::model_type;
use train::loss::loss_type;
use train::optimize::optimizer_type;

/// Every stage type that comes with the program. One from another crate joins with
/// [`App::with`](crate::App::with).
pub const STAGES: &[StageType] = &[
    stage_type::<text::ReadDocuments>("documents"),
    stage_type::<text::ReadTokens>("tokens"),
    stage_type::<text::Clean>("clean"),
    filter_type::<text::Length>("length"),
    filter_type::<text::Language>("language"),
    filter_type::<text::GopherQuality>("gopher_quality"),
    filter_type::<text::GopherRepetition>("gopher_repetition"),
    filter_type::<text::C4>("c4"),
    filter_type::<text::FineWeb>("fineweb"),
    filter_type::<text::BlockList>("block_list"),
    stage_type::<text::Mix>("mixture"),
    stage_type::<text::Deduplicate>("minhash"),
    stage_type::<text::Tokenize>("bpe"),
    stage_type::<text::Concat>("concat"),
    stage_type::<text::BestFit>("best_fit"),
    stage_type::<text::Write>("parquet"),
    model_type::<train::forward::gpt2::Gpt2>("gpt2"),
    model_type::<train::forward::llama::Llama>("llama"),
    model_type::<train::forward::qwen3::Qwen3>("qwen3"),
    model_type::<train::forward::nanochat::NanoChat>("nanochat"),
    loss_type::<train::loss::CrossEntropyLoss>("cross_entropy"),
    stage_type::<train::backward::Backward>("backward"),
    stage_type::<train::reduce::Reduce>("tree_sum"),
    optimizer_type::<train::optimize::adamw::AdamW>("adamw"),
    optimizer_type::<train::optimize::muon::Muon>("muon"),
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
