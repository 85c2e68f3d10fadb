//! Tests of the program as people use it: one binary, a module per subject, so that a change is linked once.
//!
//! One subject: `cargo test --test it resume::`. Tests start `pipeline` as a process of its own in a scratch directory,
//! so environment variables, signals and peak memory are those of that process.
mod browser;
mod fresh_clone;
mod support;

mod average;
mod bad_input;
mod bench;
mod blocks;
mod cache;
mod check;
mod completions;
mod determinism;
mod docs;
mod elsewhere;
mod evaluate;
mod every_key;
mod experiment;
mod explain;
mod export;
mod faults;
mod forget;
mod fresh_machine;
mod generate;
mod help;
mod hosts;
mod hosts_network;
mod hugging_face;
mod inspect;
mod interruption;
mod mixtures;
mod mlflow;
mod model_folder;
mod near_duplicates;
mod new;
mod null_rows;
mod options;
mod output;
mod prepare;
mod readme;
mod report;
mod resume;
mod row_stages;
mod run_directory;
mod run_faults;
mod runs;
mod serve;
mod shared_data;
mod spikes;
mod tensorboard;
mod verify;
mod watch;
mod why;
