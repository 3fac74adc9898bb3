//! tmp
use peft_onnx::export::bundle::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let r = Request {
        model: a[1].as_ref(),
        adapter: Adapter::Folder(a[2].as_ref()),
        task: a.get(4).and_then(|t| peft_onnx::adapter::config::Task::from_name(t)),
        output: a[3].as_ref(),
        seed: 0,
        existing: Existing::Replace,
    };
    let t = std::time::Instant::now();
    match write(&r) {
        Ok(r) => println!("ok {:?} {} {:?}", t.elapsed(), r.manifest.trainable_count, r.targets.len()),
        Err(e) => println!("{e}\nhint {:?}", e.hint()),
    }
}
