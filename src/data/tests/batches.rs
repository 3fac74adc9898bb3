//! Examples to batches.

use serde_json::json;

use super::{encoder, read};
use crate::adapter::config::Task;
use crate::anatomy::{Feeding, Padding, Role};
use crate::data::{Batch, Batches, Collation, Cursor, Dataset, Example, Labels, Order, Reading};
use crate::error::Result;
use crate::ort::{Axis, ElementType, HostTensor, Port, Presence};
use crate::parallel::Share;
use crate::train::weights::WEIGHTS;

fn port(name: &str, element_type: ElementType, rank: usize) -> Port {
    Port { name: name.into(), element_type: Some(element_type), shape: vec![Axis::Free(String::new()); rank], presence: Presence::Required }
}

fn ports(names: &[&str]) -> Vec<Port> {
    names.iter().map(|name| port(name, ElementType::Int64, 2)).collect()
}

fn tensor(rows: &[&[i64]]) -> HostTensor {
    HostTensor::new([rows.len(), rows[0].len()], rows.concat()).expect("rows of equal length")
}

const LENGTHS: &str =
    "{\"input_ids\":[5]}\n{\"input_ids\":[6,7,8]}\n{\"input_ids\":[9,1]}\n{\"input_ids\":[2,3]}\n{\"input_ids\":[4,4,4,4]}";

