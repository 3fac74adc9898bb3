//! Data files to examples, on tokenizers small enough to write down.

mod batches;
mod columns;
mod templates;
mod threads;
mod windows;

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::{Dataset, HeldOut, IGNORED, Labels, Limits, Packing, Reading, Specials, Tokenizer};
use crate::adapter::config::Task;
use crate::error::{Error, Result};

const WORDS: &str =
    "<pad> <s> </s> [CLS] [SEP] [MASK] <|user|> <|assistant|> <|end|> <unk> one two three four five six seven eight nine ten : .";
const ONE: i32 = 10;

/// A folder with a tokenizer of whole words: `one` is 10, `two` 11. `around` is what stands before and behind a text.
fn tokenizer(around: [&[&str]; 2], config: &serde_json::Value) -> Result<(TempDir, Tokenizer)> {
    let folder = tempfile::tempdir()?;
    let vocabulary: serde_json::Map<_, _> = WORDS.split(' ').zip(0..).map(|(word, id)| (word.to_owned(), json!(id))).collect();
    let added: Vec<_> = WORDS
        .split(' ')
        .zip(0..ONE)
        .map(|(word, id)| json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        .collect();
    let special = |word: &&str, segment: i32| json!({"SpecialToken": {"id": word, "type_id": segment}});
    let text = |name: &str, segment: i32| json!({"Sequence": {"id": name, "type_id": segment}});
    let [before, behind] = around;
    let single: Vec<_> = before.iter().map(|w| special(w, 0)).chain([text("A", 0)]).chain(behind.iter().map(|w| special(w, 0))).collect();
    let second = [text("B", 1)].into_iter().chain(behind.iter().map(|w| special(w, 1)));
    let pair: Vec<_> = single.iter().cloned().chain(second).collect();
    let used: serde_json::Map<_, _> = before
        .iter()
        .chain(behind)
        .map(|word| ((*word).to_owned(), json!({"id": word, "ids": [vocabulary[*word]], "tokens": [word]})))
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": added, "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string())?;
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string())?;
    let tokenizer = Tokenizer::open(folder.path())?;
    Ok((folder, tokenizer))
}

fn causal() -> Result<(TempDir, Tokenizer)> {
    let template = "{% for m in messages %}{{ '<|' + m.role + '|>' }} {{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    tokenizer([&["<s>"], &[]], &json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "chat_template": template}))
}

fn encoder() -> Result<(TempDir, Tokenizer)> {
    tokenizer([&["[CLS]"], &["[SEP]"]], &json!({"pad_token": "<pad>"}))
}

fn file(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, content)?;
    Ok(path)
}

fn read(name: &str, content: &str, reading: &Reading<'_>) -> Result<Dataset> {
    let folder = tempfile::tempdir()?;
    let path = file(folder.path(), name, content)?;
    Dataset::read(&path, reading).map_err(|error| {
        let hint = error.hint().map(ToOwned::to_owned);
        let short = Error::invalid(error.to_string().replace(&format!("{}/", folder.path().display()), ""));
        hint.map_or_else(|| Error::invalid(short.to_string()), |hint| Error::invalid(short.to_string()).with_hint(hint))
    })
}

fn rows(dataset: &Dataset) -> Vec<(Vec<i32>, Labels)> {
    dataset.examples.iter().map(|example| (example.input_ids.clone(), example.labels.clone())).collect()
}

#[test]
fn special_tokens_come_from_the_files_or_from_what_is_usual() -> Result<()> {
    struct Case(serde_json::Value, [Option<i32>; 2], i32);
    for Case(config, [bos, eos], pad) in [
        Case(json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}), [Some(1), Some(2)], 0),
        Case(json!({"eos_token": "<|end|>"}), [None, Some(8)], 0),
        Case(json!({"eos_token_id": [8, 2], "pad_token_id": 9}), [None, Some(8)], 9),
        Case(json!({}), [None, Some(2)], 0),
    ] {
        let (_folder, tokenizer) = tokenizer([&[], &[]], &config)?;
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (bos, eos, pad), "{config}");
    }
    Ok(())
}

