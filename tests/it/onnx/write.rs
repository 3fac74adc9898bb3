//! Writing: nothing lost, the same bytes each time, and weights stored where they are wanted.

use std::fs;
use std::path::Path;

use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, SparseTensorProto, StringStringEntryProto, TensorAnnotation, TensorProto,
};
use peft_onnx::ir::{Builder, DType, Dim, Graph, ModelInfo, Tensor};
use peft_onnx::onnx::{self, Lent, Storage, WriteOptions};

use super::make::{body, constant, elsewhere, floats, graph, int, model, node, opset, parse, save, string, typed, value, with};

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into(), ..StringStringEntryProto::default() }
}

/// A model with everything that the graph does not hold.
fn talkative() -> ModelProto {
    let words = vec![entry("k", "v")];
    let mut noted = with(with(node("call|my.domain:Op x w s -> y _ z"), "mode", string("m")), "scales", floats(&[1.5]));
    noted.doc_string = "what it does".into();
    noted.overload = "second".into();
    noted.metadata_props.clone_from(&words);
    noted.attribute[0].doc_string = "how".into();
    let label = TensorProto { doc_string: "the constant".into(), ..constant("named", &[1], &[2.0]) };
    let tensor = AttributeProto {
        type_: onnx_protobuf::attribute_proto::AttributeType::TENSOR.into(),
        t: Some(label).into(),
        ..AttributeProto::default()
    };
    noted.attribute.push(AttributeProto { name: "value".into(), ..tensor });
    let branch = |op: &str| {
        body(GraphProto { doc_string: "a branch".into(), ..graph(&[], &[node(&format!("{op} y -> b_{op}"))], &[&format!("b_{op}")]) })
    };
    let choice = with(with(node("If c -> out"), "then_branch", branch("Neg")), "else_branch", branch("Abs"));
    let indices = TensorProto { dims: vec![1], data_type: 7, int64_data: vec![1], ..TensorProto::default() };
    let sparse = SparseTensorProto {
        values: Some(constant("s", &[1], &[5.0])).into(),
        indices: Some(indices).into(),
        dims: vec![4],
        ..SparseTensorProto::default()
    };
    let annotation = TensorAnnotation {
        tensor_name: "y".into(),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "w")],
        ..TensorAnnotation::default()
    };
    let mut g = graph(&[value("x", &["batch", "2"]), typed("c", onnx_protobuf::tensor_proto::DataType::BOOL, &[])], &[noted, choice], &[]);
    g.output = vec![value("out", &["rows", "?"])];
    g.value_info = vec![value("y", &["batch", "2"]), value("nobody", &["3"])];
    g.initializer = vec![TensorProto { doc_string: "weights".into(), metadata_props: words.clone(), ..constant("w", &[1], &[3.0]) }];
    g.sparse_initializer = vec![sparse];
    g.quantization_annotation = vec![annotation];
    g.doc_string = "the graph".into();
    g.metadata_props.clone_from(&words);
    ModelProto {
        producer_name: "test".into(),
        model_version: 3,
        doc_string: "the model".into(),
        metadata_props: words,
        opset_import: vec![opset("", 18), opset("my.domain", 2)],
        functions: vec![onnx_protobuf::FunctionProto { name: "F".into(), domain: "f".into(), ..onnx_protobuf::FunctionProto::default() }],
        ..model(18, g)
    }
}

#[test]
fn an_untouched_graph_is_written_as_it_was() -> peft_onnx::Result<()> {
    let model = talkative();
    let saved = save(&model);
    let out = saved.folder.path().join("out.onnx");
    onnx::write(&onnx::read(&saved.path)?, &out, &WriteOptions::default())?;
    let mut back = parse(&out);
    // Words on names that nobody bears go first.
    back.graph.mut_or_insert_default().value_info.reverse();
    assert_eq!(back, model);
    let first = fs::read(&out)?;
    onnx::write(&onnx::read(&out)?, &out, &WriteOptions::default())?;
    assert_eq!(fs::read(&out)?, first);
    Ok(())
}

#[test]
fn files_of_the_first_versions_keep_their_initializers_among_the_inputs() -> peft_onnx::Result<()> {
    let mut g = graph(&[value("x", &["2"]), value("w", &["2"])], &[node("Mul x w -> y")], &["y"]);
    g.initializer = vec![constant("w", &[2], &[1.0, 2.0])];
    g.output = vec![value("y", &["2"])];
    let model = ModelProto { ir_version: 3, ..model(8, g) };
    let saved = save(&model);
    let out = saved.folder.path().join("out.onnx");
    onnx::write(&onnx::read(&saved.path)?, &out, &WriteOptions::default())?;
    assert_eq!(parse(&out), model);
    Ok(())
}

