//! One small classifier in the forms that exporters give its inputs: other names, types, masks, lengths, more inputs. Fed by what its inputs are for,
//! it learns the same in all of them.

use std::path::Path;

use crate::common::{Folder, done, json_of, number, numbers, refused};
use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use serde_json::{Value, json};

/// How the mask is read.
#[derive(Clone, Copy, PartialEq)]
enum Mask {
    /// 1 where there is a token, `[batch, seq]`.
    Seen,
    /// 1 where there is none.
    Hidden,
    /// Added to the scores, `[batch, 1, 1, seq]`.
    Added,
    /// The same, `[batch, 1, seq, seq]`.
    AddedSquare,
    /// True where scores stay, `[batch, 1, seq, seq]`.
    KeptSquare,
    /// How many tokens each row has, `[batch]`.
    Lengths,
    Absent,
}

/// What the model has beside tokens and a mask.
#[derive(Clone, Copy, PartialEq)]
enum More {
    /// Positions and types, by these names.
    Positions(&'static str, &'static str),
    /// Positions of these axes, in an input of their usual name.
    PositionsOf(&'static [&'static str]),
    /// Marks of tokens that the data has a column for, by this name.
    Marks(&'static str),
    /// Which heads there are, `[layers, heads]`.
    HeadMask,
    /// Numbers that the data has columns for.
    Columns,
    Dropout,
    /// The same, told by an input whether to drop.
    ToldDropout,
    /// Labels, and a loss of its own.
    Labels,
    Nothing,
}

#[derive(Clone, Copy)]
struct Form {
    ids: &'static str,
    ids_type: DType,
    mask: &'static str,
    mask_type: DType,
    how: Mask,
    /// Lengths that the inputs declare, 0 for any.
    batch: i64,
    length: i64,
    /// The number of rows that is written inside the graph, 0 for any.
    inside: i64,
    more: More,
    /// Whether tables keep their names.
    is_named: bool,
}

const PLAIN: Form = Form {
    ids: "input_ids",
    ids_type: DType::I64,
    mask: "attention_mask",
    mask_type: DType::I64,
    how: Mask::Seen,
    batch: 0,
    length: 0,
    inside: 0,
    more: More::Nothing,
    is_named: true,
};

/// A form's graph while it is written.
struct Writing<'g> {
    b: &'g Builder,
    form: Form,
}

