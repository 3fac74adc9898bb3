//! External data: where it may lie, and what is said when it does not.

use std::fs;
use std::path::Path;

use onnx_protobuf::{GraphProto, ModelProto};
use peft_onnx::onnx;

use super::make::{Saved, constant, elsewhere, graph, model, save};

/// What a tensor says of its data.
type Entries<'a> = &'a [(&'a str, &'a str)];

fn one(entries: Entries<'_>) -> ModelProto {
    let weights = elsewhere("w", &[2], entries);
    model(18, GraphProto { initializer: vec![weights], ..graph(&[], &[], &["w"]) })
}

fn saved(entries: Entries<'_>) -> Saved {
    let saved = save(&one(entries));
    let floats: Vec<u8> = (0..8_u8).flat_map(|v| f32::from(v).to_le_bytes()).collect();
    fs::create_dir(saved.folder.path().join("sub")).expect("disk");
    fs::write(saved.folder.path().join("data.bin"), &floats).expect("disk");
    fs::write(saved.folder.path().join("sub/data.bin"), &floats[8..]).expect("disk");
    saved
}

fn weights(path: &Path) -> peft_onnx::Result<Vec<f32>> {
    let graph = onnx::read(path)?;
    let (_, tensor) = graph.initializers().next().expect("one");
    Ok(tensor.to_f32().expect("floats"))
}

#[test]
fn any_part_of_any_file_in_the_folder_may_hold_a_tensor() -> peft_onnx::Result<()> {
    let rows: &[(Entries<'_>, [f32; 2])] = &[
        (&[("location", "data.bin")], [0.0, 1.0]),
        (&[("location", "./data.bin"), ("offset", "4"), ("length", "8")], [1.0, 2.0]),
        (&[("location", "data.bin"), ("offset", "24")], [6.0, 7.0]),
        (&[("location", "sub/data.bin"), ("length", "8"), ("checksum", "ignored")], [2.0, 3.0]),
        (&[("location", "sub/../data.bin")], [0.0, 1.0]),
    ];
    for (entries, expected) in rows {
        assert_eq!(weights(&saved(entries).path)?, expected, "{entries:?}");
    }
    Ok(())
}

#[test]
fn data_that_cannot_be_had_is_an_error_with_the_tensor_and_the_file() {
    let outside = tempfile::NamedTempFile::new().expect("disk");
    let absolute = outside.path().to_string_lossy().into_owned();
    let rows: &[(Entries<'_>, &str)] = &[
        (&[("location", "gone.bin")], "gone.bin: No such file"),
        (&[("location", "")], "it lies outside the model's folder"),
        (&[("location", ".")], "it lies outside the model's folder"),
        (&[("location", "sub")], "sub: is a directory"),
        (&[("location", "../data.bin")], "external data in \"../data.bin\" is not supported: it lies outside the model's folder"),
        (&[("location", "sub/../../data.bin")], "it lies outside the model's folder"),
        (&[("location", &absolute)], "it lies outside the model's folder"),
        (
            &[("location", "data.bin"), ("offset", "28")],
            "data.bin: external data: expected 8 bytes from offset 28, found a file of 32 bytes",
        ),
        (&[("location", "data.bin"), ("offset", "18446744073709551615")], "found a file of 32 bytes"),
        (&[("location", "data.bin"), ("length", "12")], "bytes of float[2]: expected 8, found 12"),
        (&[("location", "data.bin"), ("length", "99999999999")], "found a file of 32 bytes"),
        (&[("location", "data.bin"), ("offset", "-4")], "external data's offset: expected a number, found -4"),
        (&[("offset", "4")], "external data without location"),
    ];
    for (entries, expected) in rows {
        let error = weights(&saved(entries).path).expect_err("it must be refused").to_string();
        assert!(error.contains("model.onnx: tensor w: ") && error.contains(expected), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_may_lead_into_the_folder_or_to_where_the_model_is_linked_from() -> peft_onnx::Result<()> {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir()?;
    let (blobs, snapshot) = (root.path().join("blobs"), root.path().join("snapshots/main"));
    fs::create_dir_all(&blobs)?;
    fs::create_dir_all(&snapshot)?;
    let made = saved(&[("location", "data.bin")]);
    fs::copy(&made.path, blobs.join("1234"))?;
    fs::copy(made.folder.path().join("data.bin"), blobs.join("5678"))?;
    symlink("../../blobs/1234", snapshot.join("model.onnx"))?;
    symlink("../../blobs/5678", snapshot.join("data.bin"))?;
    assert_eq!(weights(&snapshot.join("model.onnx"))?, [0.0, 1.0]);

    let inside = saved(&[("location", "link.bin")]);
    symlink("sub/data.bin", inside.folder.path().join("link.bin"))?;
    assert_eq!(weights(&inside.path)?, [2.0, 3.0]);

    let outside = saved(&[("location", "link.bin")]);
    symlink(blobs.join("5678"), outside.folder.path().join("link.bin"))?;
    let error = weights(&outside.path).expect_err("it leads outside").to_string();
    assert!(error.contains("it lies outside the model's folder"), "{error}");
    Ok(())
}

/// The weights of a model of seven billion parameters are looked at only when they are needed.
#[cfg(target_os = "linux")]
#[test]
fn huge_files_are_not_read() -> peft_onnx::Result<()> {
    const LAYER: i64 = 400 << 20;
    let names: Vec<String> = (0..32).map(|layer| format!("layer.{layer}")).collect();
    let mut g = graph(&[], &[], &[]);
    for (name, layer) in names.iter().zip(0..) {
        let offset = (layer * LAYER).to_string();
        g.initializer.push(elsewhere(name, &[LAYER / 4], &[("location", "data.bin"), ("offset", &offset)]));
    }
    g.initializer.push(constant("small", &[1], &[1.0]));
    let saved = save(&model(18, g));
    fs::File::create(saved.folder.path().join("data.bin"))?.set_len(u64::try_from(32 * LAYER).expect("positive"))?;
    let before = resident();
    let graph = onnx::read(&saved.path)?;
    let bytes: usize = graph.initializers().filter_map(|(_, tensor)| tensor.bytes()).map(bytes::Bytes::len).sum();
    assert!(bytes > 13_000_000_000);
    assert!(resident() - before < 100_000, "kB");
    Ok(())
}

/// Memory in use, in kB.
#[cfg(target_os = "linux")]
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
