//! Long texts in windows, and the forms of rows of other programs.

use super::super::{Answer, Context};
use super::{Dataset, Labels, Reading, Task, causal, encoder, json, read, rows};
use crate::data::Tokenizer;
use crate::error::Result;
use crate::train::losses::{END_POSITIONS, START_POSITIONS};

/// The windows of a row, each with the first and last token of the answer.
fn windows(dataset: &Dataset) -> Vec<(Vec<i32>, [f64; 2])> {
    let place = |columns: &std::collections::BTreeMap<String, super::super::Numbers>, name: &str| columns[name].values[0];
    let window = |example: &super::super::Example| {
        let columns = &example.columns;
        (example.input_ids.clone(), [place(columns, START_POSITIONS), place(columns, END_POSITIONS)])
    };
    dataset.examples.iter().map(|example| window(&example)).collect()
}

#[test]
fn a_text_that_is_too_long_is_parted_into_windows_that_overlap() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let row = json!({
        "question": "one", "context": "one two three four five six seven", "answers": {"text": ["five six"], "answer_start": [19]},
    });
    let reading = Reading { tokenizer: Some(&tokenizer), max_length: Some(8), stride: Some(2), ..Reading::for_task(Task::Qa) };
    let dataset = read("a.jsonl", &row.to_string(), &reading)?;
    let expected = vec![
        (vec![3, 10, 4, 10, 11, 12, 13, 4], [0.0, 0.0]),
        (vec![3, 10, 4, 12, 13, 14, 15, 4], [5.0, 6.0]),
        (vec![3, 10, 4, 14, 15, 16, 4], [3.0, 4.0]),
    ];
    assert_eq!(windows(&dataset), expected);
    assert!(dataset.examples.iter().all(|example| example.group == dataset.examples.get(0).group));
    // Without a stride the end is cut, as before.
    let cut = read("a.jsonl", &row.to_string(), &Reading { stride: None, ..reading })?;
    assert_eq!(windows(&cut), expected[..1]);
    let error = read("a.jsonl", &row.to_string(), &Reading { stride: Some(4), ..reading }).expect_err("no room");
    assert!(error.to_string().contains("doc_stride") && error.hint().is_some(), "{error}");
    Ok(())
}

#[test]
fn the_best_answer_is_that_of_all_windows() {
    let context = |spans: Vec<(usize, std::ops::Range<usize>)>| Context { text: "one two three".into(), spans, answers: [].into() };
    let (first, second) = (context(vec![(1, 0..3), (2, 4..7)]), context(vec![(1, 4..7), (2, 8..13)]));
    let found = [first.answers_by(&[9.0, 1.0, 0.0], &[9.0, 1.0, 2.0]), second.answers_by(&[0.0, 3.0, 0.0], &[0.0, 0.0, 2.0])];
    let best = Answer::best(found.concat());
    assert_eq!((best[0].score, second.text_of(&best[0])), (5.0, "two three"));
}

#[test]
fn prompts_and_completions_of_messages_are_read_as_one_conversation() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::CausalLm) };
    let user = json!([{"role": "user", "content": "one two"}]);
    let row = json!({"prompt": user, "completion": [{"role": "assistant", "content": "three"}]});
    let found = rows(&read("a.jsonl", &row.to_string(), &reading)?);
    let (ids, Labels::Tokens(labels)) = &found[0] else { panic!("a row of tokens") };
    let whole = json!({"messages": [user[0], {"role": "assistant", "content": "three"}]});
    assert_eq!(*ids, rows(&read("a.jsonl", &whole.to_string(), &reading)?)[0].0);
    let learnt: Vec<i32> = labels.iter().copied().filter(|label| *label >= 0).collect();
    // What was asked is not learnt; the answer and its end are.
    assert_eq!(learnt, [12, 8]);
    let mixed = json!({"prompt": "one", "completion": user});
    assert!(read("a.jsonl", &mixed.to_string(), &reading).is_err_and(|error| error.to_string().contains("one of each")));
    Ok(())
}

