//! The model card: Markdown for people, after YAML for the Hugging Face Hub.
use super::context_length;
use super::sources::{self, line, thousands};
use contract::{Attribution, ModelFacts, Precision};
use std::collections::BTreeMap;
use std::fmt;

/// What a model card says. What is not known is left out.
///
/// Cards of checkpoints must be the same for any number of workers, and after a run was killed and resumed; so they
/// contain no dates, names of directories or measured times.
pub struct ModelCard<'a> {
    /// The model.
    pub model: &'a ModelFacts,
    /// Type of the weights, for example `f32`.
    pub weights: &'a str,
    /// The decay of the exponential moving average that the weights are, if they are one.
    pub average_decay: Option<f64>,
    /// Updates so far.
    pub updates: Option<u64>,
    /// Training tokens so far.
    pub tokens: Option<u64>,
    /// Bits per byte of the held-out documents.
    pub bits_per_byte: Option<f64>,
    /// The sources of the training data.
    pub sources: &'a [Attribution],
    /// All settings that affect the weights, and hashes of the input.
    pub settings: Option<&'a BTreeMap<String, String>>,
    /// The command line of the run.
    pub command: Option<&'a str>,
}

impl fmt::Display for ModelCard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.metadata(f)?;
        let (summary, parameters) = (&self.model.summary, thousands(self.model.parameter_count() as u64));
        writeln!(f, "\n# {summary}\n")?;
        writeln!(f, "A language model with {parameters} parameters{}", self.origin())?;
        writeln!(f, "| | |\n|---|---|")?;
        for (name, value) in self.figures() {
            writeln!(f, "| {name} | {value} |")?;
        }
        writeln!(f, "\n## Use\n\n```python\nfrom transformers import pipeline\n")?;
        writeln!(f, "generate = pipeline(\"text-generation\", \"PATH/OF/THIS/FOLDER\")")?;
        writeln!(f, "print(generate(\"The history of\")[0][\"generated_text\"])\n```")?;
        f.write_str(&sources::section(self.sources))?;
        self.training(f)
    }
}

