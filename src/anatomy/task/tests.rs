//! Small graphs that end in one way or another, and what they are taken for.

use super::*;
use crate::anatomy::{self, Ending, Squash};
use crate::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo, Tensor};

/// Logits `[batch, 3]` in, the output out.
type Write = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;

fn matrix<'g>(b: &'g Builder, name: &str, rows: usize, columns: usize) -> Expr<'g> {
    let numbers: Vec<f32> = (0..rows * columns).map(|at| if at % 3 == 0 { 0.5 } else { -0.25 }).collect();
    b.initializer(name, Tensor::from_f32(&[rows, columns], &numbers))
}

/// A text's classifier with a bias, whose output `write` makes of its logits.
fn classifier(output: &str, classes: usize, write: Write) -> Graph {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let states = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh();
    let pooled = states.mean(&[1]).squeeze(&[1]);
    let bias = b.initializer("classifier.bias", Tensor::from_f32(&[classes], &vec![0.1; classes]));
    let logits = b.scoped("classifier", || pooled.matmul(matrix(&b, "classifier.MatMul.weight", 4, classes)) + bias);
    b.output(output, write(&b, logits));
    b.finish().expect("the case is a valid graph")
}

fn exp_over_sum(x: Expr<'_>) -> Expr<'_> {
    over_sum(x.exp())
}

fn over_sum(e: Expr<'_>) -> Expr<'_> {
    e / e.sum(&[-1])
}

#[test]
fn probabilities_are_traced_to_the_logits_behind_them() {
    let rows: &[(&str, Write)] = &[
        ("softmax", |_, x| x.softmax(-1)),
        ("logarithm of a softmax", |_, x| x.log_softmax(-1)),
        ("softmax, rounded", |_, x| x.softmax(-1).cast(DType::F16).cast(DType::F32)),
        ("exponentials over their sum", |_, x| exp_over_sum(x)),
        ("exponentials of what is below the largest, over their sum", |_, x| exp_over_sum(x - x.reduce_max(-1))),
        ("exponentials times the reciprocal of their sum", |b, x| x.exp() * b.op("Reciprocal", &[x.exp().sum(&[-1])], &[])),
        ("softmax over the first of two swapped axes", |b, x| b.op("Softmax", &[x.t()], &[("axis", Attr::Int(0))]).t()),
        ("softmax of one row each", |_, x| x.unsqueeze(&[1]).softmax(-1).squeeze(&[1])),
        ("the most probable class", |_, x| x.softmax(-1).argmax(-1)),
        ("the probability of one class", |b, x| x.softmax(-1).gather(b.int(1), 1)),
        ("the first probabilities", |_, x| x.softmax(-1).slice(&[0], &[2], &[-1])),
        ("probabilities of one token", |b, x| x.unsqueeze(&[1]).softmax(-1).gather(b.int(0), 1)),
        ("powers of e over their sum", |b, x| over_sum(b.op("Pow", &[b.number(std::f64::consts::E, DType::F32), x], &[]))),
        ("split and joined again", |b, x| {
            let parts = b.op_n("Split", &[Some(x.softmax(-1)), Some(b.ints(&[1, 2]))], &[("axis", Attr::Int(-1))], 2);
            parts[0].concat(&[parts[1]], -1)
        }),
    ];
    for (what, write) in rows {
        let graph = classifier("probabilities", 3, *write);
        let anatomy = anatomy::read(&graph);
        let head = anatomy.head.as_ref().unwrap_or_else(|| panic!("{what}: {:?}", anatomy.misses));
        assert_ne!(head.logits, head.output, "{what}");
        assert_eq!(head.axes(&graph).map(|axes| axes.len()), Some(2), "{what}");
        assert!(matches!(&head.ending, Ending::Probabilities(made) if made.squash == Squash::Softmax), "{what}: {:?}", head.ending);
        assert_eq!(guess(&graph, &anatomy, &Declared::default()).task, Some(Task::SeqCls), "{what}");
    }
}

/// The scores are what the probability is the sigmoid of: neither their negative nor half of them.
#[test]
fn sigmoids_in_every_spelling_are_traced_to_their_own_scores() {
    fn below_one<'g>(b: &'g Builder, exponent: Expr<'g>) -> Expr<'g> {
        b.number(1.0, DType::F32) / (exponent.exp() + 1.0)
    }
    fn op<'g>(b: &'g Builder, op: &str, x: Expr<'g>) -> Expr<'g> {
        b.op(op, &[x], &[])
    }
    let rows: &[(&str, Write)] = &[
        ("sigmoid", |_, x| x.sigmoid()),
        ("1 / (1 + exp(-x))", |b, x| below_one(b, -x)),
        ("1 / (1 + exp(-1 x))", |b, x| below_one(b, x * -1.0)),
        ("1 / (1 + exp(x / -1))", |b, x| below_one(b, x / -1.0)),
        ("1 / (1 + exp(0 - x))", |b, x| below_one(b, b.number(0.0, DType::F32) - x)),
        ("e / (e + 1)", |_, x| x.exp() / (x.exp() + 1.0)),
        ("(1 + tanh(x / 2)) / 2", |_, x| ((x * 0.5).tanh() + 1.0) * 0.5),
        ("1/2 + tanh(x / 2) / 2", |_, x| (x / 2.0).tanh() * 0.5 + 0.5),
        ("1 / (1 + e^-x)", |b, x| b.number(1.0, DType::F32) / (b.op("Pow", &[b.number(std::f64::consts::E, DType::F32), -x], &[]) + 1.0)),
        ("(tanh(x / 2) - -1) / 2", |b, x| b.op("Sub", &[(x * 0.5).tanh(), b.number(-1.0, DType::F32)], &[]) * 0.5),
        ("-softplus(-x)", |b, x| -op(b, "Softplus", -x)),
        ("the logarithm", |b, x| op(b, "Log", x.sigmoid())),
    ];
    for (what, write) in rows {
        let graph = classifier("probabilities", 3, *write);
        let head = anatomy::read(&graph).head.unwrap_or_else(|| panic!("{what}: no head"));
        assert!(matches!(&head.ending, Ending::Probabilities(made) if made.squash == Squash::Sigmoid), "{what}: {:?}", head.ending);
        let scores = graph.value_name(head.logits).to_owned();
        assert!(scores.starts_with("classifier"), "{what}: {scores}");
    }
    let rows: &[(&str, Write)] = &[
        ("1 / (1 + exp(x))", |b, x| below_one(b, x)),
        ("1 / (1 + exp(-2 x))", |b, x| below_one(b, x * -2.0)),
        ("tanh of all of x", |_, x| x.tanh() * 0.5 + 0.5),
        ("-softplus(x)", |b, x| -op(b, "Softplus", x)),
        ("a hard sigmoid", |b, x| op(b, "HardSigmoid", x)),
        ("a negative", |_, x| x.sigmoid() * -1.0),
        ("1 + -p", |_, x| -x.sigmoid() + 1.0),
        ("weighed by class", |b, x| x.sigmoid() * b.constant(Tensor::from_f32(&[3], &[0.5, 1.0, 2.0]))),
    ];
    for (what, write) in rows {
        let graph = classifier("probabilities", 3, *write);
        let head = anatomy::read(&graph).head.unwrap_or_else(|| panic!("{what}: no head"));
        assert!(matches!(&head.ending, Ending::Probabilities(made) if made.squash == Squash::Mixed), "{what}: {:?}", head.ending);
    }
}

#[test]
fn one_number_for_each_row_is_trained_as_a_score_whatever_view_gives_it() {
    let rows: &[(&str, Write)] =
        &[("Squeeze", |_, x| x.squeeze(&[-1])), ("Reshape", |_, x| x.reshape(&[-1])), ("Gather", |b, x| x.gather(b.int(0), 1))];
    for (what, write) in rows {
        let graph = classifier("logits", 1, *write);
        let anatomy = anatomy::read(&graph);
        let head = anatomy.head.as_ref().unwrap_or_else(|| panic!("{what}: {:?}", anatomy.misses));
        assert_eq!((graph.fact(head.logits).rank(), graph.value_name(head.output)), (Some(2), "logits"), "{what}");
        for task in [Task::Regression, Task::Rerank, Task::Reward] {
            let decided = decide(&graph, &anatomy, &Declared::default(), Some(task));
            assert_eq!(decided.map(|decision| decision.task).ok(), Some(task), "{what}");
        }
    }
}

#[test]
fn scores_of_all_tokens_in_one_list_are_none_of_texts() {
    for is_flat in [true, false] {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let scores = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh().matmul(matrix(&b, "classifier.weight", 4, 3));
        b.output("logits", if is_flat { scores.reshape(&[-1, 3]) } else { scores });
        let graph = b.finish().expect("a valid graph");
        let decided = decide(&graph, &anatomy::read(&graph), &Declared::default(), None);
        match decided {
            Ok(decision) => assert_eq!((decision.task, is_flat), (Task::TokenCls, false)),
            Err(error) => assert!(is_flat && error.hint().is_some_and(|hint| hint.contains("[batch, seq, classes]")), "{error}"),
        }
    }
}

#[test]
fn classes_that_give_vectors_are_no_classifiers() {
    let of_class = |name: &str| Declared { architecture: Some(name.to_owned()), ..Declared::default() };
    let told = |output: &str, declared: &Declared| {
        let graph = classifier(output, 3, |_, x| x);
        let found = guess(&graph, &anatomy::read(&graph), declared);
        found.instead.map(|instead| instead.what)
    };
    for class in ["ColBERT", "HF_ColBERT", "ColPaliForRetrieval", "CLIPTextModelWithProjection", "DPRQuestionEncoder"] {
        for output in ["output", "logits"] {
            assert_eq!(told(output, &of_class(class)), Some("vectors"), "{class}, {output}");
        }
    }
    // Somebody put a classifier on a body: its name says so.
    assert_eq!(told("logits", &of_class("BertModel")), None);
    for output in ["dense_vecs", "colbert_vecs", "emb", "sentence_emb", "repr", "latent"] {
        assert_eq!(told(output, &Declared::default()), Some("vectors"), "{output}");
    }
    assert_eq!(told("emissions", &Declared::default()), None);
}

#[test]
fn probabilities_that_are_changed_after_they_were_made_have_no_logits() {
    let rows: &[(&str, Write)] = &[
        ("in another order", |b, x| x.softmax(-1).gather(b.ints(&[2, 0, 1]), 1)),
        ("some of them", |b, x| x.softmax(-1).gather(b.ints(&[1, 2]), 1)),
        ("all but the first", |_, x| x.softmax(-1).slice(&[1], &[3], &[-1])),
        ("joined in another order", |b, x| {
            let parts = b.op_n("Split", &[Some(x.softmax(-1)), Some(b.ints(&[1, 2]))], &[("axis", Attr::Int(-1))], 2);
            parts[1].concat(&[parts[0]], -1)
        }),
        ("what is missing to 1", |_, x| 1.0 - x.softmax(-1)),
        ("p and 1 - p, the wrong way round", |_, x| {
            let p = x.slice(&[0], &[1], &[-1]).sigmoid();
            p.concat(&[1.0 - p], -1)
        }),
        ("the mean of two", |_, x| (x.softmax(-1) + (x * -3.0).softmax(-1)) / 2.0),
        ("the mean of two, by its operator", |b, x| b.op("Mean", &[x.softmax(-1), (x * 2.0).softmax(-1)], &[])),
        ("powers of 2 over their sum", |b, x| over_sum(b.op("Pow", &[b.number(2.0, DType::F32), x], &[]))),
        ("softplus over its sum", |b, x| over_sum(b.op("Softplus", &[x], &[]))),
        ("exchanged by a matrix", |b, x| x.softmax(-1).matmul(matrix(b, "exchange", 3, 3))),
        ("roots", |b, x| b.op("Sqrt", &[x.softmax(-1)], &[])),
        ("losses", |_, x| -x.log_softmax(-1)),
        ("cut at zero", |b, x| b.op("Relu", &[x.softmax(-1)], &[])),
        ("mixed with a constant", |_, x| over_sum(x.softmax(-1) + 0.1)),
        ("of a probit", |b, x| (b.op("Erf", &[x], &[]) + 1.0) * 0.5),
        ("five of them", |_, x| x.sigmoid() * 5.0),
        ("times a confidence", |_, x| x.softmax(-1) * x.reduce_max(-1).sigmoid()),
    ];
    for (what, write) in rows {
        let graph = classifier("probabilities", 3, *write);
        let anatomy = anatomy::read(&graph);
        let head = anatomy.head.as_ref().unwrap_or_else(|| panic!("{what}: {:?}", anatomy.misses));
        assert!(matches!(&head.ending, Ending::Probabilities(made) if made.squash == Squash::Mixed), "{what}: {:?}", head.ending);
        let error = decide(&graph, &anatomy, &Declared::default(), Some(Task::SeqCls)).expect_err(what);
        assert!(error.to_string().contains("no logits behind them"), "{what}: {error}");
    }
}

#[test]
fn numbers_from_0_to_1_are_no_logits_and_a_regression_learns_them() {
    fn op<'g>(b: &'g Builder, op: &str, x: Expr<'g>) -> Expr<'g> {
        b.op(op, &[x], &[])
    }
    fn clip<'g>(b: &'g Builder, x: Expr<'g>, least: f64, most: f64) -> Expr<'g> {
        b.op("Clip", &[x, b.number(least, DType::F32), b.number(most, DType::F32)], &[])
    }
    let rows: &[(&str, Write)] = &[
        ("clipped", |b, x| clip(b, x, 0.0, 1.0)),
        ("by Min and Max", |b, x| b.op("Min", &[b.op("Max", &[x, b.number(0.0, DType::F32)], &[]), b.number(1.0, DType::F32)], &[])),
        ("a hard sigmoid", |b, x| op(b, "HardSigmoid", x)),
        ("a hard sigmoid, spelled out", |b, x| clip(b, x + 3.0, 0.0, 6.0) / 6.0),
        ("a softsign", |b, x| (op(b, "Softsign", x) + 1.0) * 0.5),
        ("a softsign, spelled out", |b, x| x / (op(b, "Abs", x) + 1.0) * 0.5 + 0.5),
        ("an arc tangent", |b, x| op(b, "Atan", x) / std::f64::consts::PI + 0.5),
        ("1 / (1 + x²)", |b, x| b.number(1.0, DType::F32) / (x * x + 1.0)),
        ("the square of a sine", |b, x| op(b, "Sin", x) * op(b, "Sin", x)),
        ("shares of what is not negative", |b, x| over_sum(op(b, "Abs", x))),
        ("a sigmoid within narrower bounds", |_, x| x.sigmoid() * 0.9 + 0.05),
    ];
    for (what, write) in rows {
        let told = |classes: usize, task: Task| {
            let graph = classifier("logits", classes, *write);
            decide(&graph, &anatomy::read(&graph), &Declared::default(), Some(task))
        };
        for task in [Task::SeqCls, Task::MultiLabel] {
            let error = told(3, task).expect_err(what);
            assert!(error.to_string().contains("no logits behind them"), "{what}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("gives its logits")), "{what}: {error}");
        }
        assert_eq!(told(1, Task::Regression).map(|decision| decision.task).ok(), Some(Task::Regression), "{what}");
    }
    let rows: &[(&str, Write)] = &[
        ("capped", |_, x| (x / 30.0).tanh() * 30.0),
        ("within wide bounds", |b, x| clip(b, x, -50.0, 50.0)),
        ("not negative", |b, x| clip(b, x, 0.0, f64::MAX)),
        ("a sigmoid but for a guard", |b, x| clip(b, x.sigmoid(), 1e-6, 1.0 - 1e-6)),
    ];
    for (what, write) in rows {
        let graph = classifier("logits", 3, *write);
        let decided = decide(&graph, &anatomy::read(&graph), &Declared::default(), Some(Task::MultiLabel));
        assert!(decided.is_ok(), "{what}: {decided:?}");
    }
}

#[test]
fn logits_beside_their_probabilities_are_the_logits() {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let pooled = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).mean(&[1]).squeeze(&[1]);
    let scores = pooled.matmul(matrix(&b, "w", 4, 3));
    b.output("probabilities", scores.softmax(-1));
    b.output("scores", scores);
    let graph = b.finish().expect("a valid graph");
    let head = anatomy::read(&graph).head.expect("a head");
    assert_eq!((graph.value_name(head.output), head.ending), ("scores", Ending::Scores));
}

#[test]
fn outputs_that_no_task_is_trained_on_are_said() {
    /// Name of the output, number of classes, what is made of the scores, whether a task that is named changes it, what it is taken for.
    struct Row(&'static str, usize, Write, bool, &'static str);
    let rows = [
        Row("sentence_embedding", 3, |_, x| x, true, "vectors"),
        Row("output", 3, |b, x| x / b.op("Sqrt", &[(x * x).sum(&[-1])], &[]), true, "vectors"),
        Row("output", 3, |_, x| x.tanh(), true, "vectors"),
        Row("logits", 1, |_, x| x, false, "one number for each row (a regression, or a reranker)"),
        Row("scores", 1, |_, x| x.squeeze(&[-1]), false, "one number for each row (a regression, or a reranker)"),
        Row("probabilities", 3, |_, x| x.sigmoid(), true, "labels of which any number may be true"),
        Row("probabilities", 3, |b, x| b.op("Reciprocal", &[(-x).exp() + 1.0], &[]), true, "labels of which any number may be true"),
        Row(
            "probabilities",
            3,
            |b, x| b.op("Softmax", &[x], &[("axis", Attr::Int(0))]),
            false,
            "probabilities over something else than classes",
        ),
        Row(
            "probabilities",
            3,
            |b, x| x.softmax(-1).concat(&[matrix(b, "more", 1, 3)], 0),
            false,
            "probabilities over something else than classes",
        ),
        Row("attention_weights", 3, |_, x| x, true, "maps of attention"),
        Row("pred_boxes", 3, |_, x| x, true, "the detection of objects"),
    ];
    for Row(output, classes, write, yields, what) in rows {
        let graph = classifier(output, classes, write);
        let anatomy = anatomy::read(&graph);
        let declared = Declared::default();
        let found = guess(&graph, &anatomy, &declared);
        assert_eq!(found.instead.as_ref().map(|instead| instead.what), Some(what), "{output}: {found:?}");
        let error = decide(&graph, &anatomy, &declared, None).expect_err(what);
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{what}");
        assert_eq!(
            decide(&graph, &anatomy, &declared, Some(Task::SeqCls)).is_ok_and(|decision| decision.doubt.is_some()),
            yields,
            "{output}, {what}"
        );
    }
}

#[test]
fn of_several_heads_none_is_taken_unless_one_gives_the_logits() {
    for (names, is_clear) in [(["sentiment", "topic"], false), (["mood_logits", "topic_logits"], false), (["logits", "topic"], true)] {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let pooled = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh().mean(&[1]).squeeze(&[1]);
        b.output(names[0], b.scoped("first", || pooled.matmul(matrix(&b, "first.weight", 4, 3))));
        let second = b.scoped("second", || pooled.matmul(matrix(&b, "second.weight", 4, 5)));
        // Views and other types hide no head.
        b.output(names[1], if is_clear { second } else { second.cast(DType::F16).cast(DType::F32).softmax(-1) });
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        let decided = decide(&graph, &anatomy, &Declared::default(), None);
        assert_eq!(decided.is_ok(), is_clear, "{names:?}");
        if let Err(error) = decided {
            assert!(names.iter().all(|name| error.to_string().contains(name)) && error.hint().is_some(), "{error}");
        }
    }
}

#[test]
fn the_folder_of_a_model_is_evidence() {
    let of_class = |name: &str| Declared { architecture: Some(name.to_owned()), ..Declared::default() };
    let of_type = |name: &str| Declared { problem_type: Some(name.to_owned()), ..Declared::default() };
    let graph = classifier("logits", 3, |_, x| x);
    let anatomy = anatomy::read(&graph);
    let rows = [
        (Declared::default(), Some(Task::SeqCls)),
        (of_class("BertForSequenceClassification"), Some(Task::SeqCls)),
        // A body's configuration stays with what was made of it: these are no scores of tokens or frames.
        (of_class("LlamaForCausalLM"), Some(Task::SeqCls)),
        (of_class("Wav2Vec2ForCTC"), Some(Task::SeqCls)),
        (of_class("BertForQuestionAnswering"), None),
        (of_type("single_label_classification"), Some(Task::SeqCls)),
        (of_type("multi_label_classification"), Some(Task::MultiLabel)),
        (of_type("regression"), Some(Task::Regression)),
    ];
    for (declared, expected) in rows {
        assert_eq!(guess(&graph, &anatomy, &declared).task, expected, "{declared:?}");
        assert_eq!(decide(&graph, &anatomy, &declared, None).ok().map(|decision| decision.task), expected, "{declared:?}");
    }
    // PEFT has one name for all tasks of classifiers: the folder tells which, and changes nothing else.
    for (declared, named, expected) in [
        (of_type("multi_label_classification"), Task::SeqCls, Task::MultiLabel),
        (of_type("regression"), Task::SeqCls, Task::Regression),
        (Declared::default(), Task::SeqCls, Task::SeqCls),
        (of_type("regression"), Task::CausalLm, Task::CausalLm),
    ] {
        assert_eq!(meant(&graph, &anatomy, &declared, named), expected, "{declared:?}");
    }
    // What somebody asks for is done, with the folder's word as a doubt.
    let asked = decide(&graph, &anatomy, &of_type("regression"), Some(Task::SeqCls)).expect("it is asked for");
    assert!(asked.task == Task::SeqCls && asked.doubt.is_some(), "{asked:?}");
}

#[test]
fn a_folder_tells_which_task_outputs_are_for_that_look_alike() {
    let one = classifier("logits", 1, |_, x| x);
    let vector = classifier("sentence_embedding", 3, |_, x| x);
    let spans = {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let states = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh();
        let scores = states.matmul(matrix(&b, "qa_outputs.w", 4, 2));
        for (at, name) in [(0, "start_logits"), (1, "end_logits")] {
            b.output(name, scores.gather(b.int(at), 2));
        }
        b.finish().expect("a valid graph")
    };
    let of_type = |name: &str| Declared { problem_type: Some(name.to_owned()), ..Declared::default() };
    let pooled = Declared { pools_sentences: true, ..Declared::default() };
    for (graph, declared, expected) in [
        (&one, of_type("regression"), Some(Task::Regression)),
        (&one, Declared { num_labels: Some(1), ..Declared::default() }, None),
        (&vector, pooled.clone(), Some(Task::Embedding)),
        (&vector, Declared::default(), None),
        (&spans, Declared::default(), Some(Task::Qa)),
        (&spans, Declared { architecture: Some("RobertaForQuestionAnswering".to_owned()), ..Declared::default() }, Some(Task::Qa)),
        (&one, pooled, None),
    ] {
        let found = decide(graph, &anatomy::read(graph), &declared, None);
        assert_eq!(found.as_ref().ok().map(|decision| decision.task), expected, "{declared:?}: {found:?}");
    }
}

#[test]
fn classes_of_models_of_speech_have_their_tasks() {
    let of_class = |name: &str| Declared { architecture: Some(name.to_owned()), is_encoder_decoder: true, ..Declared::default() };
    for (name, task) in [
        ("Wav2Vec2ForCTC", Task::Ctc),
        ("WhisperForConditionalGeneration", Task::SpeechSeq2Seq),
        ("Speech2TextForConditionalGeneration", Task::SpeechSeq2Seq),
        ("SpeechT5ForSpeechToText", Task::SpeechSeq2Seq),
        ("T5ForConditionalGeneration", Task::Seq2SeqLm),
    ] {
        assert_eq!(of_class(name).task(), Some(task), "{name}");
    }
    // Few characters, and as many as tokens are.
    for characters in [32, 4000] {
        let b = Builder::new(ModelInfo::dialect());
        let sound = b.input("input_values", DType::F32, &[Dim::symbol("batch"), Dim::symbol("samples")]);
        let states = sound.unsqueeze(&[-1]).matmul(matrix(&b, "body.weight", 1, 4)).tanh();
        let bias = b.initializer("lm_head.bias", Tensor::from_f32(&[characters], &vec![0.1; characters]));
        b.output("logits", states.matmul(matrix(&b, "lm_head.w", 4, characters)) + bias);
        let graph = b.finish().expect("a valid graph");
        let found = guess(&graph, &anatomy::read(&graph), &of_class("Wav2Vec2ForCTC"));
        assert_eq!(found.task, Some(Task::Ctc), "{characters}: {found:?}");
    }
}

/// Scores for each token of a vocabulary, of a network without any attention.
#[test]
fn a_language_model_of_unknown_sight_is_asked_about() {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let states = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh();
    b.output("logits", states.matmul(matrix(&b, "lm_head.w", 4, 40)));
    let graph = b.finish().expect("a valid graph");
    let anatomy = anatomy::read(&graph);
    let found = guess(&graph, &anatomy, &Declared::default());
    assert_eq!((found.task, &found.candidates[..]), (None, &[Task::CausalLm, Task::MaskedLm][..]));
    let declared = Declared { architecture: Some("MambaForCausalLM".to_owned()), ..Declared::default() };
    assert_eq!(guess(&graph, &anatomy, &declared).task, Some(Task::CausalLm));
    assert_eq!(
        decide(&graph, &anatomy, &Declared::default(), Some(Task::MaskedLm)).map(|decision| decision.task).ok(),
        Some(Task::MaskedLm)
    );
}

#[test]
fn the_decoder_of_an_encoder_decoder_alone_is_recognised() {
    for is_past in [false, true] {
        let b = Builder::new(ModelInfo::dialect());
        let batch = Dim::symbol("batch");
        let ids = b.input("input_ids", DType::I64, &[batch.clone(), Dim::symbol("seq")]);
        let given = b.input("given", DType::F32, &[batch, Dim::symbol("source"), Dim::known(4)]);
        let states = matrix(&b, "embed.weight", 40, 4).gather(ids, 0).tanh();
        let of = |name: &str| if is_past { given } else { given.matmul(matrix(&b, name, 4, 4)) };
        let scores = states.matmul(matrix(&b, "q", 4, 4)).matmul(of("k").t()) * 0.5;
        let context = scores.softmax(-1).matmul(of("v")).matmul(matrix(&b, "o", 4, 4));
        b.output("logits", (states + context).matmul(matrix(&b, "lm_head.w", 4, 40)));
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        let error = decide(&graph, &anatomy, &Declared::default(), Some(Task::CausalLm)).expect_err("an encoder is missing");
        assert!(error.to_string().contains("given") && error.hint().is_some_and(|hint| hint.contains("monolith")), "{error}");
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for row in TASKS {
        assert_eq!((row.name.parse::<Task>().expect("a name from the table"), row.task.to_string().as_str()), (row.task, row.name));
        assert_eq!((row.task.row().task, row.losses.is_empty()), (row.task, false));
    }
    let error = "poetry".parse::<Task>().expect_err("no such task");
    assert!(error.hint().is_some_and(|hint| hint.contains("seq-cls")));
}

#[test]
fn numbers_of_a_row_are_not_taken_for_scores_of_classes() {
    let told = |output: &str, asked| {
        let b = Builder::on(&classifier(output, 4, |_, x| x));
        let graph = b.finish().expect("a valid graph");
        decide(&graph, &anatomy::read(&graph), &Declared::default(), asked)
    };
    for output in ["landmarks", "pose_coords", "regression"] {
        let error = told(output, None).unwrap_err();
        assert!(error.to_string().contains("numbers"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("regression")), "{error}");
        assert_eq!(told(output, Some(Task::Regression)).expect("it is told").doubt, None, "{output}");
    }
    // A prediction of a module that classifies is one of classes; of any other it may be anything.
    assert_eq!(told("prediction", None).expect("its module tells").task, Task::SeqCls);
}
