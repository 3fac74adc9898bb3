use std::num::NonZeroUsize;
use std::path::PathBuf;

use half::{bf16, f16};

use super::process::tests::runtime;
use super::settings::SETTINGS;
use super::{Axis, Feed, Presence, Purpose, Session, Settings, State, Stepper};
use crate::error::Result;
use crate::ort::{Device, ElementType, Elements, HostTensor};

const STATES: [State<'static>; 3] = [
    State { input: "trainable", output: "trainable_next" },
    State { input: "adam_m", output: "adam_m_next" },
    State { input: "adam_v", output: "adam_v_next" },
];

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/session", name].iter().collect()
}

fn open(name: &str) -> Result<Session> {
    Session::open(runtime(), &fixture(name), &Settings::default())
}

fn rows(values: &[f32]) -> HostTensor {
    HostTensor::new([values.len() / 3, 3], values.to_vec()).expect("rows of three")
}

fn training() -> Result<Stepper> {
    training_with_results_of(NonZeroUsize::new(8).expect("not zero"))
}

fn training_with_results_of(steps: NonZeroUsize) -> Result<Stepper> {
    Stepper::new(open("training.onnx")?, &STATES, &["loss", "grad_norm"], steps)
}

fn step(stepper: &mut Stepper, number: i64, x: &HostTensor) -> Result<()> {
    let (number, rate) = (HostTensor::scalar(number), HostTensor::scalar(0.5_f32));
    stepper.step(&[Feed::host("x", x), Feed::host("step", &number), Feed::host("learning_rate", &rate)])
}

/// A step whose results are collected at once.
fn results_of_step(stepper: &mut Stepper, number: i64, x: &HostTensor) -> Result<Vec<f32>> {
    step(stepper, number, x)?;
    let rows = stepper.collect()?;
    assert_eq!(rows.len(), 1);
    rows[0].iter().map(HostTensor::item).collect()
}

#[test]
fn every_setting_has_a_reason_and_is_accepted() -> Result<()> {
    for setting in SETTINGS {
        assert!(setting.why.len() > 20, "{}", setting.name);
    }
    for purpose in [Purpose::Training, Purpose::Inference] {
        Session::open(runtime(), &fixture("training.onnx"), &Settings { purpose, ..Settings::default() })?;
    }
    Ok(())
}

#[test]
fn inputs_and_outputs_are_described() -> Result<()> {
    let session = open("training.onnx")?;
    let x = session.input("x").expect("the graph has x");
    assert_eq!((x.element_type, x.presence), (Some(ElementType::Float32), Presence::Required));
    assert_eq!(x.shape, [Axis::Free("batch".into()), Axis::Known(3)]);
    let trainable = session.input("trainable").expect("the graph has trainable");
    assert_eq!((trainable.presence, trainable.known_shape()), (Presence::Optional, Some(vec![3])));
    assert_eq!(session.output("loss").expect("the graph has loss").shape, []);
    Ok(())
}

#[test]
fn every_element_type_goes_in_and_comes_out() -> Result<()> {
    let inputs = [
        Elements::Float32(vec![1.5, -2.0]),
        Elements::Float16(vec![f16::from_f32(1.5), f16::NEG_ONE]),
        Elements::BFloat16(vec![bf16::from_f32(1.5), bf16::NEG_ONE]),
        Elements::Int64(vec![i64::MAX, -1]),
        Elements::Int32(vec![i32::MIN, 1]),
        Elements::Bool(vec![true, false]),
        Elements::Float64(vec![0.1, -2.0]),
    ]
    .map(HostTensor::vector);
    let mut session = open("types.onnx")?;
    let feeds: Vec<_> =
        ["a", "b", "c", "d", "e", "f", "h"].into_iter().zip(&inputs).map(|(name, tensor)| Feed::host(name, tensor)).collect();
    assert_eq!(session.run(&feeds, &["a_out", "b_out", "c_out", "d_out", "e_out", "f_out", "h_out"])?, inputs);
    let error = session.run(&feeds, &["g_out"]).unwrap_err();
    assert!(error.to_string().contains("tensor g_out: a tensor of element type"), "{error}");
    Ok(())
}

#[test]
fn what_one_run_leaves_on_the_device_feeds_the_next() -> Result<()> {
    let mut session = open("gradient.onnx")?;
    let (x, count, trainable) = (rows(&[1.0, 2.0, 3.0]), HostTensor::scalar(1.0_f32), HostTensor::vector(vec![0.0_f32; 3]));
    let base = [Feed::host("x", &x), Feed::host("label_count", &count), Feed::host("trainable", &trainable)];
    let first = session.run_on_device(&[&base[..], &[Feed::host("gradient", &trainable)]].concat(), &["gradient_next"])?;
    let second = session.run(&[&base[..], &[Feed::device("gradient", &first[0])]].concat(), &["gradient_next"])?;
    assert_eq!(second[0].as_f32()?, [2.0, 4.0, 6.0]);
    assert_eq!(first[0].to_host()?.as_f32()?, [1.0, 2.0, 3.0]);
    Ok(())
}

