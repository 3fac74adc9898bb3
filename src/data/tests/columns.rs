//! Columns by their roles, names and values: what is read, told, refused.

use super::super::{ColumnMap, OtherNames};
use super::{Labels, Limits, Reading, Task, causal, encoder, json, read, rows, tokenizer};
use crate::anatomy::{Feeding, MaskForm, Role};
use crate::error::Result;

fn map(pairs: &[&str]) -> Result<ColumnMap> {
    pairs.iter().map(|pair| pair.parse()).collect::<Result<Vec<_>>>().map(|pairs| pairs.into_iter().collect())
}

#[test]
fn texts_of_classes_are_found_under_the_names_that_people_give_them() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let single = (vec![3, 10, 4], Labels::Class(1));
    let pair = (vec![3, 10, 4, 11, 4], Labels::Class(1));
    for (file, content, renamed, expected) in [
        ("a.csv", "Text,LABEL\none,1\n", &[][..], &single),
        ("a.csv", "\u{feff}text , label\none, 1\n", &[], &single),
        ("a.csv", "sentence;label\none;1.0\n", &[], &single),
        ("a.csv", "id,text,label,date\n7,one,1,2024-01-01\n", &[], &single),
        ("a.csv", "headline,stars\none,1\n", &["headline=text", "stars=label"], &single),
        ("a.csv", "text,title,label\n7,one,1\n", &["title=text"], &single),
        ("a.csv", "text,text2,label\none,two,1\n", &["text2=ignore"], &single),
        ("a.csv", "text,text2,label\none,two,1\n", &["text2=text_pair"], &pair),
        ("a.csv", "sentence1,sentence2,label\none,two,1\n", &[], &pair),
        ("a.csv", "Premise,Hypothesis,label\none,two,1\n", &[], &pair),
        ("a.csv", "question,sentence,label\none,two,1\n", &[], &pair),
        ("a.jsonl", r#"{"question": "one", "answer": "two", "label": true}"#, &[], &pair),
        ("a.jsonl", r#"{"text": "one", "labels": 1, "rejected": null}"#, &[], &single),
    ] {
        let columns = map(renamed)?;
        let reading = Reading { tokenizer: Some(&tokenizer), columns: &columns, ..Reading::for_task(Task::SeqCls) };
        assert_eq!(rows(&read(file, content, &reading)?), std::slice::from_ref(expected), "{content} {renamed:?}");
    }
    Ok(())
}

#[test]
fn answers_that_read_like_numbers_or_lists_are_texts() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::Preference) };
    let read_with = |chosen: &str| {
        let row = json!({"prompt": "one ", "chosen": chosen, "rejected": "three"});
        read("a.jsonl", &row.to_string(), &reading)
    };
    for chosen in [" 56", "56", "true", "[1, 2]", "[]", "null", "{}"] {
        assert_eq!(read_with(chosen)?.examples.len(), 1, "{chosen}");
    }
    let messages = json!([{"role": "assistant", "content": "two"}]).to_string();
    let row =
        json!({"prompt": "[{\"role\": \"user\", \"content\": \"one\"}]", "chosen": messages, "rejected": messages.replace("two", "three")});
    assert_eq!(read("a.jsonl", &row.to_string(), &reading)?.examples.len(), 1);
    Ok(())
}

