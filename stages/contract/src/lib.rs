//! The types that stages and the engine share.
//!
//! A stage is a plain value that takes packets and emits packets. It knows nothing of the dataflow around it, so it can
//! be unit-tested by calling it. In reading order:
//! - [`step`]: steps, lanes, leaves, and the [`Schedule`] of validations and checkpoints
//! - [`packet`]: the data between stages: one [`Packet`] variant per [`Kind`]; [`tape`]: what forward leaves for backward
//! - [`saved`]: the contents of checkpoints; [`metrics`]: named numbers; [`precision`]: that of matrix products
//! - [`mixture`]: how the sequences of a run are divided among several sources; [`draws`]: where those of a step come
//!   from
//! - [`tensor`]: dense f32 arrays in pooled buffers; [`pool`]: their allocator
//! - [`parameters`]: what a model declares about itself: its [`ParameterSpec`]s, initial values, FLOPs; [`sections`]: how
//!   workers share their updates
//! - [`stage`]: the traits [`Stage`] and [`Source`], and [`Emit`], through which they emit packets
//! - [`settings`]: a stage's TOML table as a value, and how it is built into a stage; [`mod@env`]: the context in which it
//!   is built; [`keys`]: the keys of the table
//! - [`registry`]: the types of stages by name; [`pretrained`]: models from checkpoints
//! - [`prepare`]: what stages do before the graph runs; [`resources`]: what they provide for each other; [`shared`]: what
//!   the workers' copies of a stage share
//! - [`files`]: files that appear complete or not at all; [`attribution`]: where text comes from
//! - [`testing`]: an [`Emit`] that collects, for unit tests of stages
#![forbid(unsafe_code)]

pub mod attribution;
pub mod draws;
pub mod env;
pub mod files;
pub mod keys;
pub mod metrics;
pub mod mixture;
pub mod packet;
pub mod parameters;
pub mod pool;
pub mod precision;
pub mod prepare;
pub mod pretrained;
pub mod registry;
pub mod resources;
pub mod saved;
pub mod sections;
pub mod settings;
pub mod shared;
pub mod stage;
pub mod step;
pub mod tape;
pub mod tensor;
pub mod testing;

pub use anyhow::Result;
pub use attribution::Attribution;
pub use contract_derive::StageKeys;
pub use draws::{Cuts, DocumentPart, Drawn, Draws, Packing};
pub use env::Env;
pub use keys::{Effect, Key, StageKeys};
pub use metrics::{DocumentLoss, Gather, Metric, Metrics, Sample, SectionChange};
pub use mixture::{Allocation, Mixture, SourceSizes};
pub use packet::{
    Activations, Batch, Gradient, IGNORED, Kind, LossGradient, Norms, Packet, ParameterPiece, Purpose, Records, Rows,
    Tokens,
};
pub use parameters::{Group, Init, ModelFacts, ParameterSpec, Parameters};
pub use precision::Precision;
pub use prepare::{Goal, Graph, Host, Prepare, Prepared, Unit, Upstream};
pub use pretrained::{Decode, Load, Pretrained};
pub use registry::{Member, StageSettings, StageType, stage_type};
pub use resources::Resources;
pub use saved::{CommitEvery, OptimizerState, Saved, Snapshot};
pub use sections::{Section, TensorUpdate, Updates};
pub use settings::{
    BatchShape, Built, CODE_VERSION, Corpus, CorpusPart, Due, Facts, Memory, Port, Problem, Role, Route, Settings,
    code_version,
};
pub use shared::{SharedValues, lock};
pub use stage::{Emit, Source, Stage};
pub use step::{
    At, DocumentStart, Lane, Schedule, Step, Turn, ValidationStride, leaf_owner, leaves_of, process_of_leaf,
};
pub use tape::{HeadGradient, Tape, Ticket};
pub use tensor::{Buffer, Tensor};
