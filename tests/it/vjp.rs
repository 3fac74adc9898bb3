//! `export --format vjp`: gradients of outputs, fed from outside, become the gradient of the adapter; the folder needs nothing beside it.

use std::path::Path;

use peft_onnx::ort::{Feed, HostTensor, Options, Runtime, Session, Settings};

use crate::common::{Folder, done, fixture, refused};

fn open(path: &Path) -> Session {
    let runtime = Runtime::start(&Options::default()).expect("ONNX Runtime starts");
    Session::open(runtime, path, &Settings::default()).expect("the graph opens")
}

/// `p − onehot(label)` over the number of rows: the gradient of the mean cross-entropy with respect to logits `[rows, classes]`.
fn of_cross_entropy(logits: &HostTensor, labels: &[usize]) -> HostTensor {
    let classes = logits.shape()[1];
    let values = logits.to_f32().expect("floats");
    let mut gradient = vec![];
    for (row, &label) in values.chunks_exact(classes).zip(labels) {
        let sum: f32 = row.iter().map(|logit| logit.exp()).sum();
        let rows = f32::from(u8::try_from(labels.len()).expect("few rows"));
        gradient.extend(row.iter().enumerate().map(|(class, logit)| (logit.exp() / sum - if class == label { 1.0 } else { 0.0 }) / rows));
    }
    HostTensor::new([labels.len(), classes], gradient).expect("a tensor")
}

#[test]
fn the_gradient_of_outputs_from_outside_is_that_of_the_loss_inside() {
    let folder = Folder::with("bert_classifier/dynamo.onnx");
    let (model, bundle, exported) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("elsewhere"));
    done(&["inject", &model, "--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"]);
    done(&["export", &bundle, "--format", "vjp", "-o", &exported, "-q"]);
    let labels = [0_usize, 2, 1];
    let (ids, mask) = ([2_i64, 7, 8, 3, 2, 9, 3, 0, 2, 5, 6, 3], [1_i64, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]);
    let tensor = |values: &[i64]| HostTensor::new([3, 4], values.to_vec()).expect("a tensor");
    let data = [("input_ids", tensor(&ids)), ("attention_mask", tensor(&mask)), ("token_type_ids", tensor(&[0; 12]))];
    let exported = Path::new(&exported);
    let trainable = open(&exported.join("initial.onnx")).run(&[], &["trainable"]).expect("the first state").remove(0);
    // What the bundle's own graph makes of the cross-entropy.
    let own = {
        let step_folder = folder.path("step");
        done(&["export", &bundle, "--format", "training", "--max-grad-norm", "0", "-o", &step_folder, "-q"]);
        let mut session = open(&Path::new(&step_folder).join("training.onnx"));
        let zeros = HostTensor::vector(vec![0.0_f32; trainable.shape()[0]]);
        let (step, zero) = (HostTensor::scalar(1_i64), HostTensor::scalar(0.0_f32));
        let wanted = HostTensor::new([3], vec![0_i64, 2, 1]).expect("labels");
        let given = data.iter().map(|(name, tensor)| Feed::host(name, tensor)).filter(|feed| session.input(feed.name()).is_some());
        let state = [
            ("trainable", &trainable),
            ("adam_m", &zeros),
            ("adam_v", &zeros),
            ("labels", &wanted),
            ("step", &step),
            ("learning_rate", &zero),
        ];
        let state = state.into_iter().map(|(name, tensor)| Feed::host(name, tensor));
        let feeds: Vec<Feed<'_>> = given.chain(state).collect();
        // After one step from nothing the first moment is the gradient times 1 - beta1.
        session.run(&feeds, &["adam_m_next"]).expect("a step").remove(0).to_f32().expect("floats")
    };
    std::fs::remove_dir_all(&bundle).expect("the bundle goes");
    std::fs::remove_file(&model).expect("the base goes");
    let moved = folder.path("moved");
    std::fs::rename(exported, &moved).expect("the folder moves");
    let moved = Path::new(&moved);
    let (mut forward, mut vjp) = (open(&moved.join("forward.onnx")), open(&moved.join("vjp.onnx")));
    let feeds = |session: &Session| {
        let own = data.iter().map(|(name, tensor)| Feed::host(name, tensor)).filter(|feed| session.input(feed.name()).is_some());
        own.chain([Feed::host("trainable", &trainable)]).collect::<Vec<_>>()
    };
    let given = feeds(&forward);
    let logits = forward.run(&given, &["logits"]).expect("outputs").remove(0);
    let cotangent = of_cross_entropy(&logits, &labels);
    let mut given = feeds(&vjp);
    given.push(Feed::host("logits_cotangent", &cotangent));
    let found = vjp.run(&given, &["gradient", "logits"]).expect("a gradient");
    let gradient = found[0].to_f32().expect("floats");
    assert_eq!(found[1].to_f32().expect("floats"), logits.to_f32().expect("floats"));
    let most = own.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let wrong = gradient.iter().zip(&own).filter(|(found, own)| (**found * 0.1 - **own).abs() > 1e-4 * most).count();
    assert!(most > 0.0 && wrong == 0, "{wrong} of {} differ", own.len());
}

#[test]
fn an_adapter_that_is_computed_from_other_tensors_is_refused() {
    let folder = Folder::empty();
    let bundle = folder.path("bundle");
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "p_tuning", "--num-virtual-tokens", "2", "-o", &bundle, "-q"]);
    refused(&["export", &bundle, "--format", "vjp", "-o", &folder.path("vjp")], &["p_tuning", "--format training"]);
}