#[test]
fn columns_with_a_meaning_that_the_task_does_not_use_are_refused() -> Result<()> {
    struct Case(Task, &'static str, &'static [&'static str], &'static str);
    let (_folder, tokenizer) = causal()?;
    for Case(task, row, renamed, expected) in [
        Case(Task::CausalLm, r#"{"prompt": "one", "completion": "two", "label": true}"#, &[], "the column label for causal-lm"),
        Case(Task::CausalLm, r#"{"text": "one", "Label": "good"}"#, &[], "the column Label for causal-lm"),
        Case(Task::MaskedLm, r#"{"text": "one", "label": 0}"#, &[], "the column label for masked-lm"),
        Case(Task::CausalLm, r#"{"prompt": "one", "chosen": "two", "rejected": "three"}"#, &[], "the column chosen for causal-lm"),
        Case(Task::CausalLm, r#"{"prompt": "one", "completion": "two", "rejected": "three"}"#, &[], "the column rejected for causal-lm"),
        Case(Task::CausalLm, r#"{"text": "one", "teacher_logits": [[1]]}"#, &[], "the column teacher_logits for causal-lm"),
        Case(Task::CausalLm, r#"{"text": "one", "tools": [{}]}"#, &[], "the column tools for causal-lm"),
        Case(Task::CausalLm, r#"{"text": "one", "weight": 0.5}"#, &[], "the column weight for causal-lm"),
        Case(Task::SeqCls, r#"{"text": "one", "Sentence2": "two", "label": 0}"#, &[], "the column Sentence2 for seq-cls"),
        Case(Task::SeqCls, r#"{"text": "one", "label": 0, "labels": [1]}"#, &[], "the column labels for seq-cls"),
        Case(Task::SeqCls, r#"{"text": "one", "score": 0.5, "label": 0}"#, &[], "the column score for seq-cls"),
        Case(Task::SeqCls, r#"{"anchor": "one", "positive": "two", "negative_1": "three"}"#, &[], "the column anchor for seq-cls"),
        Case(
            Task::SeqCls,
            r#"{"sentence": "one", "text1": "a", "text2": "b", "label": 0}"#,
            &[],
            "the text could be sentence, or text1 + text2",
        ),
        Case(Task::SeqCls, r#"{"text": "one", "label": 0, "image": "a.png"}"#, &[], "the column image for seq-cls"),
        Case(Task::CausalLm, r#"{"text": "one", "image": "a.png"}"#, &[], "the column image for causal-lm"),
        Case(
            Task::Preference,
            r#"{"prompt": "one", "chosen": "two", "rejected": "three", "label": 1}"#,
            &[],
            "the column label for preference",
        ),
        Case(
            Task::SeqCls,
            r#"{"title": "one", "kind": 0, "rejected": "b"}"#,
            &["title=text", "kind=label"],
            "the column rejected for seq-cls",
        ),
        Case(Task::SeqCls, r#"{"text": "one", "label": 0}"#, &["headline=text"], "no column named \"headline\""),
        Case(Task::SeqCls, r#"{"text": "one", "label": 0}"#, &["text=txt"], "no role named \"txt\""),
    ] {
        let columns = map(renamed)?;
        let error =
            read("a.jsonl", row, &Reading { tokenizer: Some(&tokenizer), columns: &columns, ..Reading::for_task(task) }).unwrap_err();
        assert!(error.to_string().contains(expected), "{row}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("`map") || hint.contains("roles of columns are text, ")), "{row}");
    }
    assert!("headline".parse::<super::super::Renamed>().is_err());
    Ok(())
}

#[test]
fn a_column_that_says_again_what_another_one_is_read_for_is_passed_over() -> Result<()> {
    for (task, row) in [
        (Task::TokenCls, r#"{"input_ids": [1, 2], "labels": [0, 1], "label": 1}"#),
        (Task::TokenCls, r#"{"input_ids": [1, 2], "labels": [0, 1], "ner_tags": [0, 1]}"#),
        (Task::TokenCls, r#"{"input_ids": [1, 2], "labels": [0, 1], "Tags": ["A", "B"]}"#),
        (Task::CausalLm, r#"{"input_ids": [1, 2], "labels": [0, 1], "label": 1}"#),
    ] {
        let limits = Limits { classes: Some(2), ..Limits::default() };
        let read = rows(&read("a.jsonl", row, &Reading { limits, ..Reading::for_task(task) })?);
        assert_eq!(read, [(vec![1, 2], Labels::Tokens(vec![0, 1]))], "{row}");
    }
    Ok(())
}

#[test]
fn labels_are_whole_numbers_or_names_and_never_both() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let limits = Limits { classes: Some(3), ..Limits::default() };
    let known = ["neg".to_owned(), "pos".to_owned(), "None".to_owned()];
    let reading = Reading { tokenizer: Some(&tokenizer), limits, ..Reading::for_task(Task::SeqCls) };
    let named = Reading { class_names: &known, other_names: OtherNames::Refused, ..reading };
    let good = |file: &str, content: &str, reading: &Reading<'_>| {
        read(file, content, reading).map(|dataset| dataset.examples.iter().map(|example| example.labels.clone()).collect::<Vec<_>>())
    };
    for (file, content, reading, expected) in [
        ("a.csv", "text,label\none,0.0\ntwo,2.0\n", &reading, [0, 2]),
        ("a.csv", "text,label\none,True\ntwo,False\n", &reading, [1, 0]),
        ("a.csv", "text,label\none, neg \ntwo,pos\n", &named, [0, 1]),
        ("a.csv", "text,label\none,None\ntwo,pos\n", &named, [2, 1]),
        ("a.jsonl", "{\"text\":\"one\",\"label\":1.0}\n{\"text\":\"two\",\"label\":\"2\"}", &reading, [1, 2]),
        ("a.json", "[{\"text\":\"one\",\"label\":\"pos\"},{\"text\":\"two\",\"label\":\"neg\"}]", &named, [1, 0]),
    ] {
        assert_eq!(good(file, content, reading)?, expected.map(Labels::Class), "{content}");
    }
    for (content, expected) in [
        ("text,label\none,0\ntwo,\n", "line 3: label: expected a class, found an empty one"),
        ("text,label\none,NA\ntwo,1\n", "line 2: label: expected a class, found NA"),
        ("text,label\none,0\ntwo,nan\n", "line 3: label: expected a class, found nan"),
        ("text,label\none,pos\ntwo,null\n", "line 3: label: expected a class, found null"),
        ("text,label\none,0\ntwo,pos\n", "line 3: label: expected a whole number, as in other rows, found pos"),
        ("text,label\none,pos\ntwo,1\n", "line 3: label: expected a name, as in other rows, found 1"),
        ("text,label\none,0\ntwo,3\n", "line 3: a number in label: expected 0 to 2, found 3"),
        ("text,label\none,0\ntwo,-1\n", "line 3: a number in label: expected 0 to 2, found -1"),
        ("text,label\none,0\ntwo,0.5\n", "line 3: label: expected a whole number"),
    ] {
        let error = read("a.csv", content, &reading).unwrap_err();
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{content}: {error}");
    }
    Ok(())
}

#[test]
fn numbers_and_names_are_not_mixed_in_lists_of_labels() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    for (task, content, expected) in [
        (
            Task::MultiLabel,
            [json!({"text": "one", "labels": [1, 2]}), json!({"text": "two", "labels": ["x"]})],
            "line 2: label: expected a whole number",
        ),
        (
            Task::MultiLabel,
            [json!({"text": "one", "labels": ["x"]}), json!({"text": "two", "labels": [0]})],
            "line 2: label: expected a name",
        ),
        (
            Task::TokenCls,
            [json!({"tokens": ["one"], "tags": [1]}), json!({"tokens": ["two"], "tags": ["x"]})],
            "line 2: label: expected a whole number",
        ),
    ] {
        let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(task) };
        let error = read("a.jsonl", &content.map(|row| row.to_string()).join("\n"), &reading).expect_err("a number and a name");
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
    }
    Ok(())
}

#[test]
fn a_pair_is_cut_at_its_longer_text_and_never_loses_one() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let reading = Reading { tokenizer: Some(&tokenizer), max_length: Some(7), ..Reading::for_task(Task::SeqCls) };
    for (row, ids, segments) in [
        (r#"{"text": "one two three four five", "text_pair": "six", "label": 0}"#, [3, 10, 11, 12, 4, 15, 4], [0, 0, 0, 0, 0, 1, 1]),
        (r#"{"text": "one", "text_pair": "two three four five", "label": 0}"#, [3, 10, 4, 11, 12, 13, 4], [0, 0, 0, 1, 1, 1, 1]),
    ] {
        let dataset = read("a.jsonl", row, &reading)?;
        assert_eq!(
            (&dataset.examples.get(0).input_ids[..], &dataset.examples.get(0).token_type_ids[..]),
            (&ids[..], &segments[..]),
            "{row}"
        );
    }
    let (_folder, plain) = tokenizer_without_pairs()?;
    let reading = Reading { tokenizer: Some(&plain), ..reading };
    // As transformers joins them where the tokenizer has nothing to put between.
    let joined = read("a.jsonl", r#"{"text": "one", "text_pair": "two three", "label": 0}"#, &reading)?;
    assert_eq!((&joined.examples.get(0).input_ids[..], &joined.examples.get(0).token_type_ids[..]), (&[10, 11, 12][..], &[0, 1, 1][..]));
    Ok(())
}

fn tokenizer_without_pairs() -> Result<(tempfile::TempDir, super::Tokenizer)> {
    let (folder, _) = tokenizer([&[], &[]], &json!({}))?;
    let file = folder.path().join("tokenizer.json");
    let mut parts: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?).expect("JSON");
    parts["post_processor"] = serde_json::Value::Null;
    std::fs::write(&file, parts.to_string())?;
    let tokenizer = super::Tokenizer::open(folder.path())?;
    Ok((folder, tokenizer))
}

#[test]
fn messages_of_weight_0_are_shown_and_not_learnt() -> Result<()> {
    let (_folder, tokenizer) = causal()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::CausalLm) };
    let row = |weight: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "one"}}, {{"role": "assistant", "content": "two"{weight}}}, {{"role": "user", "content": "three"}}, {{"role": "assistant", "content": "four"}}]}}"#
        )
    };
    let count = |weight: &str| read("a.jsonl", &row(weight), &reading).map(|dataset| (dataset.summary.tokens, dataset.summary.labels));
    assert_eq!([count("")?, count(r#", "weight": 1"#)?, count(r#", "weight": 0"#)?], [(12, 4), (12, 4), (12, 2)]);
    let half = count(r#", "weight": 0.5"#).unwrap_err();
    assert!(half.to_string().contains("messages that weigh differently") && half.hint().is_some(), "{half}");
    let below = count(r#", "weight": -1"#).unwrap_err();
    assert!(below.to_string().contains("weight of a message: expected a number, 0 or more"), "{below}");
    Ok(())
}

#[test]
fn a_tokenizer_of_another_model_is_refused_with_both_sizes() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let limits = Limits { vocabulary: Some(9), ..Limits::default() };
    let reading = Reading { tokenizer: Some(&tokenizer), limits, ..Reading::for_task(Task::SeqCls) };
    let error = read("a.jsonl", r#"{"text": "one", "label": 0}"#, &reading).unwrap_err();
    assert!(error.to_string().contains("wrong tokenizer: it has 22 tokens, the model 9"), "{error}");
    assert_eq!(error.hint(), Some("it was named with `tokenizer`; name the one that came with the model with `tokenizer`"));
    // Rows of tokens need none.
    assert!(read("a.jsonl", r#"{"input_ids": [1], "label": 0}"#, &reading).is_ok());
    Ok(())
}

#[test]
fn a_text_ends_at_every_token_that_the_files_name() -> Result<()> {
    for (generation, model, expected) in [
        (json!({"eos_token_id": [5, 8]}), json!({"eos_token_id": 7}), vec![2, 5, 8]),
        (json!({"eos_token_id": 5}), json!({}), vec![2, 5]),
        (json!({}), json!({"eos_token_id": [7]}), vec![2, 7]),
        (json!({}), json!({"text_config": {"eos_token_id": 7}}), vec![2, 7]),
    ] {
        let (folder, tokenizer) = causal()?;
        std::fs::write(folder.path().join("generation_config.json"), generation.to_string())?;
        std::fs::write(folder.path().join("config.json"), model.to_string())?;
        assert_eq!(tokenizer.stops(&[])?, expected, "{generation} {model}");
        assert_eq!(tokenizer.end_of_turn(), Some(8));
        let other = tempfile::tempdir()?;
        std::fs::write(other.path().join("generation_config.json"), json!({"eos_token_id": 9}).to_string())?;
        assert!(tokenizer.stops(&[other.path().to_path_buf()])?.contains(&9));
    }
    Ok(())
}

#[test]
fn columns_with_the_names_of_the_models_inputs_go_there() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let inputs =
        [("tokens", Role::InputIds), ("valid", Role::AttentionMask(MaskForm::Seen)), ("ages", Role::Column), ("text", Role::Column)];
    let feeding = Feeding { inputs: inputs.map(|(name, role)| (name.to_owned(), role)).into_iter().collect(), ..Feeding::default() };
    let reading = Reading { tokenizer: Some(&tokenizer), feeding: Some(&feeding), max_length: Some(2), ..Reading::for_task(Task::SeqCls) };
    for (file, content) in [
        ("a.jsonl", r#"{"tokens": [5, 6, 7], "valid": [1, 1, 0], "ages": [[0.5, 1], [2, 3], [4, 5]], "label": 1}"#),
        ("a.csv", "tokens,valid,ages,label\n\"[5,6,7]\",\"[1,1,0]\",\"[[0.5,1],[2,3],[4,5]]\",1\n"),
    ] {
        let dataset = read(file, content, &reading)?;
        let example = &dataset.examples.get(0);
        assert_eq!((&example.input_ids[..], &example.attention_mask[..], &example.labels), (&[5, 6][..], &[1, 1][..], &Labels::Class(1)));
        let ages = &example.columns["ages"];
        assert_eq!((&ages.shape[..], &ages.values[..], example.columns.len()), (&[2, 2][..], &[0.5, 1.0, 2.0, 3.0][..], 1));
    }
    // Rows of nothing else; and a text is a text, whatever the input is called.
    let dataset = read("a.jsonl", r#"{"ages": 3, "label": 1}"#, &reading)?;
    assert_eq!((&dataset.examples.get(0).columns["ages"].values[..], &dataset.examples.get(0).input_ids[..]), (&[3.0][..], &[][..]));
    let dataset = read("a.jsonl", r#"{"text": "one", "ages": [1], "label": 1}"#, &Reading { max_length: None, ..reading })?;
    assert_eq!((&dataset.examples.get(0).input_ids[..], dataset.examples.get(0).columns.len()), (&[3, 10, 4][..], 1));
    Ok(())
}

#[test]
fn an_input_of_the_model_may_be_called_as_a_role_that_the_task_has_no_use_for() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    for name in ["score", "image", "audio", "text_pair", "query", "passage", "answers", "tags", "rejected"] {
        let inputs = [("input_ids", Role::InputIds), (name, Role::Column)];
        let feeding = Feeding { inputs: inputs.map(|(name, role)| (name.to_owned(), role)).into_iter().collect(), ..Feeding::default() };
        let reading = Reading { tokenizer: Some(&tokenizer), feeding: Some(&feeding), ..Reading::for_task(Task::SeqCls) };
        let row = json!({"input_ids": [5, 6], name: [0.5, 2], "label": 1});
        let dataset = read("a.jsonl", &row.to_string(), &reading)?;
        let example = &dataset.examples.get(0);
        assert_eq!((&example.input_ids[..], &example.labels), (&[5, 6][..], &Labels::Class(1)), "{name}");
        assert_eq!(example.columns.get(name).map(|numbers| &numbers.values[..]), Some(&[0.5, 2.0][..]), "{name}");
    }
    Ok(())
}

#[test]
fn a_role_has_one_column() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let columns = map(&["a=text", "b=text"])?;
    let reading = Reading { tokenizer: Some(&tokenizer), columns: &columns, ..Reading::for_task(Task::SeqCls) };
    let error = read("a.csv", "a,b,label\none,two,1\n", &reading).unwrap_err().to_string();
    assert!(error.contains("the columns a and b are both mapped to text"), "{error}");
    let columns = map(&["a=ignore", "b=ignore", "c=text"])?;
    let dataset = read("a.csv", "a,b,c,label\none,two,one,1\n", &Reading { columns: &columns, ..reading })?;
    assert_eq!(dataset.examples.len(), 1);
    Ok(())
}
