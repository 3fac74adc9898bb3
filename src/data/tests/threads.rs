//! Rows are the same however many threads make examples of them.

use std::num::NonZeroUsize;

use super::*;

/// Rows of several pieces of work.
const ROWS: usize = 2000;

fn texts(row: usize) -> String {
    let words = WORDS.split(' ').skip(10).cycle().skip(row % 7).take(3 + row % 11);
    words.collect::<Vec<_>>().join(" ")
}

fn file_of(row: impl Fn(usize) -> serde_json::Value) -> String {
    (0..ROWS).map(|at| row(at).to_string() + "\n").collect()
}

#[test]
fn rows_are_the_same_on_any_number_of_threads() -> Result<()> {
    let (_causal, causal) = causal()?;
    let (_encoder, encoder) = encoder()?;
    let answer = |at: usize| json!({"question": "one", "context": format!("one two {}", texts(at)), "answers": {"text": ["two"], "answer_start": [4]}});
    for (tokenizer, task, content) in [
        (&causal, Task::CausalLm, file_of(|at| json!({"prompt": texts(at), "completion": texts(at + 1)}))),
        (
            &causal,
            Task::CausalLm,
            file_of(|at| json!({"messages": [{"role": "user", "content": texts(at)}, {"role": "assistant", "content": "one"}]})),
        ),
        (&encoder, Task::SeqCls, file_of(|at| json!({"text": texts(at), "label": (["a", "b", "c"][at % 3])}))),
        (&encoder, Task::Embedding, file_of(|at| json!({"anchor": texts(at), "positive": texts(at + 1), "negative": texts(at + 2)}))),
        // Windows of a text have a number that follows from those before.
        (&encoder, Task::Qa, file_of(answer)),
    ] {
        let reading = Reading { tokenizer: Some(tokenizer), max_length: Some(9), ..Reading::for_task(task) };
        let reading = Reading { stride: (task == Task::Qa).then_some(2), ..reading };
        let on = |threads| read("a.jsonl", &content, &Reading { threads: NonZeroUsize::new(threads), ..reading });
        let one = on(1)?;
        assert_eq!((one.summary.cut > 0, one.summary.rows), (task != Task::Qa, ROWS), "windows are not cut");
        for threads in [2, 5] {
            let several = on(threads)?;
            assert!(several.examples == one.examples && several.summary == one.summary, "{task:?} on {threads} threads");
            assert_eq!(several.class_names, one.class_names);
        }
    }
    Ok(())
}

#[test]
fn the_first_row_that_cannot_be_read_is_told_on_any_number_of_threads() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let row = |at: usize| json!({"anchor": texts(at), "positive": format!("{} one", texts(at + 1)), "negative": texts(at + 2)}).to_string();
    let rows = |changed: &[(usize, &str)]| {
        let mut lines: Vec<String> = (0..ROWS).map(row).collect();
        for (at, text) in changed {
            (*text).clone_into(&mut lines[*at]);
        }
        lines.join("\n")
    };
    let (empty, alone) = (r#"{"anchor": " ", "positive": "one", "negative": "two"}"#, r#"{"anchor": "one", "positive": "two"}"#);
    for (changed, expected) in [
        (vec![(1200, empty)], "line 1201: anchor: expected a text, found an empty one"),
        (vec![(1200, empty), (1900, empty)], "line 1201: anchor"),
        (vec![(1200, alone), (1300, empty)], "line 1201: texts in this row: expected 3, as in line 1, found 2"),
        (vec![(7, empty), (1100, alone)], "line 8: anchor"),
    ] {
        for threads in [1, 2, 5] {
            let reading =
                Reading { threads: NonZeroUsize::new(threads), tokenizer: Some(&tokenizer), ..Reading::for_task(Task::Embedding) };
            let error = read("a.jsonl", &rows(&changed), &reading).unwrap_err().to_string();
            assert!(error.contains(expected) && error.matches("a.jsonl").count() == 1, "{threads} threads: {error}");
        }
    }
    Ok(())
}
