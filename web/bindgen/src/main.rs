//! `peft-onnx-bindgen MODULE.wasm FOLDER NAME`: writes NAME.js, NAME.d.ts and NAME_bg.wasm, for browsers and node alike.

use std::error::Error;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder, name] = arguments.as_slice() else {
        return Err("usage: peft-onnx-bindgen MODULE.wasm FOLDER NAME".into());
    };
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).out_name(name).typescript(true).remove_name_section(true).remove_producers_section(true).web(true)?;
    bindgen.generate(folder)?;
    Ok(())
}