impl<'g> Writing<'g> {
    fn weight(&self, name: &str, shape: &[usize]) -> Expr<'g> {
        let known = [
            ("tok", "bert.embeddings.word_embeddings.weight"),
            ("pos", "bert.embeddings.position_embeddings.weight"),
            ("seg", "bert.embeddings.token_type_embeddings.weight"),
        ];
        let kept = known.iter().find(|(short, _)| *short == name && self.form.is_named).map(|(_, kept)| (*kept).to_owned());
        self.b.initializer(&kept.unwrap_or_else(|| format!("{name}_w")), numbers(name, shape))
    }

    fn input(&self, name: &str, dtype: DType, axes: &[&str]) -> Expr<'g> {
        let length = |axis: &&str| match (*axis, self.form.batch, self.form.length) {
            ("batch", known @ 1.., _) | ("seq", _, known @ 1..) => Dim::known(known),
            ("1", ..) => Dim::known(1),
            ("2", ..) => Dim::known(2),
            ("3", ..) => Dim::known(3),
            _ => Dim::symbol(axis),
        };
        self.b.input(name, dtype, &axes.iter().map(length).collect::<Vec<_>>())
    }

    fn rows(&self, table: &str, rows: usize, indices: Expr<'g>) -> Expr<'g> {
        self.weight(table, &[rows, 8]).gather(indices, 0)
    }

    fn embedded(&self, ids: Expr<'g>) -> Expr<'g> {
        let x = self.rows("tok", 50, ids);
        match self.form.more {
            More::Positions(positions, types) => {
                let [positions, types] = [positions, types].map(|name| self.input(name, DType::I64, &["batch", "seq"]));
                x + self.rows("pos", 40, positions) + self.rows("seg", 2, types)
            }
            More::PositionsOf(axes) => x + self.rows("pos", 40, self.input("position_ids", DType::I64, axes)),
            More::Marks(name) => {
                let marks = self.input(name, DType::I64, &["batch", "seq"]).cast(DType::F32).unsqueeze(&[2]);
                x + marks * self.weight("marked", &[8])
            }
            More::Columns => x + self.rows("role", 5, self.input("roles", DType::I32, &["batch", "seq"])),
            More::Dropout => {
                let training = self.b.initializer("training", Tensor::new(DType::Bool, vec![], vec![1].into()).expect("a byte"));
                self.b.op("Dropout", &[x, self.b.number(0.3, DType::F32), training], &[])
            }
            More::ToldDropout => {
                let training = self.input("training", DType::Bool, &[]);
                self.b.op("Dropout", &[x, self.b.number(0.3, DType::F32), training], &[])
            }
            More::Labels | More::HeadMask | More::Nothing => x,
        }
    }

    fn heads(&self, x: Expr<'g>, weight: &str) -> Expr<'g> {
        let seq = if self.form.inside > 0 { -1 } else { 0 };
        x.matmul(self.weight(weight, &[8, 8])).reshape(&[self.form.inside, seq, 2, 4]).transpose(&[0, 2, 1, 3])
    }

    fn masked(&self, scores: Expr<'g>, ids: Expr<'g>) -> Expr<'g> {
        let Form { mask, mask_type, how, .. } = self.form;
        let b = self.b;
        let low = b.number(-1e9, DType::F32);
        let kept = |keep: Expr<'g>| keep.where_(scores, low);
        match how {
            Mask::Absent => scores,
            Mask::Seen => {
                let seen = self.input(mask, mask_type, &["batch", "seq"]).unsqueeze(&[1, 2]).cast(DType::F32);
                scores + (1.0 - seen) * -1e9
            }
            Mask::Hidden => self.input(mask, mask_type, &["batch", "seq"]).unsqueeze(&[1, 2]).cast(DType::Bool).where_(low, scores),
            Mask::Added => scores + self.input(mask, DType::F32, &["batch", "1", "1", "seq"]),
            Mask::AddedSquare => scores + self.input(mask, DType::F32, &["batch", "1", "seq", "seq"]),
            Mask::KeptSquare => kept(self.input(mask, DType::Bool, &["batch", "1", "seq", "seq"])),
            Mask::Lengths => {
                let lengths = self.input(mask, DType::I32, &["batch"]).cast(DType::I64).unsqueeze(&[1]);
                let places = ids.length(1).reshape(&[]).range_from(b.int(0)).unsqueeze(&[0]);
                kept(b.op("Less", &[places, lengths], &[]).unsqueeze(&[1, 2]))
            }
        }
    }
}

fn write(form: Form, path: &str) {
    let b = Builder::new(ModelInfo::dialect());
    let at = Writing { b: &b, form };
    let ids = at.input(form.ids, form.ids_type, &["batch", "seq"]);
    let x = at.embedded(ids);
    let scores = at.heads(x, "q").matmul(at.heads(x, "k").transpose(&[0, 1, 3, 2])) * 0.5;
    let mixed = at.masked(scores, ids).softmax(-1).matmul(at.heads(x, "v"));
    let mixed = match form.more {
        More::HeadMask => mixed * at.input("head_mask", DType::F32, &["1", "2"]).reshape(&[1, 2, 1, 1]),
        _ => mixed,
    };
    let joined = mixed.transpose(&[0, 2, 1, 3]).reshape(&[0, 0, 8]);
    let first = (joined.matmul(at.weight("o", &[8, 8])) + x).gather(b.int(0), 1);
    let first = match form.more {
        More::Columns => first + at.input("features", DType::F32, &["batch", "3"]).matmul(at.weight("fw", &[3, 8])),
        _ => first,
    };
    let logits = b.scoped("/classifier", || first.matmul(at.weight("c", &[8, 2])));
    if form.more == More::Labels {
        let labels = at.input("labels", DType::I64, &["batch"]);
        b.output("loss", b.op("SoftmaxCrossEntropyLoss", &[logits, labels], &[("reduction", Attr::Str("mean".into()))]));
    }
    b.output("logits", logits);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

/// Rows of different lengths, with the tokens under this name.
fn rows(tokens: &str, more: More) -> String {
    let texts: [&[i64]; 6] = [&[5, 9, 12, 30, 7, 3], &[4, 8, 15], &[2, 3, 4, 5], &[9, 8, 7, 6, 5], &[11, 12, 13], &[21, 22]];
    let row = |(at, text): (usize, &&[i64])| {
        let mut row = json!({ tokens: text, "label": (at + 1) % 2 });
        if more == More::Columns {
            row["roles"] = vec![1; text.len()].into();
            row["features"] = json!([0.1, 0.2, -0.3]);
        }
        if let More::Marks(name) = more {
            row[name] = (0..text.len()).map(|place| place % 2).collect::<Vec<_>>().into();
        }
        row.to_string()
    };
    texts.iter().enumerate().map(row).collect::<Vec<_>>().join("\n")
}

/// The losses of three steps, of the adapter that came out, and of the model without it.
fn losses(form: Form, data: &str, batch_size: &str) -> Vec<f64> {
    let folder = Folder::empty();
    let (model, bundle, data) = (folder.path("model.onnx"), folder.path("bundle"), folder.write("rows.jsonl", data));
    write(form, &model);
    done(&["inject", &model, "--method", "lora", "-r", "2", "--target-modules", "all-linear", "--task", "seq-cls", "-o", &bundle, "-q"]);
    done(&["plan", &bundle, "--memory", "8GB"]);
    let options =
        ["--max-steps", "3", "--no-shuffle", "--learning-rate", "1e-2", "--lr-scheduler", "constant", "--warmup-steps", "0", "-q"];
    done(&[&["train", &bundle, "--data", &data, "--batch-size", batch_size], &options[..]].concat());
    let run = std::fs::read_dir(Path::new(&bundle).join("runs")).expect("runs").next().expect("a run").expect("a folder").path();
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut all: Vec<f64> = lines.filter(|line| line.get("learning_rate").is_some()).map(|line| number(&line["loss"])).collect();
    all.push(number(&json_of(&["eval", &bundle, "--data", &data])["loss"]));
    all
}

/// Holds forms to the first one.
fn learn_alike(forms: &[(&str, Form)]) {
    let of = |form: Form| losses(form, &rows("input_ids", form.more), "4");
    let wanted = of(forms[0].1);
    let mut wrong = vec![];
    for (what, form) in &forms[1..] {
        let found = of(*form);
        let is_same = found.len() == wanted.len() && found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 2e-5);
        if !is_same {
            wrong.push(format!("{what}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "expected {wanted:?}, found\n{}", wrong.join("\n"));
}

#[test]
fn names_and_types_of_inputs_make_no_difference() {
    let named = |ids, mask| Form { ids, mask, ..PLAIN };
    learn_alike(&[
        ("plain", PLAIN),
        ("x", named("x", "valid")),
        ("ids", named("ids", "mask")),
        ("input.1", named("input.1", "onnx::Cast_1")),
        ("tokens", named("tokens", "segment_mask")),
        ("input_ids:0", named("input_ids:0", "attention_mask:0")),
        ("images", named("images", "am")),
        ("target", named("target", "m")),
        ("int32 ids", Form { ids_type: DType::I32, ..PLAIN }),
        ("int32 mask", Form { mask_type: DType::I32, ..PLAIN }),
        ("float mask", Form { mask_type: DType::F32, ..PLAIN }),
        ("bool mask", Form { mask_type: DType::Bool, ..PLAIN }),
    ]);
}

#[test]
fn forms_of_masks_make_no_difference() {
    let hidden = |mask_type| Form { mask: "pad", mask_type, how: Mask::Hidden, ..PLAIN };
    let other = |how| Form { mask: "m1", how, ..PLAIN };
    learn_alike(&[
        ("plain", PLAIN),
        ("hidden", hidden(DType::I64)),
        ("hidden, bool", hidden(DType::Bool)),
        ("hidden, float", hidden(DType::F32)),
        ("added", other(Mask::Added)),
        ("added, square", other(Mask::AddedSquare)),
        ("kept, square", other(Mask::KeptSquare)),
        ("lengths", other(Mask::Lengths)),
    ]);
}

#[test]
fn lengths_that_a_graph_insists_on_make_no_difference() {
    learn_alike(&[
        ("plain", PLAIN),
        ("4 x 8", Form { batch: 4, length: 8, ..PLAIN }),
        ("1 x 8", Form { batch: 1, length: 8, ..PLAIN }),
        ("any x 8", Form { length: 8, ..PLAIN }),
        ("2 x any", Form { batch: 2, ..PLAIN }),
        ("1 row inside", Form { inside: 1, ..PLAIN }),
        ("3 rows inside", Form { inside: 3, ..PLAIN }),
    ]);
}

/// A tracer left the length of its example inside of a language model, whose axes are declared free.
#[test]
fn the_length_inside_of_a_language_model_is_its_length() {
    let loss = |length: Option<i64>| {
        let folder = Folder::empty();
        let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let table = b.initializer("embed.weight", crate::common::numbers("table", &[32, 8]));
        let x = b.scoped("/embed", || table.gather(ids, 0));
        let x = length.map_or(x, |length| x.reshape(&[-1, length, 8]));
        let fc = b.initializer("fc.weight", crate::common::numbers("fc", &[8, 8]));
        let x = b.scoped("/fc", || x.matmul(fc)).tanh() + x;
        let head = b.initializer("lm_head.weight", crate::common::numbers("head", &[8, 32]));
        b.output("logits", b.scoped("/lm_head", || x.matmul(head)));
        onnx::write(&b.finish().expect("a valid graph"), Path::new(&model), &WriteOptions::default()).expect("it is written");
        let data = folder.write("rows.jsonl", "{\"input_ids\": [5, 9, 12, 30, 7]}\n{\"input_ids\": [4, 8, 15]}\n");
        done(&["inject", &model, "--method", "lora", "-r", "2", "--target-modules", "fc", "--task", "causal-lm", "-o", &bundle, "-q"]);
        done(&["train", &bundle, "--data", &data, "--max-steps", "2", "--no-shuffle", "-q"]);
        number(&json_of(&["eval", &bundle, "--data", &data])["loss"])
    };
    let (free, inside) = (loss(None), loss(Some(8)));
    assert!((free - inside).abs() < 2e-5, "{free} {inside}");
}

#[test]
fn inputs_beside_tokens_and_mask_are_fed() {
    let with = |more| Form { more, ..PLAIN };
    learn_alike(&[
        ("plain", PLAIN),
        ("dropout", with(More::Dropout)),
        ("dropout as an input tells", with(More::ToldDropout)),
        ("labels", with(More::Labels)),
    ]);
    let positions = |positions, types, ids, is_named| Form { more: More::Positions(positions, types), ids, is_named, ..PLAIN };
    learn_alike(&[
        ("positions and types", positions("position_ids", "token_type_ids", "input_ids", true)),
        ("of other names", positions("p", "t", "a", true)),
        ("of other names, with tables without names", positions("p", "t", "a", false)),
    ]);
    learn_alike(&[
        ("positions of each row", with(More::PositionsOf(&["batch", "seq"]))),
        ("of all rows", with(More::PositionsOf(&["seq"]))),
        ("of all rows, with an axis for them", with(More::PositionsOf(&["1", "seq"]))),
    ]);
    learn_alike(&[("plain", PLAIN), ("heads that may be left out", with(More::HeadMask))]);
    let columns = Form { more: More::Columns, ..PLAIN };
    learn_alike(&[("columns of the data", columns), ("one row at a time", Form { batch: 1, ..columns })]);
}

#[test]
fn a_second_mask_is_what_its_column_says_whatever_it_is_called() {
    let marks = |name| Form { more: More::Marks(name), ..PLAIN };
    let names = ["zz", "entity_mask", "global_attention_mask", "valid_words", "weights", "weight"];
    learn_alike(&names.map(|name| (name, marks(name))));
    let folder = Folder::empty();
    let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    write(marks("entity_mask"), &model);
    done(&["inject", &model, "--method", "lora", "--target-modules", "all-linear", "--task", "seq-cls", "-o", &bundle, "-q"]);
    let data = folder.write("rows.jsonl", &rows("input_ids", More::Nothing));
    refused(&["train", &bundle, "--data", &data, "-q"], &["no column named \"entity_mask\"", "hint: "]);
    // What no data is asked for needs no column.
    done(&["merge", &bundle, "-o", &folder.path("merged.onnx"), "-q"]);
    done(&["check", &bundle, "-q"]);
}

#[test]
fn without_a_mask_rows_are_not_filled_up() {
    let form = Form { how: Mask::Absent, ..PLAIN };
    learn_alike(&[("no mask", form), ("one row at a time", Form { batch: 1, ..form }), ("of another name", Form { ids: "q", ..form })]);
}

#[test]
fn columns_of_the_data_may_have_the_graphs_own_names() {
    let form = Form { ids: "tok_in", mask: "m9", ..PLAIN };
    let (own, usual) = (losses(form, &rows("tok_in", More::Nothing), "4"), losses(PLAIN, &rows("input_ids", More::Nothing), "4"));
    assert!(own.iter().zip(&usual).all(|(a, b)| (a - b).abs() < 2e-5), "{own:?} and {usual:?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of models")]
fn models_that_rows_cannot_be_fed_to_or_that_labels_do_not_stand_beside_are_refused() {
    type Write = for<'g> fn(&'g Builder, &dyn Fn(&str, &[usize]) -> Expr<'g>) -> Expr<'g>;
    struct Row(&'static str, &'static str, Write, &'static [&'static str]);
    let refusals = [
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("seq_len"), Dim::symbol("batch_size")]);
                weight("embed.weight", &[50, 8])
                    .gather(ids.t(), 0)
                    .matmul(weight("fc.weight", &[8, 8]))
                    .mean(&[1])
                    .squeeze(&[1])
                    .matmul(weight("c.weight", &[8, 2]))
            },
            &["input_ids", "its second axis is the batch", "batch_first"],
        ),
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("s"), Dim::symbol("b")]);
                let seen = b.input("attention_mask", DType::F32, &[Dim::symbol("b"), Dim::symbol("s")]);
                let x = weight("embed.weight", &[50, 8]).gather(ids.t(), 0).matmul(weight("fc.weight", &[8, 8]));
                let pooled = (x * seen.unsqueeze(&[2])).sum(&[1]).squeeze(&[1]);
                pooled.matmul(weight("c.weight", &[8, 2]))
            },
            &["input_ids int64[s, b] and attention_mask float[b, s]"],
        ),
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let both = b.input("attention_mask", DType::I64, &[Dim::symbol("b"), Dim::known(2), Dim::symbol("s")]);
                let seen = both.gather(b.int(1), 1).cast(DType::F32).unsqueeze(&[2]);
                let x = weight("embed.weight", &[50, 8]).gather(both.gather(b.int(0), 1), 0).matmul(weight("fc.weight", &[8, 8]));
                (x * seen).sum(&[1]).squeeze(&[1]).matmul(weight("c.weight", &[8, 2]))
            },
            &["the input attention_mask of shape int64[b, 2, s]", "a mask beside them"],
        ),
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("b"), Dim::known(3), Dim::symbol("s")]);
                let x = weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8]));
                x.mean(&[1, 2]).squeeze(&[1, 2]).matmul(weight("c.weight", &[8, 2]))
            },
            &["tokens of shape int64[b, 3, s]", "a row of data is one row of tokens"],
        ),
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
                let scale = b.input("scale", DType::F32, &[Dim::known(2), Dim::known(4)]).reshape(&[8]);
                let pooled = weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8])).mean(&[1]).squeeze(&[1]);
                (pooled * scale).matmul(weight("c.weight", &[8, 2]))
            },
            &["the input scale of type float[2, 4]", "its first axis is 2, whatever the batch"],
        ),
        Row(
            "logits",
            "seq-cls",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
                let warmth = b.input("temperature", DType::F32, &[]);
                let pooled = weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8])).mean(&[1]).squeeze(&[1]);
                pooled.matmul(weight("c.weight", &[8, 2])) / warmth
            },
            &["temperature", "no column of a data file fills it"],
        ),
        Row(
            "logits",
            "causal-lm",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
                let x = weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8]));
                x.slice(&[0], &[-1], &[1]).matmul(weight("lm_head.weight", &[8, 50]))
            },
            &["positions of logits: expected one for each token"],
        ),
        Row(
            "logits",
            "masked-lm",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
                let x = weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8]));
                x.slice(&[-1], &[i64::MAX], &[1]).matmul(weight("lm_head.weight", &[8, 50]))
            },
            &["positions of logits: expected one for each token"],
        ),
        Row(
            "sentence_embedding",
            "embedding",
            |b, weight| {
                let ids = b.input("input_ids", DType::I64, &[Dim::known(4), Dim::symbol("seq")]);
                weight("embed.weight", &[50, 8]).gather(ids, 0).matmul(weight("fc.weight", &[8, 8])).mean(&[1]).squeeze(&[1])
            },
            &["embedding with a model that computes 4 rows at a time"],
        ),
    ];
    for Row(output, task, write, said) in refusals {
        let folder = Folder::empty();
        let b = Builder::new(ModelInfo::dialect());
        let logits = write(&b, &|name, shape| b.initializer(name, numbers(name, shape)));
        b.output(output, logits);
        let path = folder.path("model.onnx");
        onnx::write(&b.finish().expect("a valid graph"), Path::new(&path), &WriteOptions::default()).expect("it is written");
        let inject = ["inject", &path, "--task", task, "--method", "lora", "--target-modules", "fc", "-o", &folder.path("bundle")];
        refused(&inject, &[said, &["hint: "]].concat());
    }
}
