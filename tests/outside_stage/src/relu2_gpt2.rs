//! The model `relu2_gpt2`: GPT-2 with ReLU² (So et al. 2021, Primer) instead of GELU. The activation function is a
//! kernel and a value, [`RELU2`]. `transformers` calls it `relu2` and therefore loads these checkpoints too.
use compute::models::activation::{Activation, Pointwise};
use compute::models::{Architecture, Gpt2Shape, Transformer};
use contract::{Facts, Result, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use train::forward::gpt2::Gpt2;
use train::forward::{ModelType, Sizes};

/// GPT-2 with ReLU². It has the same keys as `gpt2`.
#[derive(Clone, Default, Serialize, Deserialize, StageKeys)]
pub struct Relu2Gpt2 {
    #[serde(flatten)]
    gpt2: Gpt2,
}

impl ModelType for Relu2Gpt2 {
    const SUMMARY: &'static str = "GPT-2 with ReLU² (So et al. 2021) instead of GELU";
    const EXAMPLE: &'static str = "type = \"relu2_gpt2\"\nlayers = 6\nheads = 6\nwidth = 384\n";

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        with_relu2(&self.gpt2.shape(sizes, facts))
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        let mut gelu = config.clone();
        gelu["activation_function"] = "gelu_new".into();
        let shape = || Ok(with_relu2(&Gpt2Shape::from_config(&gelu)?));
        (config["model_type"] == "gpt2" && config["activation_function"] == "relu2").then(shape)
    }
}

fn with_relu2(shape: &Gpt2Shape) -> Transformer {
    let mut config = shape.config();
    config["activation_function"] = "relu2".into();
    let architecture = Architecture { activation: Activation::Pointwise(&RELU2), ..shape.architecture() };
    let Gpt2Shape { layers, heads, width, .. } = shape;
    Transformer::new(architecture, config, format!("GPT-2 with ReLU², {layers} layers, width {width}, {heads} heads"))
}

/// `max(x, 0)²`.
static RELU2: Pointwise = Pointwise { forward, backward };

fn forward(x: &[f32], bias: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(bias.len()).zip(out.chunks_exact_mut(bias.len())) {
        for ((x, b), out) in x.iter().zip(bias).zip(out) {
            *out = (x + b).max(0.0).powi(2);
        }
    }
}

fn backward(x: &[f32], bias: &[f32], d: &mut [f32], out: &mut [f32], d_bias: &mut [f32]) {
    forward(x, bias, out);
    for (x, d) in x.chunks_exact(bias.len()).zip(d.chunks_exact_mut(bias.len())) {
        for (((x, b), d), d_bias) in x.iter().zip(bias).zip(d).zip(&mut *d_bias) {
            *d *= 2.0 * (x + b).max(0.0);
            *d_bias += *d;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compute::models::Model;

    #[test]
    fn the_gradient_is_the_slope() {
        let (x, bias) = ([0.5f32, -0.75, 1.25, -0.25], [0.25f32, -0.5]);
        let sum = |x: &[f32]| {
            let mut out = [0.0; 4];
            forward(x, &bias, &mut out);
            out.iter().sum::<f32>()
        };
        let (mut d, mut out, mut d_bias) = ([1.0f32; 4], [0.0; 4], [0.0; 2]);
        backward(&x, &bias, &mut d, &mut out, &mut d_bias);
        assert_eq!(out, [0.5625, 0.0, 2.25, 0.0]);
        for i in 0..x.len() {
            let (mut above, mut below) = (x, x);
            above[i] += 1e-2;
            below[i] -= 1e-2;
            let slope = (sum(&above) - sum(&below)) / 2e-2;
            assert!((slope - d[i]).abs() < 1e-3, "{i}: slope {slope}, gradient {}", d[i]);
        }
        assert_eq!(d_bias, [d[0] + d[2], d[1] + d[3]]);
    }

    #[test]
    fn a_checkpoints_configuration_gives_the_model_again() {
        let facts = Facts { vocabulary: 300, length: 16, end_of_text: 299 };
        let model = Relu2Gpt2::default().model(&Sizes { layers: 2, heads: 2, width: 16 }, &facts);
        let config = &model.facts().config;
        assert_eq!(Relu2Gpt2::from_config(config).unwrap().unwrap().facts().config, *config);
        assert!(Gpt2::from_config(config).unwrap().is_err(), "GPT-2 takes ReLU² for its own");
    }
}
