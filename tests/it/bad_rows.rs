//! Rows that a task cannot learn from: the line, what was expected, and what to do. One row a case.

use peft_onnx::adapter::config::Task;
use peft_onnx::anatomy::{Feeding, Role};
use peft_onnx::data::{Dataset, Limits, Media, Reading, Tokenizer};
use peft_onnx::train::distillation::Distillation;
use peft_onnx::train::plan::LossPlan;
use serde_json::{Value, json};

use crate::common::Folder;
use crate::tasks::tokenizer;

/// A row that its task cannot learn from, and what is said.
type Bad = (Task, Value, &'static [&'static str]);

fn rows() -> Vec<Bad> {
    vec![
        (Task::SeqCls, json!({"text": "w1"}), &["label"]),
        (Task::SeqCls, json!({"label": 1}), &["expected text"]),
        (Task::SeqCls, json!({"text": " ", "label": 1}), &["an empty one"]),
        (Task::SeqCls, json!({"text": 7, "label": 1}), &["expected text", "found 7"]),
        (Task::SeqCls, json!({"text": "w1", "label": 3}), &["0 to 2", "found 3"]),
        (Task::SeqCls, json!({"text": "w1", "label": -1}), &["0 to 2", "found -1"]),
        (Task::SeqCls, json!({"text": "w1", "label": 0.5}), &["a whole number"]),
        (Task::SeqCls, json!({"text": "w1", "label": null}), &["a class"]),
        (Task::MultiLabel, json!({"text": "w1", "labels": 1}), &["a list"]),
        (Task::MultiLabel, json!({"text": "w1", "labels": [3]}), &["below 3"]),
        (Task::MultiLabel, json!({"text": "", "labels": []}), &["an empty one"]),
        (Task::MultiLabel, json!({"text": "w1", "labels": [-1]}), &["0 or more", "found -1"]),
        (Task::MultiLabel, json!({"text": "w1", "labels": [0.5, 0, 1]}), &["names or numbers of labels", "0.5"]),
        (Task::Regression, json!({"text": "w1", "label": [1.0, 1e300, 2.0]}), &["float32's range"]),
        (Task::TokenCls, json!({"tokens": ["w1", "w2"], "tags": ["O", null]}), &["tag 2 of this row", "found null"]),
        (Task::TokenCls, json!({"tokens": ["w1", "w2"], "tags": [0, 0.5]}), &["tag 2 of this row", "0.5"]),
        (Task::TokenCls, json!({"text": "w1", "entities": "x"}), &["a list"]),
        (Task::Regression, json!({"text": "w1"}), &["label"]),
        (Task::Regression, json!({"text": "w1", "label": [1.0]}), &["3, one for each"]),
        (Task::Regression, json!({"text": "w1", "label": "many"}), &["a number"]),
        (Task::Rerank, json!({"query": "w1", "label": 1}), &["passage"]),
        (Task::Rerank, json!({"query": "w1", "passage": "", "label": 1}), &["an empty one"]),
        (Task::Rerank, json!({"query": "w1", "passage": "w2", "label": 2}), &["from 0"]),
        (Task::TokenCls, json!({"tokens": ["w1", "w2"], "tags": ["O"]}), &["2, one for each"]),
        (Task::TokenCls, json!({"tokens": ["w1"], "tags": ["B-LOC"]}), &["one of O", "B-LOC"]),
        (Task::TokenCls, json!({"tokens": ["w1"], "tags": [9]}), &["0 to 2", "found 9"]),
        (Task::TokenCls, json!({"tokens": [], "tags": []}), &["an empty list"]),
        (Task::TokenCls, json!({"tokens": "w1 w2", "tags": ["O"]}), &["two lists"]),
        (
            Task::TokenCls,
            json!({"text": "w1 w2", "entities": [{"start": 3, "end": 9, "label": "PER"}]}),
            &["within the text's 5", "3 to 9"],
        ),
        (Task::TokenCls, json!({"text": "w1 w2", "entities": [{"start": 3, "label": "PER"}]}), &["start, end and label"]),
        (
            Task::TokenCls,
            json!({"text": "w1 w2", "entities": [{"start": 0, "end": 4, "label": "PER"}, {"start": 3, "end": 5, "label": "PER"}]}),
            &["overlap"],
        ),
        (Task::Qa, json!({"question": "w1", "context": "w2"}), &["answers"]),
        (Task::Qa, json!({"question": "w1", "context": " ", "answers": {"text": [], "answer_start": []}}), &["an empty one"]),
        (Task::Qa, json!({"question": "w1", "context": "w2 w3", "answers": {"text": ["w9"], "answer_start": [0]}}), &["w9", "character 0"]),
        (
            Task::Qa,
            json!({"question": "w1", "context": "w2 w3", "answers": {"text": ["w3"], "answer_start": [0, 3]}}),
            &["1, one for each"],
        ),
        (Task::Qa, json!({"question": "w1", "context": "w2 w3", "answers": "w3"}), &["answer_start"]),
        (Task::Embedding, json!({"anchor": "w1"}), &["positive"]),
        (Task::Embedding, json!({"anchor": "w1", "positive": ""}), &["an empty one"]),
        (Task::Embedding, json!({"anchor": "w1", "positive": "w2", "negative": "w2"}), &["negative", "the positive itself"]),
        (Task::Embedding, json!({"anchor": "w1", "positive": "w2", "negative_1": "w3", "negative_2": "w2"}), &["negative_2"]),
        (Task::Preference, json!({"prompt": "w1", "chosen": " w2"}), &["rejected"]),
        (Task::Preference, json!({"chosen": " w2", "rejected": " w3"}), &["prompt"]),
        (Task::Preference, json!({"prompt": "w1", "chosen": " w2", "rejected": " w2"}), &["the same"]),
        (Task::Preference, json!({"prompt": "w1", "chosen": "", "rejected": " w2"}), &["chosen", "an empty one"]),
        (Task::Preference, json!({"prompt": "w1", "chosen": " w2", "rejected": "\n "}), &["rejected", "an empty one"]),
        (
            Task::Preference,
            json!({"prompt": "w1", "chosen": [{"role": "assistant", "content": "w2"}], "rejected": [{"role": "assistant", "content": "w3"}]}),
            &["prompt", "a list of messages"],
        ),
        (Task::Reward, json!({"prompt": "w1", "rejected": " w2"}), &["chosen"]),
        (Task::Reward, json!({"prompt": "w1", "chosen": " w2", "rejected": " w2"}), &["the same"]),
        (Task::Ctc, json!({"audio": "broken.wav", "text": "w1"}), &["broken.wav"]),
        (Task::Ctc, json!({"audio": "broken.wav"}), &["text"]),
        (Task::SpeechSeq2Seq, json!({"audio": "missing.wav", "text": "w1"}), &["missing.wav"]),
        (Task::SpeechSeq2Seq, json!({"audio": "", "text": "w1"}), &["audio"]),
        (Task::Seq2SeqLm, json!({"prompt": "w1"}), &["prompt + completion"]),
        (Task::TokenCls, json!({"text": "w1 w2", "entities": [{"start": 2, "end": 3, "label": "PER"}]}), &["2 to 3"]),
        (Task::TokenCls, json!({"text": "w1 w2", "entities": [{"start": 3, "end": 3, "label": "PER"}]}), &["3 to 3"]),
        (Task::Qa, json!({"question": "w1", "context": "w2 w3", "answers": {"text": [""], "answer_start": [0]}}), &["an empty one"]),
        (Task::Regression, json!({"text": "w1", "label": [1.0, null, 2.0]}), &["a number"]),
        (Task::MultiLabel, json!({"text": "w1", "labels": [0, 0]}), &["each once"]),
        (Task::ImageCls, json!({"image": "broken.png", "label": 0}), &["broken.png"]),
        (Task::ImageCls, json!({"image": "missing.png", "label": 0}), &["missing.png"]),
        (Task::ImageCls, json!({"image": "", "label": 0}), &["image"]),
        (Task::ImageCls, json!({"image": 5, "label": 0}), &["image", "a file's path", "found 5"]),
        (Task::Ctc, json!({"audio": "broken.wav", "text": 5}), &["text", "found 5"]),
        (Task::AudioCls, json!({"audio": "broken.wav", "label": 0}), &["broken.wav"]),
        (Task::AudioCls, json!({"audio": "missing.wav", "label": 0}), &["missing.wav"]),
        (Task::CausalLm, json!({"prompt": "w1"}), &["prompt + completion"]),
        (Task::CausalLm, json!({"messages": [{"content": "w1"}]}), &["role"]),
        (Task::CausalLm, json!({"input_ids": [1, 99]}), &["0 to 44", "99"]),
    ]
}

