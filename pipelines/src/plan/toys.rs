//! Toy stages for the tests of this crate: they wire like a training graph, and cannot be built.
use contract::{
    Built, Env, Kind, Mixture, Port, Problem, Result, Route, Settings, StageKeys, StageSettings, StageType, stage_type,
};
use serde::{Deserialize, Serialize};

pub(crate) const TOYS: &[StageType] = &[
    stage_type::<Read>("documents"),
    stage_type::<Clean>("clean"),
    stage_type::<Tokenize>("bpe"),
    stage_type::<Pack>("concat"),
    stage_type::<Model>("gpt2"),
    stage_type::<Loss>("cross_entropy"),
    stage_type::<Backward>("backward"),
    stage_type::<Reduce>("tree"),
    stage_type::<Optimize>("adamw"),
    stage_type::<Evaluate>("evaluate"),
    stage_type::<Record>("record"),
    stage_type::<WriteRows>("rows"),
    stage_type::<WriteTokens>("tokens"),
    stage_type::<Mix>("mixture"),
    stage_type::<Compare>("minhash"),
];

macro_rules! toy {
    ($(#[$meta:meta])* $name:ident { $($key:ident: $type:ty = $default:expr, $docs:literal;)* }
     $summary:literal, example $example:literal, takes $takes:expr, gives $gives:expr, check $check:expr
     $(, mixes $mixes:expr)? $(, whole $whole:literal)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct $name { $(#[doc = $docs] pub $key: $type,)* }
        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
        impl StageSettings for $name {
            const SUMMARY: &'static str = $summary;
            const EXAMPLE: &'static str = $example;
        }
        impl Settings for $name {
            fn takes(&self) -> Vec<Port> {
                $takes.to_vec()
            }
            fn gives(&self) -> Vec<Kind> {
                $gives.to_vec()
            }
            fn check(&self) -> Vec<Problem> {
                let check: fn(&Self) -> Vec<Problem> = $check;
                check(self)
            }
            $(fn mixes(&self) -> Option<Mixture> {
                let sources: &[&str] = &$mixes;
                Some(Mixture { sources: sources.iter().map(|id| (*id).to_owned()).collect(), ..Mixture::default() })
            })?
            $(fn needs_whole_corpus(&self) -> bool {
                $whole
            })?
            fn build(&self, _env: &Env) -> Result<Built> {
                anyhow::bail!("a toy")
            }
        }
    };
}

const NOTHING: [Port; 0] = [];

/// A schedule, to have a value that is a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Schedule {
    Constant {},
    Linear { warmup: u64 },
}

toy! { Read {
    paths: Vec<String> = vec!["data".into()], "files or folders";
    column: String = "text".into(), "the column with the text";
    sample: Option<u64> = None, "read only so many";
}
"Reads documents from Parquet.", example "paths = [\"data/wiki.parquet\"]",
takes NOTHING, gives [Kind::Rows], check |_| vec![] }
toy! { Clean { rules: Vec<String> = vec![], "what to take out"; }
"Cleans text.", example "", takes [Port::stream(Kind::Rows)], gives [Kind::Rows], check |_| vec![] }
toy! { Tokenize { vocabulary_size: Option<u32> = None, "train one of this size"; }
"Turns text into tokens.", example "vocabulary_size = 10000",
takes [Port::stream(Kind::Rows)], gives [Kind::Tokens], check |_| vec![] }
toy! { Pack {
    sequence_length: usize = 128, "tokens a sequence";
    micro_batches: u32 = 2, "leaves of a global batch";
    micro_batch_size: usize = 16, "sequences a leaf";
}
"Packs documents into sequences.", example "sequence_length = 256",
takes [Port::stream(Kind::Tokens)], gives [Kind::Batch],
check |s| if s.sequence_length < 2 { vec![Problem::at("sequence_length", "must be at least 2")] } else { vec![] } }
toy! { Model {
    layers: usize = 2, "number of layers";
    width: usize = 256, "model width";
    heads: usize = 8, "attention heads; they divide the width";
}
"A GPT-2.", example "layers = 12\nwidth = 768\nheads = 12",
takes [Port::stream(Kind::Batch), Port::stream(Kind::Parameters).by(Route::Broadcast).state()],
gives [Kind::Activations],
check |s| if s.heads == 0 || s.width % s.heads != 0 {
    vec![Problem::at("heads", format!("{} heads do not divide the width, {}", s.heads, s.width))]
} else { vec![] } }
toy! { Loss { chunk: usize = 256, "rows at a time"; }
"Cross-entropy.", example "", takes [Port::stream(Kind::Activations)],
gives [Kind::LossGradient, Kind::Metrics], check |_| vec![] }
toy! { Backward {}
"Runs the model backward.", example "", takes [Port::stream(Kind::LossGradient)],
gives [Kind::Gradient], check |_| vec![] }
toy! { Reduce {}
"Sums gradients over leaves.", example "", takes [Port::stream(Kind::Gradient).by(Route::Exchange)],
gives [Kind::Gradient, Kind::Norms], check |_| vec![] }
toy! { Optimize {
    learning_rate: f32 = 3e-4, "peak learning rate";
    clip: Option<f32> = Some(1.0), "largest global norm";
    schedule: Schedule = Schedule::Constant {}, "how the learning rate goes";
}
"AdamW.", example "learning_rate = 1e-3\nschedule = { kind = \"linear\", warmup = 100 }",
takes [Port::stream(Kind::Gradient), Port::stream(Kind::Norms).by(Route::Broadcast)],
gives [Kind::Parameters, Kind::Metrics],
check |s| if s.learning_rate > 0.0 { vec![] } else {
    vec![Problem::at("learning_rate", "must be more than 0")]
} }
toy! { Evaluate {}
"Sums validation losses up.", example "", takes [Port::stream(Kind::Metrics).by(Route::Exchange)],
gives [Kind::Metrics], check |_| vec![] }
toy! { WriteRows {}
"Ends a graph of rows.", example "", takes [Port::stream(Kind::Rows)], gives [], check |_| vec![] }
toy! { WriteTokens {}
"Ends a graph of tokens.", example "", takes [Port::stream(Kind::Tokens)], gives [], check |_| vec![] }
toy! { Mix {}
"Mixes sources.", example "",
takes [Port::stream(Kind::Rows); 2], gives [Kind::Rows], check |_| vec![], mixes ["a", "b"] }
toy! { Compare {}
"Compares documents.", example "", takes [Port::stream(Kind::Rows)], gives [Kind::Rows], check |_| vec![], whole true }
toy! { Record {}
"Writes metrics.", example "", takes [Port::stream(Kind::Metrics).by(Route::Exchange), Port::stream(Kind::Saved)],
gives [], check |_| vec![] }