#[test]
fn inputs_that_do_not_fit_are_named_before_the_run() -> Result<()> {
    let mut session = open("gradient.onnx")?;
    let (x, count, state) = (rows(&[1.0, 2.0, 3.0]), HostTensor::scalar(1.0_f32), HostTensor::vector(vec![0.0_f32; 3]));
    let integer = HostTensor::vector(vec![0_i64; 3]);
    let short = HostTensor::vector(vec![0.0_f32; 2]);
    let cases: [(&[Feed<'_>], &str); 4] = [
        (&[Feed::host("x", &x), Feed::host("trainable", &state)], "gradient.onnx: no value for input label_count, gradient"),
        (&[Feed::host("y", &x)], "gradient.onnx: no input named \"y\""),
        (&[Feed::host("trainable", &integer)], "gradient.onnx: tensor trainable: element type: expected float32, found int64"),
        (
            &[Feed::host("label_count", &count), Feed::host("trainable", &short)],
            "gradient.onnx: tensor trainable: shape: expected [3], found [2]",
        ),
    ];
    for (feeds, message) in cases {
        let error = session.run(feeds, &["loss"]).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
    }
    Ok(())
}

#[test]
fn a_state_goes_from_step_to_step() -> Result<()> {
    let mut stepper = training()?;
    stepper.write("trainable", &HostTensor::vector(vec![1.0_f32, 2.0, 3.0]))?;
    assert_eq!(results_of_step(&mut stepper, 1, &rows(&[1.0, 0.0, 0.0, 1.0, 0.0, 2.0]))?, [8.0, 8.0_f32.sqrt()]);
    results_of_step(&mut stepper, 2, &rows(&[0.0, 4.0, 0.0]))?;
    assert_eq!(results_of_step(&mut stepper, 3, &rows(&[0.0, 0.0, 2.0]))?[..1], [4.0]);
    assert_eq!(stepper.read("trainable")?.as_f32()?, [0.0, 0.0, 1.0]);
    assert_eq!(stepper.read("adam_m")?.as_f32()?, [2.0, 4.0, 4.0]);
    assert_eq!(stepper.read("adam_v")?.as_f32()?, [6.0; 3]);
    Ok(())
}

#[test]
fn results_of_several_steps_wait_in_order() -> Result<()> {
    let batches = [[1.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 1.0], [1.0, 1.0, 1.0]].map(|batch| rows(&batch));
    let mut one_by_one = training()?;
    let mut expected = vec![];
    for (number, x) in (1..).zip(&batches) {
        expected.push(results_of_step(&mut one_by_one, number, x)?);
    }
    let mut stepper = training_with_results_of(NonZeroUsize::new(3).expect("not zero"))?;
    let mut collected = vec![];
    for (number, x) in (1..).zip(&batches) {
        step(&mut stepper, number, x)?;
        if stepper.is_full() {
            let refused = step(&mut stepper, number + 1, x).unwrap_err();
            assert!(refused.to_string().contains("were not collected"), "{refused}");
            collected.extend(stepper.collect()?);
        }
    }
    assert_eq!((collected.len(), stepper.waiting()), (3, 2));
    collected.extend(stepper.collect()?);
    let collected: Vec<Vec<f32>> = collected.iter().map(|row| row.iter().map(HostTensor::item).collect()).collect::<Result<_>>()?;
    assert_eq!(collected, expected);
    assert_eq!(stepper.read("trainable")?, one_by_one.read("trainable")?);
    Ok(())
}

#[test]
fn a_state_can_be_read_written_and_continued() -> Result<()> {
    let x = rows(&[1.0, 2.0, 3.0]);
    let mut whole = training()?;
    for number in 1..=5 {
        step(&mut whole, number, &x)?;
    }
    let mut first = training()?;
    for number in 1..=3 {
        step(&mut first, number, &x)?;
    }
    let mut second = training()?;
    step(&mut second, 77, &x)?;
    for state in STATES {
        second.write(state.input, &first.read(state.input)?)?;
    }
    for number in 4..=5 {
        step(&mut second, number, &x)?;
    }
    for state in STATES {
        assert_eq!(whole.read(state.input)?, second.read(state.input)?, "{}", state.input);
    }
    Ok(())
}

#[test]
fn a_step_can_be_taken_back() -> Result<()> {
    let x = rows(&[1.0, 2.0, 3.0]);
    let mut stepper = training()?;
    step(&mut stepper, 1, &x)?;
    let before = stepper.read("adam_m")?;
    step(&mut stepper, 2, &x)?;
    let after = stepper.read("adam_m")?;
    stepper.take_back();
    assert_eq!(stepper.read("adam_m")?, before);
    step(&mut stepper, 2, &x)?;
    assert_eq!(stepper.read("adam_m")?, after);
    Ok(())
}

#[test]
fn an_optional_input_has_the_graphs_value_until_it_is_set() -> Result<()> {
    let (x, start) = (rows(&[0.0, 0.0, 0.0]), HostTensor::vector(vec![1.0_f32, 2.0, 3.0]));
    let mut stepper = training()?;
    stepper.write("trainable", &start)?;
    step(&mut stepper, 1, &x)?;
    assert_eq!(stepper.read("trainable")?, start);
    stepper.set(Feed::host("weight_decay", &HostTensor::scalar(1.0_f32)))?;
    step(&mut stepper, 2, &x)?;
    step(&mut stepper, 3, &x)?;
    assert_eq!(stepper.read("trainable")?.as_f32()?, [0.25, 0.5, 0.75]);
    Ok(())
}

#[test]
fn gradients_gather_over_micro_batches_and_update_once() -> Result<()> {
    const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");
    let mut update = Stepper::new(open("update.onnx")?, &STATES, &["grad_norm"], NonZeroUsize::MIN)?;
    let mut gradient = Stepper::new(open("gradient.onnx")?, &[State { input: "gradient", output: "gradient_next" }], &["loss"], TWO)?;
    update.write("trainable", &HostTensor::vector(vec![1.0_f32, 1.0, 1.0]))?;
    let (count, rate) = (HostTensor::scalar(2.0_f32), HostTensor::scalar(1.0_f32));
    let mut norm = vec![];
    for number in 1..=3_i64 {
        gradient.reset("gradient")?;
        for x in [rows(&[1.0, 2.0, 3.0]), rows(&[1.0, 0.0, 1.0])] {
            gradient.step(&[
                Feed::host("x", &x),
                Feed::host("label_count", &count),
                Feed::device("trainable", update.state("trainable")?),
            ])?;
        }
        assert_eq!(gradient.read("gradient")?.as_f32()?, [1.0, 1.0, 2.0]);
        let number = HostTensor::scalar(number);
        update.step(&[
            Feed::device("gradient", gradient.state("gradient")?),
            Feed::host("step", &number),
            Feed::host("learning_rate", &rate),
        ])?;
        assert_eq!(gradient.collect()?.len(), 2);
        norm = update.collect()?[0][0].to_f32()?;
    }
    assert_eq!(update.read("trainable")?.as_f32()?, [-2.0, -2.0, -5.0]);
    assert_eq!(norm, [6.0_f32.sqrt()]);
    Ok(())
}

#[test]
fn wrong_use_of_a_stepper_is_an_error_and_changes_nothing() -> Result<()> {
    let mut stepper = training()?;
    let x = rows(&[1.0, 2.0, 3.0]);
    step(&mut stepper, 1, &x)?;
    let before = stepper.read("trainable")?;
    let (number, rate) = (HostTensor::scalar(1_i64), HostTensor::scalar(0.5_f32));
    let forgotten = stepper.step(&[Feed::host("step", &number), Feed::host("learning_rate", &rate)]).unwrap_err();
    assert!(forgotten.to_string().ends_with("no value for input x"), "{forgotten}");
    assert!(stepper.write("trainable", &HostTensor::vector(vec![0.0_f32; 4])).is_err());
    assert!(stepper.write("momentum", &before).is_err());
    assert_eq!(stepper.read("trainable")?, before);
    let missing = Stepper::new(open("training.onnx")?, &[State { input: "trainable", output: "missing" }], &[], NonZeroUsize::MIN)
        .map(|_| ())
        .unwrap_err();
    assert!(missing.hint().is_some_and(|hint| hint.contains("trainable_next")));
    Ok(())
}

#[test]
fn a_device_that_is_not_there_is_an_error_with_a_hint() {
    let settings = Settings { device: Device::Cuda(0), ..Settings::default() };
    if runtime().facts().providers.contains(&"CUDAExecutionProvider") {
        return;
    }
    let error = Session::open(runtime(), &fixture("types.onnx"), &settings).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("was built without CUDA"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("onnxruntime-gpu")));
}

#[test]
fn a_file_that_is_no_graph_is_refused_with_its_name() {
    let error = Session::open(runtime(), &fixture("no-such.onnx"), &Settings::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no-such.onnx: ONNX Runtime: "), "{error}");
}
