//! Files that lie where something is written, and are nobody's to replace.

use crate::common::{Folder, done, fixture, run};

#[test]
fn data_of_somebody_else_beside_a_new_model_stays_as_it_is() {
    let folder = Folder::empty();
    let model = fixture("llama/dynamo_external.onnx");
    let bundle = folder.path("bundle");
    done(&["inject", &model, "--method", "lora", "-o", &bundle, "-q"]);
    let rows: [&[&str]; 2] = [&["convert", &model], &["merge", &bundle, "--weights", "external"]];
    for (number, command) in rows.into_iter().enumerate() {
        let output = folder.path(&format!("out{number}.onnx"));
        let mine = folder.write(&format!("out{number}.onnx.data"), "not weights");
        let (success, _, said) = run(&[command, &["-o", &output]].concat());
        assert!(success && said.contains("belongs to no model of that name"), "{command:?}: {said}");
        assert_eq!(std::fs::read_to_string(&mine).expect("it is there"), "not weights", "{command:?}");
        done(&["inspect", &output]);
        assert!(std::fs::exists(folder.path(&format!("out{number}.onnx.2.data"))).expect("a folder"), "{command:?}");
    }
}