/// A row whose teacher did not answer as the student does, and what is said.
#[test]
fn teachers_that_answer_something_else_are_named_before_the_first_step() {
    let folder = Folder::empty();
    let tokens = Tokenizer::open(folder.write("tokenizer.json", &tokenizer()).as_ref()).expect("a tokenizer");
    let loss = LossPlan { distillation: Some(Distillation { weight: 0.5, temperature: 1.0 }), ..LossPlan::default() };
    let feeding = Feeding { inputs: [("teacher_logits".to_owned(), Role::Column)].into(), ..Feeding::default() };
    let limits = Limits { classes: Some(3), vocabulary: Some(45), ..Limits::default() };
    let reading = Reading { tokenizer: Some(&tokens), limits, loss: &loss, feeding: Some(&feeding), ..Reading::for_task(Task::SeqCls) };
    for (answer, expected) in [
        (json!([1.0, 2.0, 3.0]), None),
        (json!([1.0, 2.0]), Some("numbers in teacher_logits: expected 3, one for each class, found 2")),
        (json!([1.0, 2.0, 3.0, 4.0]), Some("found 4")),
        (json!(null), Some("no column named \"teacher_logits\"")),
    ] {
        let good = json!({"text": "w1", "label": 0, "teacher_logits": [0, 1, 2]});
        let rows = format!("{good}\n{}\n", json!({"text": "w1", "label": 1, "teacher_logits": answer}));
        let read = Dataset::read(folder.write("rows.jsonl", &rows).as_ref(), &reading);
        let told = read.err().map(|error| (error.to_string(), error.hint().is_some()));
        let is_right = match (&told, expected) {
            (None, None) => true,
            (Some((text, has_hint)), Some(expected)) => *has_hint && text.contains("line 2") && text.contains(expected),
            _ => false,
        };
        assert!(is_right, "{answer}: {told:?}");
    }
}

