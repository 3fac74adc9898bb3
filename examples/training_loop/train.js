// Trains an exported training.onnx with nothing but onnxruntime-node or onnxruntime-web: the loop of train.py.
//
//   peft-onnx export BUNDLE --format training -o FOLDER
//   node examples/training_loop/train.js FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE] [onnxruntime-node|onnxruntime-web]
const { readFileSync } = require("fs");
const [folder, file, steps = 6, size = 3, rate = 1e-3, runtime = "onnxruntime-node"] = process.argv.slice(2);
const { InferenceSession, Tensor } = require(runtime);
const rows = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const ints = (values, shape) => new Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);

// A browser has no files: there, model and weights are fetched and handed over as bytes.
const open = (name) => runtime === "onnxruntime-node"
  ? InferenceSession.create(`${folder}/${name}.onnx`)
  : InferenceSession.create(readFileSync(`${folder}/${name}.onnx`), { externalData: [{ path: `${name}.data`, data: readFileSync(`${folder}/${name}.data`) }] });

async function main() {
  const session = await open("training");
  let state = await (await open("initial")).run({});
  for (let step = 1; step <= Number(steps); step++) {
    const batch = Array.from({ length: Number(size) }, (_, i) => rows[((step - 1) * size + i) % rows.length]);
    const tensor = (row) => ints(batch.flatMap(row), [batch.length, row(batch[0]).length]);
    const positions = (row) => { let n = 0; return row.attention_mask.map((m) => Math.max((n += m) - 1, 0)); };
    const data = { input_ids: tensor((r) => r.input_ids), attention_mask: tensor((r) => r.attention_mask), labels: tensor((r) => r.labels), position_ids: tensor(positions) };
    const feeds = Object.fromEntries(Object.entries(data).filter(([name]) => session.inputNames.includes(name)));
    const out = await session.run({ ...feeds, ...state, step: ints([step], []), learning_rate: new Tensor("float32", [Number(rate)], []) });
    state = { trainable: out.trainable_next, adam_m: out.adam_m_next, adam_v: out.adam_v_next };
    console.log(JSON.stringify({ step, loss: out.loss.data[0] }));
  }
}
main();
