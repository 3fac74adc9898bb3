// Trains training.onnx with nothing but onnxruntime-node (npm install onnxruntime-node): the loop of train_loop.py.
// That binding feeds no optional inputs, so the state comes from initial.onnx, and the folder is one of
//
//   peft-onnx export BUNDLE --format training -o FOLDER
//   node scripts/checks/train_loop.js FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]
const { InferenceSession, Tensor } = require("onnxruntime-node");
const [folder, file, steps = 6, size = 3, rate = 1e-3] = process.argv.slice(2);
const rows = require("fs").readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const ints = (values, shape) => new Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);

async function main() {
  const session = await InferenceSession.create(`${folder}/training.onnx`);
  let state = await (await InferenceSession.create(`${folder}/initial.onnx`)).run({});
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