impl ModelCard<'_> {
    /// What the Hub reads.
    fn metadata(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- millrace")?;
        writeln!(f, "{}---", sources::metadata(self.sources, "datasets"))
    }

    /// What the first sentence ends with.
    fn origin(&self) -> &'static str {
        match self.updates {
            Some(_) => {
                ", pretrained with Millrace. It continues texts; it has\n\
                 not been tuned to follow instructions.\n"
            }
            None => ".\n",
        }
    }

    /// The rows of the table of figures.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let number = |key: &str| self.model.config[key].as_u64();
        let precision = match self.model.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some("matrix products in bfloat16".to_owned()),
            Precision::Int8 => Some("matrix products in eight bits, attention in bfloat16".to_owned()),
        };
        let average = self.average_decay.map(|decay| format!(", an exponential moving average with decay {decay}"));
        let figures = [
            ("type", self.model.config["model_type"].as_str().map(|kind| format!("`{kind}`"))),
            ("parameters", Some(thousands(self.model.parameter_count() as u64))),
            ("vocabulary", number("vocab_size").map(|size| format!("{} tokens", thousands(size)))),
            ("context", context_length(&self.model.config).map(|length| format!("{} tokens", thousands(length)))),
            ("weights", Some(format!("{}{}", self.weights, average.unwrap_or_default()))),
            ("updates", self.updates.map(thousands)),
            ("training tokens", self.tokens.map(thousands)),
            ("trained with", precision),
            ("bits per byte (held-out documents)", self.bits_per_byte.map(|bits| format!("{bits:.4}"))),
        ];
        figures.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn training(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.command.is_none() && self.settings.is_none() {
            return Ok(());
        }
        writeln!(f, "\n## Training")?;
        if let Some(command) = self.command {
            writeln!(f, "\n```text\n{}\n```", line(command))?;
        }
        let Some(settings) = self.settings else { return Ok(()) };
        writeln!(f, "\nAll settings that affect the weights, and hashes of the input:\n\n```text")?;
        for (key, value) in settings.iter().filter(|(_, value)| *value != "null") {
            writeln!(f, "{key} = {}", line(value))?;
        }
        writeln!(f, "```")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{Group, Init, ParameterSpec};
    use serde_json::json;

    const WHOLE: &str = "\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- millrace
language:
- en
datasets:
- someone/wiki
license: other
license_name: see-data
license_link: README.md
---

# GPT-2, 2 layers

A language model with 2,468 parameters, pretrained with Millrace. It continues texts; it has
not been tuned to follow instructions.

| | |
|---|---|
| type | `gpt2` |
| parameters | 2,468 |
| vocabulary | 1,234 tokens |
| context | 64 tokens |
| weights | f32 |
| updates | 1,000 |
| training tokens | 4,096,000 |
| trained with | matrix products in bfloat16 |
| bits per byte (held-out documents) | 1.9877 |

## Use

```python
from transformers import pipeline

generate = pipeline(\"text-generation\", \"PATH/OF/THIS/FOLDER\")
print(generate(\"The history of\")[0][\"generated_text\"])
```

## Data

- A wiki, in May
  - from: https://huggingface.co/datasets/someone/wiki
  - licence: CC0

## Training

```text
pipeline run wiki.toml
```

All settings that affect the weights, and hashes of the input:

```text
optimize.learning_rate = 0.001
read.type = \"documents\"
```
";

    fn facts() -> ModelFacts {
        let parameters =
            vec![ParameterSpec { name: "w".into(), shape: vec![1234, 2], group: Group::Embedding, init: Init::Zeros }];
        ModelFacts {
            parameters,
            head: 0,
            context: 0,
            flops_per_token: 0.0,
            logit_softcap: None,
            precision: Precision::Bf16,
            config: json!({ "model_type": "gpt2", "vocab_size": 1234, "n_positions": 64 }),
            summary: "GPT-2, 2 layers".into(),
        }
    }

    fn card<'a>(model: &'a ModelFacts, sources: &'a [Attribution]) -> ModelCard<'a> {
        let (average_decay, updates, tokens, bits_per_byte, settings, command) = (None, None, None, None, None, None);
        ModelCard { model, weights: "f32", average_decay, updates, tokens, bits_per_byte, sources, settings, command }
    }

    #[test]
    fn a_card_with_everything() {
        let source = Attribution {
            name: "A wiki,\nin May".into(),
            url: "https://huggingface.co/datasets/someone/wiki".into(),
            licence: "CC0".into(),
            language: "en".into(),
            ..Default::default()
        };
        let settings = [("optimize.learning_rate", "0.001"), ("read.sample", "null"), ("read.type", "\"documents\"")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let (model, sources) = (facts(), [source]);
        let card = ModelCard {
            updates: Some(1000),
            tokens: Some(4_096_000),
            bits_per_byte: Some(1.98766),
            settings: Some(&settings),
            command: Some("pipeline run wiki.toml"),
            ..card(&model, &sources)
        };
        assert_eq!(card.to_string(), WHOLE);
        let average = ModelCard { average_decay: Some(0.999), ..card }.to_string();
        assert_eq!(average, WHOLE.replace("| f32 |", "| f32, an exponential moving average with decay 0.999 |"));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let model = facts();
        let text = card(&model, &[]).to_string();
        for absent in
            ["license", "language:", "datasets", "## Data", "## Training", "updates", "held-out", "pretrained"]
        {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        // A code that is no code would not be YAML.
        let odd = [Attribution { name: "x".into(), language: "en: [".into(), ..Default::default() }];
        assert!(!card(&model, &odd).to_string().contains("language:"));
    }

    #[test]
    fn thousands_are_separated() {
        let all: Vec<String> = [0, 999, 1000, 1_234_567].into_iter().map(thousands).collect();
        assert_eq!(all, ["0", "999", "1,000", "1,234,567"]);
    }
}
