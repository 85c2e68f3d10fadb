//! Stage `mixture`: several sources of training data in given shares, or all documents of several sources in a
//! preparation.
//!
//! The stage only notes which source a packet comes from: which sources fill the sequences of a step follows from the
//! shares and the sizes of the sources ([`contract::Allocation`]). `pack` has sequences of every source and draws as
//! many of each.
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail};
use contract::mixture::Between;
use contract::{
    At, Built, Emit, Env, Goal, Kind, Mixture, Packet, Port, Prepare, Problem, Settings, Stage, StageKeys,
    StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Settings of stage `mixture`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// The share of the training tokens of each source, by the name of its stage; only the ratios count. A list of
    /// `[step, shares]` changes them during the run. A source whose share is 0 is only validated. Not in a preparation,
    /// which reads all documents of the sources above, or of those behind `inputs`: of the duplicates that `minhash` finds,
    /// it keeps the one whose source comes first.
    pub weights: Weights,
    /// Shares between two steps of a list: "step" (those of the earlier one) or "linear".
    pub interpolate: Interpolate,
    /// The most passes over the training documents of a source, for example { books = 4 }. Afterwards its share goes to
    /// the others, in proportion to theirs. Any number for sources that are not named.
    pub max_epochs: BTreeMap<String, f64>,
    /// What arrives: rows, or tokens if the sources are tokenized already.
    #[serde(skip)]
    kind: Arrives,
    /// The sources that are connected, if `weights` names none.
    #[serde(skip)]
    connected: Vec<String>,
}

/// The kind of packets that a mixture takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arrives {
    #[default]
    Rows,
    Tokens,
}

/// Shares by source.
type Shares = BTreeMap<String, f64>;

/// The shares from steps on, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Weights {
    from: Vec<(Step, Shares)>,
    is_list: bool,
}

/// See [`Mix::interpolate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolate {
    /// The shares of the earlier step.
    #[default]
    Step,
    /// On a line between both.
    Linear,
}

impl TryFrom<Value> for Weights {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let expected = "expected shares, such as { wiki = 0.7, books = 0.3 }, or a list of steps with shares, such as \
                        [[0, { wiki = 1 }], [2000, { wiki = 0.5, books = 0.5 }]]";
        let parsed = match &value {
            Value::Array(_) => serde_json::from_value(value).map(|from| Self { from, is_list: true }),
            _ => serde_json::from_value::<Shares>(value).map(|shares| match shares.is_empty() {
                true => Self::default(),
                false => Self { from: vec![(0, shares)], is_list: false },
            }),
        };
        parsed.map_err(|error| format!("{expected} ({error})"))
    }
}

impl From<Weights> for Value {
    fn from(Weights { from, is_list }: Weights) -> Self {
        match from.first() {
            _ if is_list => json!(from),
            None => json!({}),
            Some((_, shares)) => json!(shares),
        }
    }
}

impl Default for Mix {
    fn default() -> Self {
        let (weights, interpolate, max_epochs, connected) = Default::default();
        Self { weights, interpolate, max_epochs, kind: Arrives::Rows, connected }
    }
}

impl StageSettings for Mix {
    const SUMMARY: &'static str = "mixes sources of rows or tokens in given shares, or unites those of a preparation";
    const EXAMPLE: &'static str =
        "type = \"mixture\"\nweights = { wiki = 0.7, books = 0.3 }\nmax_epochs = { books = 4 }\n";
}

impl Mix {
    fn kind(&self) -> Kind {
        match self.kind {
            Arrives::Rows => Kind::Rows,
            Arrives::Tokens => Kind::Tokens,
        }
    }

    /// The names of the sources in `weights`.
    fn weighted(&self) -> BTreeSet<&String> {
        self.weights.from.iter().flat_map(|(_, shares)| shares.keys()).collect()
    }

    /// The names of the sources, in the order of ports.
    fn sources(&self) -> Vec<String> {
        let weighted = self.weighted();
        if weighted.is_empty() { self.connected.clone() } else { weighted.into_iter().cloned().collect() }
    }

    fn check_weights(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |message: String| problems.push(Problem::at("weights", message));
        let Weights { from, is_list } = &self.weights;
        let at = |step: &Step| if *is_list { format!(" at step {step}") } else { String::new() };
        for (step, shares) in from {
            for (source, share) in shares {
                if !(0.0..=1e9).contains(share) {
                    wrong(format!("gives `{source}` the share {share}{}; it must be from 0 to 1e9", at(step)));
                }
            }
            if shares.values().all(|share| *share == 0.0) {
                wrong(format!("gives no source a share{}", at(step)));
            }
        }
        if let Some((first, _)) = from.first().filter(|(first, _)| *first > 0) {
            wrong(format!("begins at step {first}; give the shares from step 0 on"));
        }
        if let Some(pair) = from.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            wrong(format!("lists step {} after step {}; steps must ascend", pair[1].0, pair[0].0));
        }
        problems
    }
}