#[test]
fn two_conversations_that_begin_alike_are_a_preference() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::Preference) };
    let (asked, good, bad) = (
        json!({"role": "user", "content": "one"}),
        json!({"role": "assistant", "content": "two"}),
        json!({"role": "assistant", "content": "three"}),
    );
    let short = json!({"chosen": [asked, good], "rejected": [asked, bad]});
    let long = json!({"prompt": [asked], "chosen": [good], "rejected": [bad]});
    let expected = rows(&read("a.jsonl", &long.to_string(), &reading)?);
    assert_eq!(rows(&read("a.jsonl", &short.to_string(), &reading)?), expected);
    // With the prompt as a text beside them, and with scores (HuggingFaceH4/ultrafeedback_binarized).
    let beside = json!({"prompt": "one", "chosen": [asked, good], "rejected": [asked, bad], "score_chosen": 8.5, "score_rejected": 6.0});
    assert_eq!(rows(&read("a.jsonl", &beside.to_string(), &reading)?), expected);
    Ok(())
}

#[test]
fn conversations_and_instructions_are_learnt_through_the_chat_template() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::CausalLm) };
    let plain = json!({"messages": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}]});
    let expected = rows(&read("a.jsonl", &plain.to_string(), &reading)?);
    for row in [
        json!({"conversations": [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "three"}]}),
        json!({"instruction": "one two", "input": "", "output": "three"}),
    ] {
        assert_eq!(rows(&read("a.jsonl", &row.to_string(), &reading)?), expected, "{row}");
    }
    Ok(())
}

#[test]
fn places_of_tokens_that_begin_with_a_space_are_those_of_their_words() {
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false
        },
        "decoder": null,
        "model": {
            "type": "WordLevel", "unk_token": "?",
            "vocab": {"<s>": 0, "?": 1, "</s>": 2, "who": 3, "the": 4, "Ġhappy": 5, "Ġfox": 6}
        }
    });
    let tokenizer = Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).expect("a tokenizer");
    let windows = tokenizer.encode_question("who", "the happy fox", None, None).expect("tokens");
    let context = windows[0].texts.iter().zip(&windows[0].spans).filter(|(text, _)| **text == Some(1));
    assert_eq!(context.map(|(_, span)| &"the happy fox"[span.clone()]).collect::<Vec<_>>(), ["the", "happy", "fox"]);
    assert_eq!(windows[0].ids, [0, 3, 2, 2, 4, 5, 6, 2]);
}

/// A tokenizer of small pieces, with a token between two texts.
fn of_pieces(pre_tokenizer: &serde_json::Value, model: &serde_json::Value) -> Tokenizer {
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": pre_tokenizer, "model": model,
        "post_processor": {
            "type": "TemplateProcessing", "single": [text("A")], "pair": [text("A"), {"SpecialToken": {"id": "/", "type_id": 0}}, text("B")],
            "special_tokens": {"/": {"id": "/", "ids": [0], "tokens": ["/"]}}
        }
    });
    Tokenizer::from_bytes(file.to_string().as_bytes()).expect("a tokenizer")
}

#[test]
fn where_several_tokens_share_a_character_an_answer_is_where_transformers_has_it() -> Result<()> {
    // "▁" and "c" stand for the first character, both bytes of "ñ" for that letter.
    let pieces = ["/", "▁", "c", "a", "t", "s"].map(|piece| json!([piece, -1.0]));
    let marked = of_pieces(
        &json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        &json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}),
    );
    let bytes: serde_json::Map<_, _> =
        ["/", "a", "Ġ", "Ã", "±", "s"].into_iter().zip(0..).map(|(at, id)| (at.to_owned(), json!(id))).collect();
    let of_bytes = of_pieces(
        &json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        &json!({"type": "BPE", "vocab": bytes, "merges": []}),
    );
    // Positions as `prepare_train_features` of transformers' run_qa.py gives them, behind two or one tokens of the question and the one between.
    for (tokenizer, question, context, answer, at, expected) in [
        (&marked, "a", "cats a", "cat", 0, [4, 6]),
        (&marked, "a", "cats a", "c", 0, [4, 3]),
        (&marked, "a", "cats a", "a", 5, [9, 9]),
        (&of_bytes, "a", "ñas", "ña", 0, [3, 4]),
        (&of_bytes, "a", "aña s", "ñ", 1, [4, 3]),
        (&of_bytes, "a", "aña s", "a", 2, [5, 5]),
        (&of_bytes, "a", "as ñ", "as ñ", 0, [2, 5]),
    ] {
        let row = json!({"question": question, "context": context, "answers": {"text": [answer], "answer_start": [at]}});
        let reading = Reading { tokenizer: Some(tokenizer), ..Reading::for_task(Task::Qa) };
        let found = windows(&read("a.jsonl", &row.to_string(), &reading)?);
        assert_eq!(found[0].1.map(crate::num::floor), expected, "{answer} in {context}: {:?}", found[0].0);
    }
    Ok(())
}