#[test]
fn bad_rows_are_named_with_their_line_and_with_what_to_do() {
    let folder = Folder::empty();
    let tokens = Tokenizer::open(folder.write("tokenizer.json", &tokenizer()).as_ref()).expect("a tokenizer");
    folder.write("broken.png", "\u{89}PNG not really");
    folder.write("broken.wav", "RIFF not really");
    let names: Vec<String> = ["O", "B-PER", "I-PER"].map(str::to_owned).into();
    let cases = rows();
    let media = Media::near(&[], Some((8, 8)));
    let mut wrong = vec![];
    for (task, row, said) in &cases {
        let path = folder.write("rows.jsonl", &format!("\n\n{row}\n"));
        let limits = Limits { classes: (*task != Task::CausalLm).then_some(3), vocabulary: Some(45), ..Limits::default() };
        let class_names: &[String] = if *task == Task::TokenCls { &names } else { &[] };
        let reading = Reading { tokenizer: Some(&tokens), limits, class_names, media: &media, ..Reading::for_task(*task) };
        match Dataset::read(path.as_ref(), &reading) {
            Ok(_) => wrong.push(format!("{task}: {row} is read")),
            Err(error) => {
                let text = error.to_string();
                if !text.contains("line 3") || said.iter().any(|words| !text.contains(words)) || error.hint().is_none() {
                    wrong.push(format!("{task}: {row}: {text}; hint: {:?}", error.hint()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