impl Settings for Mix {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(self.kind()); self.sources().len().max(1)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![self.kind()]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.check_weights();
        if self.interpolate != Interpolate::Step && self.weights.from.len() == 1 {
            let why = "is for `weights` that change, and they do not: give a list of steps with shares, or remove it";
            problems.push(Problem::at("interpolate", why));
        }
        let sources = self.weighted();
        // Without `weights` all keys are rejected once it is known what the graph is for.
        for (source, epochs) in self.max_epochs.iter().filter(|_| !sources.is_empty()) {
            if !sources.contains(source) {
                let names: Vec<String> = sources.iter().map(|name| format!("`{name}`")).collect();
                let why = format!("names `{source}`, which is none of the sources in `weights`: {}", names.join(", "));
                problems.push(Problem::at("max_epochs", why));
            } else if !(*epochs > 0.0 && epochs.is_finite()) {
                let why = format!("limits `{source}` to {epochs} passes; it must be more than 0");
                problems.push(Problem::at("max_epochs", why));
            }
        }
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        if goal == Goal::Train {
            let why = "names no source; give the share of each, for example { wiki = 0.7, books = 0.3 }";
            return self.weights.from.is_empty().then(|| Problem::at("weights", why)).into_iter().collect();
        }
        // A value that is the default says what a preparation does anyway.
        let given = [
            ("weights", !self.weights.from.is_empty()),
            ("interpolate", self.interpolate != Interpolate::default()),
            ("max_epochs", !self.max_epochs.is_empty()),
        ];
        let why = "is for training: a preparation reads every document of its sources once; remove it, and give it in the \
                   configuration that trains";
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| Problem::at(key, why)).collect()
    }

    fn notes(&self, steps: Option<u64>) -> Vec<Problem> {
        let Some(steps) = steps.filter(|steps| *steps > 0) else { return Vec::new() };
        let late = self.weights.from.iter().find(|(step, _)| *step >= steps);
        let note = |(step, _): &(Step, Shares)| {
            Problem::at("weights", format!("the shares from step {step} on are not reached in {steps} steps"))
        };
        late.map(note).into_iter().collect()
    }

    fn most_tokens(&self, _: u64, input: u64) -> Option<u64> {
        Some(input)
    }

    /// Compares the tokenizers of sources that are tokenized already.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let found = before.found::<Vocabulary>();
        if let [(first, known), others @ ..] = &found[..]
            && let Some((other, _)) = others.iter().find(|(_, other)| other.hash != known.hash)
        {
            bail!(
                "`{}` mixes tokens of two tokenizers: those of `{first}` and of `{other}` have other hashes; \
                 tokenize both with the same `tokenizer.json`",
                before.id()
            );
        }
        Ok(())
    }

    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Mixer)))
    }

    fn mixes(&self) -> Option<Mixture> {
        let sources = self.sources();
        let row = |shares: &Shares| {
            let sum: f64 = shares.values().sum();
            sources.iter().map(|source| shares.get(source).map_or(0.0, |share| share / sum)).collect()
        };
        Some(Mixture {
            weights: self.weights.from.iter().map(|(step, shares)| (*step, row(shares))).collect(),
            between: match self.interpolate {
                Interpolate::Step => Between::Constant,
                Interpolate::Linear => Between::Linear,
            },
            max_epochs: sources.iter().map(|source| self.max_epochs.get(source).copied()).collect(),
            sources,
        })
    }

    fn mixing(&self, kind: Kind, sources: &[String]) -> Option<Arc<dyn Settings>> {
        let kind = if kind == Kind::Tokens { Arrives::Tokens } else { Arrives::Rows };
        Some(Arc::new(Self { kind, connected: sources.to_vec(), ..self.clone() }))
    }
}

/// Notes the source of packets, which is the port at which they arrive.
struct Mixer;

impl Stage for Mixer {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let kind = packet.kind().name();
        let of_source = match packet {
            Packet::Rows(rows) => Some(Packet::Rows(contract::Rows { source: at.port, ..rows })),
            Packet::Tokens(tokens) => Some(Packet::Tokens(contract::Tokens { source: at.port, ..tokens })),
            _ => None,
        };
        out.give(of_source.with_context(|| format!("mixture takes rows or tokens, not {kind}"))?);
        Ok(Turn::Done)
    }
}