#[test]
fn a_batch_is_as_long_as_its_longest_row() -> Result<()> {
    let dataset = read("a.jsonl", LENGTHS, &Reading::for_task(Task::CausalLm))?;
    let inputs = ports(&["input_ids", "trainable", "attention_mask", "position_ids", "token_type_ids", "labels"]);
    let mut batches = Batches::new(&dataset, &inputs, 2, Order::File, Collation { pad: 99, ..Collation::default() })?;
    let batch = batches.next_batch()?;
    let expected = [
        ("input_ids", tensor(&[&[5, 99, 99], &[6, 7, 8]])),
        ("attention_mask", tensor(&[&[1, 0, 0], &[1, 1, 1]])),
        ("position_ids", tensor(&[&[0, 0, 0], &[0, 1, 2]])),
        ("token_type_ids", tensor(&[&[0, 0, 0], &[0, 0, 0]])),
        ("labels", tensor(&[&[5, -100, -100], &[6, 7, 8]])),
    ];
    assert_eq!(batch.tensors, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    assert_eq!((counted(&batch), batch.tokens, batch.lines), (2, 4, vec![1, 2]));
    Ok(())
}

#[test]
fn rows_of_a_model_that_reads_its_last_position_are_filled_up_before_them() -> Result<()> {
    let rows = "{\"input_ids\":[5],\"label\":0,\"mine\":[7]}\n{\"input_ids\":[6,7,8],\"label\":1,\"mine\":[1,2,3]}";
    let inputs = [("mine".to_owned(), Role::Column)].into_iter().collect();
    let feeding = Feeding { padding: Padding::Before, inputs, ..Feeding::default() };
    let dataset = read("a.jsonl", rows, &Reading { feeding: Some(&feeding), ..Reading::for_task(Task::SeqCls) })?;
    let inputs = ports(&["input_ids", "attention_mask", "position_ids", "token_type_ids", "mine"]);
    let collation = Collation { pad: 99, feeding: feeding.clone(), ..Collation::default() };
    let batch = Batches::new(&dataset, &inputs, 2, Order::File, collation)?.next_batch()?;
    let expected = [
        ("input_ids", tensor(&[&[99, 99, 5], &[6, 7, 8]])),
        ("attention_mask", tensor(&[&[0, 0, 1], &[1, 1, 1]])),
        ("position_ids", tensor(&[&[0, 0, 0], &[0, 1, 2]])),
        ("token_type_ids", tensor(&[&[0, 0, 0], &[0, 0, 0]])),
        ("mine", tensor(&[&[0, 0, 7], &[1, 2, 3]])),
    ];
    assert_eq!(batch.tensors, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    Ok(())
}

#[test]
fn texts_of_rows_that_no_mask_hides_are_filled_up_to_the_longest_of_their_own_row() -> Result<()> {
    let text = |length: usize| Example { input_ids: vec![5; length], labels: Labels::Row, ..Example::default() };
    let row = |(first, second): (usize, usize)| Example { others: vec![text(second)], ..text(first) };
    let lengths = |task, padding| -> Result<Vec<(Vec<usize>, Vec<usize>)>> {
        let dataset = Dataset::of("rows".as_ref(), task, [(2, 3), (2, 5), (3, 1), (5, 2)].map(row).to_vec());
        let collation = Collation { feeding: Feeding { padding, ..Feeding::default() }, ..Collation::default() };
        assert_eq!(collation.parts_batches(&dataset, 4), padding == Padding::Read);
        let parts = Batches::new(&dataset, &ports(&["input_ids"]), 4, Order::File, collation)?.next_parts()?;
        Ok(parts.into_iter().map(|part| (part.places, part.tensors[0].1.shape().to_vec())).collect())
    };
    assert_eq!(lengths(Task::Embedding, Padding::Read)?, [(vec![0, 2], vec![4, 3]), (vec![1, 3], vec![4, 5])]);
    // No position sees what is behind it, and those of an answer alone are read.
    assert_eq!(lengths(Task::Preference, Padding::Later)?, [(vec![0, 1, 2, 3], vec![8, 5])]);
    Ok(())
}

#[test]
fn weights_are_given_with_every_batch_where_one_row_has_one() -> Result<()> {
    let row = |weight| Example { input_ids: vec![5], labels: Labels::Class(0), weight, ..Example::default() };
    let given = |weights: [Option<f64>; 2]| -> Result<Vec<bool>> {
        let dataset = Dataset::of("rows".as_ref(), Task::SeqCls, weights.map(row).to_vec());
        let inputs = [ports(&["input_ids"]), vec![port(WEIGHTS, ElementType::Float32, 1)]].concat();
        let mut batches = Batches::new(&dataset, &inputs, 1, Order::File, Collation::default())?;
        (0..2).map(|_| Ok(batches.next_batch()?.tensors.iter().any(|(name, _)| name == WEIGHTS))).collect()
    };
    assert_eq!(given([Some(2.0), None])?, [true, true]);
    assert_eq!(given([None, None])?, [false, false]);
    Ok(())
}

#[test]
fn batches_go_round_and_the_last_of_an_epoch_may_be_short() -> Result<()> {
    let dataset = read("a.jsonl", LENGTHS, &Reading::for_task(Task::CausalLm))?;
    let mut batches = Batches::new(&dataset, &ports(&["input_ids"]), 2, Order::File, Collation::default())?;
    let lines = (0..5).map(|_| batches.next_batch().map(|batch| batch.lines)).collect::<Result<Vec<_>>>()?;
    assert_eq!(lines, [vec![1, 2], vec![3, 4], vec![5], vec![1, 2], vec![3, 4]]);
    assert_eq!((batches.per_epoch(), batches.groups_per_epoch(2), batches.cursor()), (3, 2, Cursor { epoch: 1, position: 4 }));
    // The last group of an epoch has what is left of it.
    let groups = (0..3).map(|_| batches.next_group(2, Share::ALL)).collect::<Result<Vec<_>>>()?;
    let lines: Vec<Vec<_>> = groups.into_iter().map(|group| group.batches.into_iter().map(|batch| batch.lines).collect()).collect();
    assert_eq!(lines, [vec![vec![5]], vec![vec![1, 2], vec![3, 4]], vec![vec![5]]]);
    assert!(Batches::new(&dataset, &[], 0, Order::File, Collation::default()).is_err());
    Ok(())
}

#[test]
fn processes_read_each_row_once_and_lose_none() -> Result<()> {
    let dataset = read("a.jsonl", LENGTHS, &Reading::for_task(Task::CausalLm))?;
    let order = Order::Shuffled { seed: 3 };
    for (micro_batch, size, count) in [(None, 2, 1), (None, 3, 2), (Some(1), 2, 2), (Some(1), 4, 1)] {
        let collation = Collation { micro_batch, ..Collation::default() };
        let groups = |share| -> Result<Vec<_>> {
            let mut batches = Batches::new(&dataset, &ports(&["input_ids", "labels"]), 2, order, collation.clone())?;
            (0..4).map(|_| Ok((batches.next_group(count * size, share)?, batches.cursor()))).collect()
        };
        let whole = groups(Share::ALL)?;
        let shares = (0..size).map(|rank| groups(Share { rank, size })).collect::<Result<Vec<_>>>()?;
        for (step, (expected, cursor)) in whole.into_iter().enumerate() {
            let mut parts: Vec<Batch> = shares.iter().flat_map(|share| share[step].0.batches.clone()).collect();
            parts.sort_by_key(|batch| batch.number);
            assert_eq!(parts, expected.batches, "{micro_batch:?} {size} {count}");
            assert!(shares.iter().all(|share| share[step].0.lines == expected.lines && share[step].1 == cursor));
        }
    }
    Ok(())
}

#[test]
fn a_shuffled_run_goes_on_where_it_stopped() -> Result<()> {
    let dataset = read("a.jsonl", LENGTHS, &Reading::for_task(Task::CausalLm))?;
    let new = || Batches::new(&dataset, &ports(&["input_ids", "labels"]), 2, Order::Shuffled { seed: 3 }, Collation::default());
    let mut whole = new()?;
    let mut cursors = vec![];
    let mut expected = vec![];
    for _ in 0..12 {
        cursors.push(whole.cursor());
        expected.push(whole.next_batch()?);
    }
    for start in 0..12 {
        let mut resumed = new()?;
        resumed.seek(serde_json::from_value(json!(cursors[start])).expect("a cursor reads what it wrote"));
        for batch in &expected[start..] {
            assert_eq!(&resumed.next_batch()?, batch, "from batch {start}");
        }
    }
    for epoch in expected.chunks(3) {
        let mut lines: Vec<usize> = epoch.iter().flat_map(|batch| batch.lines.clone()).collect();
        lines.sort_unstable();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
    }
    Ok(())
}

#[test]
fn inputs_have_the_types_and_ranks_that_the_graph_asks_for() -> Result<()> {
    let dataset = read("a.jsonl", "{\"input_ids\":[5,6],\"label\":1}\n{\"input_ids\":[7],\"label\":0}", &Reading::for_task(Task::SeqCls))?;
    let mut past = port("past_key_values.0.key", ElementType::Float16, 4);
    past.shape[1] = Axis::Known(3);
    past.shape[3] = Axis::Known(8);
    let optional = Port { presence: Presence::Optional, ..port("past_noise", ElementType::Float32, 1) };
    let inputs = [
        port("input_ids", ElementType::Int32, 2),
        port("attention_mask", ElementType::Float32, 2),
        port("labels", ElementType::Int64, 1),
        port("use_cache_branch", ElementType::Bool, 1),
        past,
        optional,
    ];
    let batch = Batches::new(&dataset, &inputs, 2, Order::File, Collation::default())?.next_batch()?;
    let expected = [
        ("input_ids", HostTensor::new([2, 2], vec![5_i32, 6, 7, 0])?),
        ("attention_mask", HostTensor::new([2, 2], vec![1.0_f32, 1.0, 1.0, 0.0])?),
        ("labels", HostTensor::vector(vec![1_i64, 0])),
        ("use_cache_branch", HostTensor::vector(vec![false])),
        ("past_key_values.0.key", HostTensor::zeros(ElementType::Float16, [2, 3, 0, 8])),
    ];
    assert_eq!(batch.tensors, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    assert_eq!((counted(&batch), batch.tokens), (2, 3));
    let error = Batches::new(&dataset, &ports(&["labels"]), 2, Order::File, Collation::default())?.next_batch().unwrap_err();
    assert!(
        error.to_string().ends_with("tensor labels: line 1: labels: expected one for each token, found a class for the row"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_decoder_reads_the_labels_one_place_to_the_right() -> Result<()> {
    let content = "{\"input_ids\":[5,6],\"labels\":[7,8,2]}\n{\"input_ids\":[5],\"labels\":[9]}";
    let dataset = read("a.jsonl", content, &Reading::for_task(Task::Seq2SeqLm))?;
    let collation = Collation { pad: 0, decoder_start: Some(1), ..Collation::default() };
    let inputs = ports(&["input_ids", "decoder_input_ids", "decoder_attention_mask", "labels"]);
    let batch = Batches::new(&dataset, &inputs, 2, Order::File, collation)?.next_batch()?;
    let expected = [
        ("input_ids", tensor(&[&[5, 6], &[5, 0]])),
        ("decoder_input_ids", tensor(&[&[1, 7, 8], &[1, 0, 0]])),
        ("decoder_attention_mask", tensor(&[&[1, 1, 1], &[1, 1, 1]])),
        ("labels", tensor(&[&[7, 8, 2], &[9, -100, -100]])),
    ];
    assert_eq!(batch.tensors, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    assert_eq!(counted(&batch), 4);
    Ok(())
}

#[test]
fn images_are_stacked() -> Result<()> {
    let content = "{\"pixel_values\":[[[1,2],[3,4]]],\"label\":0}\n{\"pixel_values\":[[[5,6],[7,8]]],\"label\":1}";
    let dataset = read("a.jsonl", content, &Reading::for_task(Task::ImageCls))?;
    let batch =
        Batches::new(&dataset, &[port("pixel_values", ElementType::Float32, 4)], 2, Order::File, Collation::default())?.next_batch()?;
    assert_eq!(batch.tensors[0].1, HostTensor::new([2, 1, 2, 2], (1_u8..9).map(f32::from).collect::<Vec<_>>())?);
    Ok(())
}

#[test]
fn a_masked_model_hides_tokens_of_its_own() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let reading = Reading { tokenizer: Some(&tokenizer), ..Reading::for_task(Task::MaskedLm) };
    let dataset = read("a.jsonl", r#"{"text": "one two three four five six seven"}"#, &reading)?;
    let mut batches = Batches::new(&dataset, &ports(&["input_ids", "labels"]), 1, Order::Shuffled { seed: 1 }, Collation::of(&tokenizer))?;
    let (first, second) = (batches.next_batch()?, batches.next_batch()?);
    assert_ne!(first.tensors, second.tensors);
    for batch in [first, second] {
        let labels = batch.tensors[1].1.as_i64()?;
        assert_eq!(counted(&batch), labels.iter().filter(|label| **label != -100).count());
        assert!(counted(&batch) > 0 && labels[0] == -100 && labels[8] == -100);
    }
    assert!(Batches::new(&dataset, &[], 1, Order::File, Collation::default()).is_err());
    Ok(())
}

/// The labels that count, which are whole ones where nothing weighs them.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
fn counted(batch: &Batch) -> usize {
    batch.label_count as usize
}

#[test]
fn rows_of_numbers_that_fill_up_a_batch_weigh_nothing() -> Result<()> {
    let (_folder, tokenizer) = encoder()?;
    let limits = crate::data::Limits { classes: Some(1), ..Default::default() };
    let reading = Reading { tokenizer: Some(&tokenizer), limits, ..Reading::for_task(Task::Regression) };
    let rows = "{\"text\": \"one\", \"label\": 1}\n{\"text\": \"two\", \"label\": 2}\n{\"text\": \"one\", \"label\": 3}";
    let dataset = read("a.jsonl", rows, &reading)?;
    let fixed = |name: &str, element_type, shape: Vec<Axis>| Port { shape, ..port(name, element_type, 0) };
    let ids = fixed("input_ids", ElementType::Int64, vec![Axis::Known(2), Axis::Free(String::new())]);
    let labels = fixed("labels", ElementType::Float32, vec![Axis::Known(2), Axis::Known(1)]);
    let weights = Port { presence: Presence::Optional, ..port("label_weights", ElementType::Float32, 1) };
    let mut batches = Batches::new(&dataset, &[ids.clone(), labels.clone(), weights], 2, Order::File, Collation::default())?;
    let of = |batch: &Batch| batch.tensors.iter().find(|(name, _)| name == "label_weights").map(|(_, weights)| weights.to_f32());
    let (whole, short) = (batches.next_batch()?, batches.next_batch()?);
    assert_eq!(of(&whole).transpose()?, Some(vec![1.0, 1.0]), "where one batch has weights, all have");
    assert_eq!(of(&short).transpose()?, Some(vec![1.0, 0.0]));
    assert_eq!((counted(&whole), counted(&short), short.rows.len()), (2, 1, 1));
    // Without weights nothing tells a filler.
    let mut batches = Batches::new(&dataset, &[ids, labels], 2, Order::File, Collation::default())?;
    batches.next_batch()?;
    assert!(batches.next_batch().is_err_and(|error| error.to_string().contains("rows in a batch")));
    Ok(())
}