#[test]
fn a_tokenizer_is_found_beside_its_model() -> Result<()> {
    let (folder, _) = causal()?;
    std::fs::create_dir_all(folder.path().join("onnx/deeper"))?;
    let found = |model: &str| Tokenizer::beside(&file(folder.path(), model, "")?).map(|found| found.is_some());
    assert_eq!((found("model.onnx")?, found("onnx/model.onnx")?, found("onnx/deeper/model.onnx")?), (true, true, false));
    Ok(())
}

#[test]
fn padding_that_a_tokenizer_file_asks_for_is_left_out() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let tokens = tokenizer.encode("one two", Specials::Added)?;
    assert_eq!((tokens.ids, tokens.spans), (vec![1, 10, 11], vec![0..0, 0..3, 4..7]));
    assert_eq!(tokenizer.decode(&[1, 10, 11, 2])?, "one two");
    Ok(())
}

#[test]
fn rows_of_a_causal_model_become_tokens_and_labels() -> Result<()> {
    struct Case(&'static str, &'static str, &'static [i32], &'static [i32]);
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::CausalLm) };
    for Case(name, content, ids, labels) in [
        Case("a.jsonl", r#"{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}"#, &[5, 6, 7], &[IGNORED, 6, 7]),
        Case("a.jsonl", r#"{"input_ids": [5, 6, 7]}"#, &[5, 6, 7], &[5, 6, 7]),
        Case("a.jsonl", r#"{"text": "one two"}"#, &[1, 10, 11, 2], &[1, 10, 11, 2]),
        Case("a.jsonl", r#"{"text": "one two</s>"}"#, &[1, 10, 11, 2], &[1, 10, 11, 2]),
        Case("a.txt", "one\ntwo\n", &[1, 10, 11, 2], &[1, 10, 11, 2]),
        Case(
            "a.jsonl",
            r#"{"prompt": "one two : ", "completion": "three four"}"#,
            &[1, 10, 11, 20, 12, 13, 2],
            &[-100, -100, -100, -100, 12, 13, 2],
        ),
        // The token at the seam is one that only both together have.
        Case("a.jsonl", r#"{"prompt": "one si", "completion": "x two"}"#, &[1, 10, 15, 11, 2], &[-100, -100, 15, 11, 2]),
        Case("a.jsonl", r#"{"prompt": "one ", "completion": "two</s>"}"#, &[1, 10, 11, 2], &[-100, -100, 11, 2]),
        Case("a.tsv", "prompt\tcompletion\none \ttwo\n", &[1, 10, 11, 2], &[-100, -100, 11, 2]),
        Case(
            "a.jsonl",
            r#"{"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}, {"role": "assistant", "content": "four five"}]}"#,
            &[6, 10, 8, 7, 11, 8, 6, 12, 8, 7, 13, 14, 8],
            &[-100, -100, -100, -100, 11, 8, -100, -100, -100, -100, 13, 14, 8],
        ),
    ] {
        assert_eq!(rows(&read(name, content, &reading)?), [(ids.to_vec(), Labels::Tokens(labels.to_vec()))], "{content}");
    }
    Ok(())
}

#[test]
fn labels_that_are_right_are_named_or_told_one_by_one() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let reading = Reading {
        tokenizer: Some(&tokenizer),
        limits: Limits { classes: Some(3), ..Limits::default() },
        ..Reading::for_task(Task::MultiLabel)
    };
    for (labels, truths) in [
        ("[true, false, true]", [1.0, 0.0, 1.0]),
        ("[1, 0, 1]", [1.0, 0.0, 1.0]),
        ("[0.0, 1.0, 1.0]", [0.0, 1.0, 1.0]),
        ("[2]", [0.0, 0.0, 1.0]),
        (r#"["LABEL_2", "LABEL_1"]"#, [0.0, 1.0, 1.0]),
        ("[]", [0.0; 3]),
    ] {
        let dataset = read("a.jsonl", &format!("{{\"text\": \"one\", \"labels\": {labels}}}"), &reading)?;
        assert_eq!(dataset.examples.get(0).columns[crate::train::losses::LABELS].values, truths, "{labels}");
    }
    let error = read("a.jsonl", r#"{"text": "one", "labels": [true, false]}"#, &reading).unwrap_err();
    assert!(error.to_string().contains("line 1: labels: expected 3 of true and false") && error.hint().is_some(), "{error}");
    // A vector for another number of labels, and a list that says the same twice.
    for wrong in ["[0, 1, 0, 1]", "[0, 0]"] {
        let error = read("a.jsonl", &format!("{{\"text\": \"one\", \"labels\": {wrong}}}"), &reading).unwrap_err();
        assert!(error.to_string().contains("line 1: labels: expected numbers of labels, each once") && error.hint().is_some(), "{error}");
    }
    Ok(())
}

#[test]
fn rows_that_stand_in_one_line_are_held_back_one_by_one() -> Result<()> {
    let reading = Reading::for_task(Task::SeqCls);
    let folder = tempfile::tempdir()?;
    let rows: Vec<String> = (0..10).map(|at| format!("{{\"input_ids\": [{at}], \"label\": {}}}", at % 2)).collect();
    let path = file(folder.path(), "a.json", &format!("[{}]", rows.join(", ")))?;
    let held_out = HeldOut { size: "0.2".parse()?, seed: 1 };
    let (kept, held) = Dataset::read_parted(&path, &reading, held_out)?;
    assert_eq!((kept.examples.len(), held.examples.len()), (8, 2));
    Ok(())
}

#[test]
fn rows_of_a_classifier_become_tokens_and_classes() -> Result<()> {
    struct Case(&'static str, &'static str, &'static [i32], &'static [&'static str]);
    let (_folder, tokenizer) = encoder()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::SeqCls) };
    for Case(name, content, classes, names) in [
        Case("a.jsonl", "{\"text\":\"one\",\"label\":3}\n{\"text\":\"two\",\"label\":0}", &[3, 0], &[]),
        Case("a.jsonl", "{\"text\":\"one\",\"label\":true}\n{\"text\":\"two\",\"label\":false}", &[1, 0], &[]),
        Case("a.jsonl", "{\"text\":\"one\",\"label\":\"pos\"}\n{\"text\":\"two\",\"label\":\"neg\"}", &[1, 0], &["neg", "pos"]),
        Case("a.csv", "text,label\none,1\ntwo,2\n", &[1, 2], &[]),
        // What classes are called that nobody named.
        Case("a.csv", "text,label\none,LABEL_1\ntwo,LABEL_2\n", &[1, 2], &[]),
        Case("a.csv", "text,label\none,b\ntwo,a\n", &[1, 0], &["a", "b"]),
    ] {
        let dataset = read(name, content, &reading)?;
        let expected: Vec<_> =
            [[3, 10, 4], [3, 11, 4]].into_iter().zip(classes).map(|(ids, class)| (ids.to_vec(), Labels::Class(*class))).collect();
        assert_eq!(rows(&dataset), expected, "{content}");
        assert_eq!(dataset.class_names.unwrap_or_default(), names, "{content}");
    }
    let given = ["pos".to_owned(), "neg".to_owned()];
    let dataset = read("a.csv", "text,label\none,pos\ntwo,neg\n", &Reading { class_names: &given, ..reading })?;
    assert_eq!(dataset.examples.iter().map(|example| example.labels.clone()).collect::<Vec<_>>(), [Labels::Class(0), Labels::Class(1)]);
    let pair = read("a.jsonl", r#"{"text": "one", "text_pair": "two three", "label": 1}"#, &reading)?;
    assert_eq!(
        (&pair.examples.get(0).input_ids[..], &pair.examples.get(0).token_type_ids[..]),
        (&[3, 10, 4, 11, 12, 4][..], &[0, 0, 0, 1, 1, 1][..])
    );
    Ok(())
}

#[test]
fn long_rows_are_cut_only_where_it_is_asked_for() -> Result<()> {
    let (_causal, causal) = causal()?;
    let (_encoder, encoder) = encoder()?;
    let limits = Limits { positions: Some(6), ..Limits::default() };
    let reading = Reading { tokenizer: Some(&causal), limits, ..Reading::for_task(Task::CausalLm) };
    let content = "{\"text\":\"one\"}\n{\"text\":\"one two three four five six\"}";
    let error = read("a.jsonl", content, &reading).unwrap_err();
    assert_eq!(error.to_string(), "a.jsonl: line 2: tokens in this row: expected at most 6, the model's positions, found 8");
    assert_eq!(error.hint(), Some("`max_length 6` cuts longer rows"));
    let dataset = read("a.jsonl", content, &Reading { max_length: Some(6), ..reading })?;
    assert_eq!(dataset.examples.get(1).input_ids, [1, 10, 11, 12, 13, 14]);
    assert_eq!((dataset.summary.rows, dataset.summary.cut, dataset.summary.longest, dataset.summary.labels), (2, 1, 6, 7));
    // What stands behind a text for the model's sake stays there.
    let reading = Reading { tokenizer: Some(&encoder), max_length: Some(4), ..Reading::for_task(Task::SeqCls) };
    let dataset = read("a.jsonl", r#"{"text":"one two three four","label":0}"#, &reading)?;
    assert_eq!(dataset.examples.get(0).input_ids, [3, 10, 11, 4]);
    Ok(())
}

#[test]
fn rows_of_every_task_that_are_cut_are_counted() -> Result<()> {
    let (_encoder, encoder) = encoder()?;
    let (_causal, causal) = causal()?;
    for (task, row) in [
        (Task::SeqCls, json!({"text": "one two three four", "label": 0})),
        (Task::SeqCls, json!({"text": "one two", "text_pair": "three four", "label": 0})),
        (Task::Regression, json!({"text": "one two three four", "score": 0.5})),
        (Task::MultiLabel, json!({"text": "one two three four", "labels": [1]})),
        (Task::TokenCls, json!({"tokens": ["one", "two", "three", "four"], "tags": [0, 0, 0, 0]})),
        (Task::Embedding, json!({"anchor": "one", "positive": "one two three four"})),
        (Task::Qa, json!({"question": "one", "context": "two three four five", "answers": {"text": [], "answer_start": []}})),
        (Task::Preference, json!({"prompt": "one two ", "chosen": "three", "rejected": "three four five six"})),
        (Task::CausalLm, json!({"text": "one two three four five"})),
        (Task::MaskedLm, json!({"text": "one two three four five"})),
    ] {
        let tokenizer = if matches!(task, Task::CausalLm | Task::Preference) { &causal } else { &encoder };
        let limits = Limits { classes: Some(if task == Task::Regression { 1 } else { 2 }), ..Limits::default() };
        for (length, cut) in [(5, 1), (20, 0)] {
            let reading = Reading { tokenizer: Some(tokenizer), limits, max_length: Some(length), ..Reading::for_task(task) };
            assert_eq!(read("a.jsonl", &row.to_string(), &reading)?.summary.cut, cut, "{task}: {row}");
        }
    }
    Ok(())
}

#[test]
fn rows_are_packed_into_blocks_with_an_end_between() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading =
        Reading { tokenizer: Some(&tokenizer), packing: Packing::Concatenate, max_length: Some(4), ..Reading::for_task(Task::CausalLm) };
    let content =
        "{\"input_ids\":[10,11,0],\"attention_mask\":[1,1,0],\"labels\":[-100,11,-100]}\n{\"input_ids\":[12,2]}\n{\"input_ids\":[13]}";
    let expected = [(vec![10, 11, 2, 12], Labels::Tokens(vec![IGNORED, 11, 2, 12])), (vec![2, 13, 2], Labels::Tokens(vec![2, 13, 2]))];
    assert_eq!(rows(&read("a.jsonl", content, &reading)?), expected);
    let error = read("a.jsonl", content, &Reading { max_length: None, ..reading }).unwrap_err();
    assert_eq!(error.to_string(), "a.jsonl: packing needs a length");
    Ok(())
}

#[test]
fn rows_that_do_not_fit_are_errors_with_the_line() -> Result<()> {
    struct Case(Task, &'static str, &'static str);
    let (_folder, tokenizer) = tokenizer([&[], &[]], &json!({}))?;
    let limits = Limits { positions: Some(8), vocabulary: Some(22), classes: Some(2), ..Limits::default() };
    for Case(task, row, expected) in [
        Case(
            Task::CausalLm,
            r#"{"txt": "one"}"#,
            "columns: expected input_ids, text, prompt + completion, messages, conversations, or instruction (+ input) + output, found txt",
        ),
        Case(
            Task::CausalLm,
            "{}",
            "columns: expected input_ids, text, prompt + completion, messages, conversations, or instruction (+ input) + output, found none",
        ),
        Case(Task::CausalLm, r#"{"text": 3}"#, "text: expected text, found 3"),
        Case(Task::CausalLm, r#"{"input_ids": "one"}"#, "input_ids: expected a list of whole numbers, found the text \"one\""),
        Case(Task::CausalLm, r#"{"input_ids": [1, 2.5]}"#, "input_ids: expected a whole number, found 2.5"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 99999999999]}"#, "input_ids: expected a whole number, found 99999999999"),
        Case(Task::CausalLm, r#"{"input_ids": []}"#, "this row has no tokens"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 22]}"#, "a number in input_ids: expected 0 to 21, found 22"),
        Case(Task::CausalLm, r#"{"input_ids": [1, -1]}"#, "a number in input_ids: expected 0 to 21, found -1"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 2], "labels": [1, 22]}"#, "a number in labels: expected 0 to 21, found 22"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 2], "labels": [1, -99]}"#, "a number in labels: expected 0 to 21, found -99"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 2], "labels": [1]}"#, "length of labels: expected 2, found 1"),
        Case(Task::CausalLm, r#"{"input_ids": [1, 2], "attention_mask": [1]}"#, "length of attention_mask: expected 2, found 1"),
        Case(Task::CausalLm, r#"{"messages": [{"role": "user", "content": "one"}]}"#, "the tokenizer has no chat template"),
        Case(
            Task::CausalLm,
            r#"{"messages": "hi"}"#,
            "messages: expected a list of objects with role and content, found invalid type: string \"hi\", expected a sequence",
        ),
        Case(Task::SeqCls, r#"{"text": "one"}"#, "no column named \"label\""),
        Case(Task::SeqCls, r#"{"text": "one", "label": 2}"#, "a number in label: expected 0 to 1, found 2"),
        Case(Task::SeqCls, r#"{"text": "one", "label": 0.5}"#, "label: expected a whole number, the class's, or its name, found 0.5"),
        Case(Task::TokenCls, r#"{"input_ids": [1, 2], "labels": [0, 2]}"#, "a number in labels: expected 0 to 1, found 2"),
        Case(
            Task::TokenCls,
            r#"{"text": "one"}"#,
            "text for token-cls is not supported: its rows have tokens + tags, text + entities, or input_ids + labels",
        ),
        Case(
            Task::SeqCls,
            r#"{"prompt": "one", "completion": "two"}"#,
            "prompt + completion for seq-cls is not supported: its rows have text (+ text_pair) + label, or input_ids + label",
        ),
        Case(Task::ImageCls, r#"{"pixel_values": [[1, 2], [3]], "label": 0}"#, "pixel_values: length of axis 1: expected 2, found 1"),
        Case(Task::ImageCls, r#"{"pixel_values": [[1, 2], 3], "label": 0}"#, "pixel_values: rows of different depth"),
    ] {
        let reading = Reading { tokenizer: Some(&tokenizer), limits, ..Reading::for_task(task) };
        let good = match task {
            Task::ImageCls => r#"{"pixel_values": [[1, 2]], "label": 0}"#,
            Task::SeqCls => r#"{"input_ids": [1, 2], "label": 1}"#,
            _ => r#"{"input_ids": [1, 2], "labels": [0, 1]}"#,
        };
        let error = read("a.jsonl", &format!("{good}\n{row}"), &reading).unwrap_err();
        assert_eq!(error.to_string(), format!("a.jsonl: line 2: {expected}"), "{row}");
    }
    Ok(())
}

#[test]
fn files_that_cannot_teach_anything_are_errors() {
    struct Case(Task, &'static str, &'static str);
    for Case(task, content, expected) in [
        Case(Task::CausalLm, r#"{"input_ids": [1, 2], "labels": [1, -100]}"#, "a.jsonl: no label counts in any row of this data file"),
        Case(Task::CausalLm, r#"{"text": "one"}"#, "a.jsonl: line 1: a row of text needs a tokenizer"),
        Case(
            Task::SeqCls,
            "{\"input_ids\":[1],\"label\":\"a\"}\n{\"input_ids\":[1],\"label\":1}",
            "a.jsonl: line 2: label: expected a name, as in other rows, found 1",
        ),
    ] {
        let error = read("a.jsonl", content, &Reading::for_task(task)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn patterns_split_texts_as_oniguruma_does() -> Result<()> {
    const TEXT: &str = "it's 1234a déjà\t 漢字  \n\nABc";
    let rows: [(&str, &[&str]); 4] = [
        (
            "[[:alpha:]]+|[[:digit:]]{1,2}|[[:space:]]+|[[:punct:]]",
            &["it", "'", "s", " ", "12", "34", "a", " ", "déjà", "\t ", "漢字", "  \n\n", "ABc"],
        ),
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
            &["it", "'s", " ", "1234", "a", " déjà", "\t", " 漢字", "  \n\n", "ABc"],
        ),
        (
            r"(?>[a-zé]+)|\h+|(?<w>[A-Z])|[^a-zA-Z]",
            &["it", "'", "s", " ", "1234a", " ", "déj", "à", "\t", " ", "漢", "字", " ", " ", "\n", "\n", "ABc"],
        ),
        (
            r"\d+(?=[a-c&&[^b]])|\p{Alnum}+|\R|.",
            &["it", "'", "s", " ", "1234", "a", " ", "déjà", "\t", " ", "漢字", " ", " ", "\n", "\n", "ABc"],
        ),
    ];
    let (folder, _) = causal()?;
    let path = folder.path().join("tokenizer.json");
    let mut parts: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?).expect("JSON");
    for (pattern, expected) in rows {
        parts["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        file(folder.path(), "tokenizer.json", &parts.to_string())?;
        let tokens = Tokenizer::open(folder.path())?.encode(TEXT, Specials::AsWritten)?;
        let pieces: Vec<&str> = tokens.spans.iter().map(|span| &TEXT[span.clone()]).collect();
        assert_eq!(pieces, expected, "{pattern}");
    }
    Ok(())
}

#[test]
fn parts_of_a_tokenizer_that_are_none_are_errors() -> Result<()> {
    let (folder, _) = causal()?;
    let parts: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer.json"))?).expect("JSON");
    let deep = "[".repeat(1000);
    for part in ["decoder", "normalizer", "pre_tokenizer", "post_processor", "model"] {
        for wrong in ["NaN", "{\"type\": ", "1e999", "{}", "\"x\"", &deep, "{\"type\": \"Sequence\", \"decoders\": 7}"] {
            let mut parts = parts.clone();
            parts[part] = json!("HERE");
            let path = file(folder.path(), "wrong.json", &parts.to_string().replace("\"HERE\"", wrong))?;
            let error = Tokenizer::open(&path).err().unwrap_or_else(|| panic!("{part} {wrong} was opened"));
            assert!(error.to_string().contains("wrong.json: not a tokenizer: "), "{part} {wrong}: {error}");
        }
    }
    Ok(())
}