/// Three tensors: a small one, one above 1 KiB, one above 1 MiB.
fn three() -> GraphProto {
    let numbers =
        |name: &str, count: i16| constant(name, &[count.into(), 16], &(0..count).flat_map(|v| [f32::from(v); 16]).collect::<Vec<_>>());
    GraphProto {
        initializer: vec![numbers("small", 2), numbers("middle", 20), numbers("large", 20_000)],
        ..graph(&[], &[], &["small", "middle", "large"])
    }
}

fn location(path: &Path, name: &str) -> Option<(String, u64)> {
    let model = parse(path);
    let tensor = model.graph.initializer.iter().find(|tensor| tensor.name == name).expect("a tensor of that name");
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone());
    entry("location").map(|file| (file, entry("offset").expect("an offset").parse().expect("a number")))
}

fn same_weights(a: &Graph, b: &Graph) {
    let all = |graph: &Graph| {
        let named = graph.initializers().map(|(id, tensor)| (graph.value_name(id).to_owned(), tensor.clone()));
        named.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(all(a), all(b));
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).expect("a folder").map(|f| f.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn external_data_is_aligned_and_small_tensors_stay() -> peft_onnx::Result<()> {
    let saved = save(&model(18, three()));
    let read = onnx::read(&saved.path)?;
    let out = tempfile::tempdir()?;
    let path = out.path().join("out.onnx");
    onnx::write(&read, &path, &WriteOptions { storage: Storage::External { file: "out.data".into() } })?;
    assert_eq!(location(&path, "small"), None);
    assert_eq!(location(&path, "middle"), Some(("out.data".into(), 0)));
    assert_eq!(location(&path, "large"), Some(("out.data".into(), 4096)));
    same_weights(&read, &onnx::read(&path)?);
    assert_eq!(files(out.path()), ["out.data", "out.onnx"]);
    Ok(())
}

#[test]
fn weights_of_named_files_are_referred_to_by_their_locations() -> peft_onnx::Result<()> {
    let saved = save(&model(18, three()));
    let read = onnx::read(&saved.path)?;
    let builder = Builder::on(&read);
    builder.output("new", builder.initializer("new", Tensor::from_f32(&[512], &[0.5; 512])));
    let default = builder.optional_input("default", Tensor::from_f32(&[512], &[0.25; 512]));
    builder.output("fed", default + 1.0);
    let graph = builder.finish_whole()?;
    let out = tempfile::tempdir()?;
    let path = out.path().join("out.onnx");
    let storage = Storage::Refer { files: vec![(saved.path.clone(), "base/model.onnx".into())], file: "out.data".into() };
    onnx::write(&graph, &path, &WriteOptions { storage })?;
    assert_eq!(files(out.path()), ["out.data", "out.onnx"], "nothing of the file is there");
    assert_eq!(location(&path, "new"), Some(("out.data".into(), 0)));
    assert_eq!(location(&path, "default"), None);
    let origin = read.initializers().last().and_then(|(_, tensor)| tensor.origin()).expect("it came from a file").offset;
    assert_eq!(location(&path, "large"), Some(("base/model.onnx".into(), origin)));
    assert!(onnx::read(&path).is_err(), "the file is not beside the model");
    same_weights(&graph, &onnx::read_lent(&path, &[Lent::open("base/model.onnx", &saved.path)?])?);
    Ok(())
}

#[test]
fn a_model_may_be_written_over_itself() -> peft_onnx::Result<()> {
    for storage in [Storage::Inline, Storage::External { file: "out.data".into() }] {
        let saved = save(&model(18, three()));
        let read = onnx::read(&saved.path)?;
        onnx::write(&read, &saved.path, &WriteOptions { storage })?;
        same_weights(&read, &onnx::read(&saved.path)?);
    }
    Ok(())
}

#[test]
fn a_failed_write_leaves_nothing() -> peft_onnx::Result<()> {
    let saved = save(&model(18, three()));
    let read = onnx::read(&saved.path)?;
    let out = tempfile::tempdir()?;
    // A folder stands where the data should go.
    fs::create_dir(out.path().join("out.data"))?;
    fs::write(out.path().join("out.data/x"), "")?;
    let options = WriteOptions { storage: Storage::External { file: "out.data".into() } };
    let error = onnx::write(&read, &out.path().join("out.onnx"), &options).expect_err("it cannot");
    assert!(error.to_string().contains("out.data: "), "{error}");
    assert_eq!(files(out.path()), ["out.data"]);
    // Of a model that is replaced, the data goes beside the folder, which stays.
    fs::write(out.path().join("out.onnx"), "before")?;
    onnx::write(&read, &out.path().join("out.onnx"), &options)?;
    assert_eq!(fs::read(out.path().join("out.data/x"))?, b"");
    same_weights(&read, &onnx::read(&out.path().join("out.onnx"))?);
    let nowhere = onnx::write(&read, &out.path().join("no/folder/out.onnx"), &options);
    assert!(nowhere.is_err());
    Ok(())
}

#[test]
fn models_above_2_gb_must_have_their_weights_elsewhere() -> peft_onnx::Result<()> {
    let mut m = model(18, graph(&[], &[], &[]));
    m.graph.mut_or_insert_default().initializer = vec![elsewhere("w", &[1 << 29], &[("location", "data.bin")])];
    let saved = save(&m);
    fs::File::create(saved.folder.path().join("data.bin"))?.set_len(1 << 31)?;
    let read = onnx::read(&saved.path)?;
    let out = saved.folder.path().join("out.onnx");
    let error = onnx::write(&read, &out, &WriteOptions::default()).expect_err("it cannot");
    assert_eq!(error.hint(), Some("store the weights in a file of their own (external data)"));
    let elsewhere = Storage::Refer { files: vec![(saved.folder.path().join("data.bin"), "base/data.bin".into())], file: "out.data".into() };
    onnx::write(&read, &out, &WriteOptions { storage: elsewhere })?;
    Ok(())
}

#[test]
fn new_graphs_say_what_is_known_of_their_values() -> peft_onnx::Result<()> {
    use peft_onnx::ir::Dim;
    let b = Builder::new(ModelInfo::dialect());
    let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
    let twice = x.concat(&[x], 0);
    b.output("y", twice);
    b.output("z", b.op("com.microsoft:Gelu", &[x], &[("unused", int_attr())]));
    let out = tempfile::tempdir()?;
    let path = out.path().join("out.onnx");
    onnx::write(&b.finish()?, &path, &WriteOptions::default())?;
    let written = parse(&path);
    assert_eq!(written.graph.output[0], value("y", &["2*batch", "4"]));
    assert_eq!(written.opset_import, [opset("", 18), opset("com.microsoft", 1)]);
    assert_eq!(written.graph.node[1].attribute[0], AttributeProto { name: "unused".into(), ..int(1) });
    assert!(written.write_to_bytes().is_ok());
    Ok(())
}

#[test]
fn words_on_an_input_go_when_more_is_known_and_outputs_get_a_type() -> peft_onnx::Result<()> {
    use peft_onnx::ir::Dim;
    let inputs = [value("mask", &["batch", "past + seq"]), value("x", &["batch", "?"])];
    let saved = save(&model(18, graph(&inputs, &[node("Neg mask -> y")], &["y"])));
    let b = Builder::on(&onnx::read(&saved.path)?);
    b.substitute(&Dim::symbol("past + seq"), &Dim::symbol("seq"));
    onnx::write(&b.finish_whole()?, &saved.path, &WriteOptions::default())?;
    let written = parse(&saved.path);
    assert_eq!(written.graph.input, [value("mask", &["batch", "seq"]), value("x", &["batch", "?"])]);
    assert_eq!(written.graph.output, [value("y", &["batch", "seq"])]);
    Ok(())
}

fn int_attr() -> peft_onnx::ir::Attr {
    1_i64.into()
}

/// ONNX Runtime infers shapes before it opens files of data, and refuses a `Split` whose lengths lie in one.
#[test]
fn lengths_stay_in_the_model_however_many_there_are() -> peft_onnx::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("out.onnx");
    let b = Builder::new(ModelInfo::dialect());
    let x = b.input("x", DType::F32, &[Dim::known(400)]);
    b.output("y", x.split(&[2; 200], 0)[0]);
    onnx::write(&b.finish()?, &path, &WriteOptions { storage: Storage::External { file: "out.data".into() } })?;
    assert_eq!(files(folder.path()), ["out.onnx"]);
    Ok(())
}
