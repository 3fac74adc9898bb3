//! AdamW, clipping and dropout as graphs, run by ONNX Runtime, against what they are defined to be.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use peft_onnx::adapter::params::dropout::{Masks, SEED};
use peft_onnx::ir::{Builder, DType, Dim, Graph, ModelInfo};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::ort::{Device, Feed, HostTensor, Options, Purpose, Runtime, Session, Settings};
use peft_onnx::train::optimizer::{AdamW, Update, update_graph};

fn session(graph: &Graph) -> Session {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.onnx");
    onnx::write(graph, &path, &WriteOptions::default()).unwrap();
    let settings = Settings { device: Device::Cpu, purpose: Purpose::Training, ..Settings::default() };
    Session::open(Runtime::start(&Options::default()).unwrap(), &path, &settings).unwrap()
}

fn run(session: &mut Session, given: &[(&str, HostTensor)], wanted: &[&str]) -> Vec<Vec<f32>> {
    let feeds: Vec<Feed<'_>> = given.iter().map(|(name, value)| Feed::host(name, value)).collect();
    session.run(&feeds, wanted).unwrap().iter().map(|tensor| tensor.to_f32().unwrap()).collect()
}

/// `torch.optim.AdamW` and `clip_grad_norm_`, one number at a time in float64.
struct Scalar {
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Scalar {
    fn step(&mut self, p: &mut [f64], gradient: &[f64], step: i32, rate: f64, o: &AdamW) -> f64 {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let clip = if o.max_grad_norm > 0.0 { (o.max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for (i, g) in gradient.iter().map(|g| g * clip).enumerate() {
            self.m[i] = o.beta1 * self.m[i] + (1.0 - o.beta1) * g;
            self.v[i] = o.beta2 * self.v[i] + (1.0 - o.beta2) * g * g;
            let m = self.m[i] / (1.0 - o.beta1.powi(step));
            let v = self.v[i] / (1.0 - o.beta2.powi(step));
            p[i] = p[i] * (1.0 - rate * o.weight_decay) - rate * m / (v.sqrt() + o.epsilon);
        }
        norm
    }
}

#[test]
fn adamw_is_the_scalar_adamw() {
    for max_grad_norm in [0.0, 0.5] {
        let options = AdamW { weight_decay: 0.1, max_grad_norm, ..AdamW::default() };
        let start = [0.5_f32, -1.0, 2.0, 1e-3];
        let mut session = session(&update_graph(&Update { adamw: options, ..Update::default() }, 4).unwrap());
        let mut p: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
        let mut scalar = Scalar { m: vec![0.0; 4], v: vec![0.0; 4] };
        let mut state = [start.to_vec(), vec![0.0; 4], vec![0.0; 4]];
        for step in 1..=20_i32 {
            let gradient: Vec<f32> =
                (0..4_i16).map(|i| (f32::from(i) + 1.0) * f32::from(i16::try_from(step % 5).unwrap()) * 0.2 - 1.0).collect();
            let rate = 0.01;
            let given = [
                ("trainable", HostTensor::vector(state[0].clone())),
                ("adam_m", HostTensor::vector(state[1].clone())),
                ("adam_v", HostTensor::vector(state[2].clone())),
                ("gradient", HostTensor::vector(gradient.clone())),
                ("step", HostTensor::scalar(i64::from(step))),
                ("learning_rate", HostTensor::scalar(0.01_f32)),
            ];
            let mut out = run(&mut session, &given, &["grad_norm", "trainable_next", "adam_m_next", "adam_v_next"]);
            let exact: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
            let norm = scalar.step(&mut p, &exact, step, rate, &options);
            assert!((f64::from(out[0][0]) - norm).abs() < 1e-5 * norm.max(1.0), "step {step}: norm {} for {norm}", out[0][0]);
            state = [out.remove(1), out.remove(1), out.remove(1)];
            for (ours, exact) in state[0].iter().zip(&p) {
                assert!((f64::from(*ours) - exact).abs() < 2e-6, "step {step}: {ours} for {exact}");
            }
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_leaves_the_state_as_it_was() {
    for (max_grad_norm, bad) in [(0.0, f32::NAN), (0.5, f32::NAN), (0.0, f32::INFINITY), (1.0, f32::NEG_INFINITY), (1.0, 3e38)] {
        let options = AdamW { weight_decay: 0.1, max_grad_norm, ..AdamW::default() };
        let state = [vec![0.5_f32, -1.0], vec![0.25, 0.5], vec![0.125, 2.0]];
        let mut session = session(&update_graph(&Update { adamw: options, ..Update::default() }, 2).unwrap());
        let given = [
            ("trainable", HostTensor::vector(state[0].clone())),
            ("adam_m", HostTensor::vector(state[1].clone())),
            ("adam_v", HostTensor::vector(state[2].clone())),
            ("gradient", HostTensor::vector(vec![bad, 1.0])),
            ("step", HostTensor::scalar(3_i64)),
            ("learning_rate", HostTensor::scalar(0.01_f32)),
        ];
        let out = run(&mut session, &given, &["trainable_next", "adam_m_next", "adam_v_next", "grad_norm"]);
        assert_eq!(out[..3], state, "gradient {bad} with clipping at {max_grad_norm}");
        assert!(!out[3][0].is_finite(), "the norm tells of it");
    }
}

#[test]
fn dropout_drops_its_share_and_follows_seed_step_and_site() {
    let b = Builder::new(ModelInfo::dialect());
    let step = b.input("step", DType::I64, &[]);
    let masks = Masks::new(&b, step);
    let x = b.input("x", DType::F32, &[Dim::symbol("n")]);
    b.output("one", masks.drop(x, 0.3, 1));
    b.output("two", masks.drop(x, 0.3, 2));
    let mut session = session(&b.finish().unwrap());
    let count = 40_000;
    let mut draw = |seed: i64, step: i64| {
        let given = [("x", HostTensor::vector(vec![1_f32; count])), ("step", HostTensor::scalar(step)), (SEED, HostTensor::scalar(seed))];
        run(&mut session, &given, &["one", "two"])
    };
    let first = draw(7, 1);
    let dropped = |mask: &[f32]| mask.iter().filter(|v| **v == 0.0).count();
    // Four standard deviations of a binomial draw: 4 * sqrt(40,000 * 0.3 * 0.7) = 367.
    assert!(dropped(&first[0]).abs_diff(12_000) < 367, "{} of {count} dropped", dropped(&first[0]));
    assert!(first[0].iter().all(|&v| v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6));
    assert_eq!(first, draw(7, 1), "the same seed and step give the same masks");
    // Independent masks agree on 0.3² + 0.7² = 58 % of the elements.
    for (what, other) in [("step", &draw(7, 2)[0]), ("seed", &draw(8, 1)[0]), ("site", &first[1])] {
        let agree = first[0].iter().zip(other).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        assert!(agree.abs_diff(23_200) < 500, "another {what}: {agree} of {count} agree");
    }
    let neighbours = first[0].windows(2).filter(|pair| pair[0].to_bits() == pair[1].to_bits()).count();
    assert!(neighbours.abs_diff(23_200) < 500, "{neighbours} neighbours agree");
}
