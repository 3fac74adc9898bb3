// The package over folders that the program wrote, on onnxruntime-node and onnxruntime-web: losses, adapters and checkpoints are the program's own. The program is PEFT_ONNX.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Tokenizer } from "@huggingface/tokenizers";
import * as node from "onnxruntime-node";
import * as web from "onnxruntime-web";

import { AdaptedModel, batches, batchOf, dataOf, encode, rate, readManifest, readSafetensors, folderOf, Trainer, vocabulary, writeSafetensors } from "../dist/index.js";

const ROOT = new URL("../../", import.meta.url).pathname;
const PROGRAM = process.env.PEFT_ONNX ?? join(ROOT, "target/debug/peft-onnx");
const MODEL = join(ROOT, "models/tiny-lm");
const ROWS = join(ROOT, "models/finetune/train.jsonl");
const STEPS = 6;
const RATE = 0.002;

const work = mkdtempSync(join(tmpdir(), "peft-onnx-web-"));
const bundle = join(work, "bundle");
const loop = join(work, "loop");
const run = (...args) => execFileSync(PROGRAM, [...args, "--quiet"], { encoding: "utf8" });
const json = (file) => JSON.parse(readFileSync(file, "utf8"));

before(() => {
  run("inject", join(MODEL, "model.onnx"), "--method", "lora", "-o", bundle);
  run("export", bundle, "--format", "training", "-o", loop);
});
after(() => rmSync(work, { recursive: true }));

/** The losses of native training, of batches of so many rows in the file's order. */
function native(called, ...more) {
  run("train", bundle, "--data", ROWS, "--max-steps", `${STEPS}`, "--learning-rate", `${RATE}`, "--lr-scheduler", "linear", "--no-shuffle", "--restart", "--run", called, ...more);
  const lines = readFileSync(join(bundle, "runs", called, "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  return lines.filter((line) => line.loss !== undefined).map((line) => line.loss);
}

function words() {
  return vocabulary(new Tokenizer(json(join(MODEL, "tokenizer.json")), json(join(MODEL, "tokenizer_config.json"))), json(join(MODEL, "tokenizer_config.json")));
}

async function examples() {
  const manifest = await readManifest(folderOf(loop));
  const rows = readFileSync(ROWS, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const vocabulary = words();
  return { manifest, vocabulary, examples: encode(manifest, vocabulary, rows) };
}

function same(found, expected, tolerance) {
  assert.equal(found.length, expected.length);
  found.forEach((loss, at) => assert.ok(Math.abs(loss / expected[at] - 1) < tolerance, `step ${at + 1}: ${loss}, native ${expected[at]}`));
}

/** The cosine between what two trainings changed. */
function likeness(one, other, initial) {
  const change = (tensors) => [...initial].flatMap(([name, { data }]) => Array.from(data, (value, at) => tensors.get(name).data[at] - value));
  const [a, b] = [change(one), change(other)];
  const product = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b));
}

const options = { learningRate: RATE, decay: "linear", totalSteps: STEPS };

for (const [name, ort] of Object.entries({ "onnxruntime-node": node, "onnxruntime-web": web })) {
  test(`${name}: losses, the adapter and its files are those of native training`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    // Both start from the adapter as it was injected.
    const expected = native(name, "--batch-size", "4");
    const trainer = await Trainer.open(ort, loop, options);
    const next = batches(rows, 4);
    const found = [];
    for (let step = 0; step < STEPS; step++) {
      const { number, loss, isUpdated } = await trainer.step(batchOf(manifest, next.next().value.examples, vocabulary.pad));
      assert.ok(isUpdated && number === step + 1);
      found.push(loss);
    }
    same(found, expected, 1e-5);
    const [ours, theirs] = [readSafetensors((await trainer.adapter())["adapter_model.safetensors"]), readSafetensors(readFileSync(join(bundle, "adapter_model.safetensors")))];
    assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
    for (const [name, { shape }] of theirs) assert.deepEqual(ours.get(name).shape, shape);
    assert.ok(likeness(ours, theirs, readSafetensors(readFileSync(join(loop, "adapter_model.safetensors")))) > 0.99999);
    await trainer.release();
  });

  test(`${name}: gradients of parts of a batch are added up to the same step`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    const losses = async (...parts) => {
      const trainer = await Trainer.open(ort, loop, options);
      const found = [];
      for (const batch of parts) found.push((await trainer.step(batch)).loss);
      const vector = await trainer.trainable();
      await trainer.release();
      return { found, vector };
    };
    const batch = (from, to) => batchOf(manifest, rows.slice(from, to), vocabulary.pad);
    const whole = await losses(batch(0, 4), batch(4, 8));
    const parted = await losses([batch(0, 1), batch(1, 4)], [batch(4, 6), batch(6, 8)]);
    same(parted.found, whole.found, 1e-5);
    whole.vector.forEach((value, at) => assert.ok(Math.abs(value - parted.vector[at]) < 1e-4));
  });

  test(`${name}: a loss of two terms is added up by the counts of both`, async () => {
    const [of, folder] = [join(work, `orpo-${name}.lora`), join(work, `orpo-${name}`)];
    run("inject", join(MODEL, "model.onnx"), "--method", "lora", "--task", "preference", "--loss", "orpo", "-o", of);
    run("export", of, "--format", "training", "-o", folder);
    // The chosen texts come first, then the rejected ones; answers have unequal lengths.
    const texts = [[1, 7, 9, 11, 12, 13], [1, 8, 3, 4, 5, 6], [1, 9, 20, 21, 22, 23], [1, 7, 9, 30, 31, 32], [1, 8, 33, 34, 35, 36], [1, 9, 37, 38, 39, 40]];
    const batch = (rows) => {
      const chosen = [...rows, ...rows.map((row) => row + 3)];
      const begins = (row) => 2 + (row % 3);
      const ints = (value) => ({ type: "int64", data: BigInt64Array.from(chosen.flatMap((row) => texts[row].map((id, at) => BigInt(value(id, at, row))))), dims: [chosen.length, 6] });
      const completion = { type: "float32", data: Float32Array.from(chosen.flatMap((row) => texts[row].map((_, at) => Number(at >= begins(row))))), dims: [chosen.length, 6] };
      const inputs = { input_ids: ints((id) => id), attention_mask: ints(() => 1), position_ids: ints((_, at) => at), labels: ints((id, at, row) => (at < begins(row) ? -100 : id)), completion_mask: completion };
      return { inputs, labelCount: rows.length, secondCount: rows.reduce((sum, row) => sum + 6 - begins(row), 0) };
    };
    const losses = async (...steps) => {
      const trainer = await Trainer.open(ort, folder, { learningRate: RATE });
      const found = [];
      for (const step of steps) found.push((await trainer.step(step)).loss);
      if (Array.isArray(steps[0])) await assert.rejects(trainer.step(steps[0].map(({ secondCount: _, ...batch }) => batch)), /secondCount/);
      await trainer.release();
      return found;
    };
    const whole = batch([0, 1, 2]);
    const parts = [batch([0]), batch([1, 2])];
    same(await losses(parts, parts, parts), await losses(whole, whole, whole), 1e-5);
  });

  test(`${name}: a run that goes on from a checkpoint is the run that was not interrupted`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    const batch = (at) => batchOf(manifest, rows.slice(4 * at, 4 * at + 4), vocabulary.pad);
    const whole = await Trainer.open(ort, loop, options);
    for (let at = 0; at < 2; at++) await whole.step(batch(at));
    const checkpoint = await whole.checkpoint();
    const resumed = await Trainer.open(ort, loop, { ...options, resume: checkpoint });
    assert.equal(resumed.steps, 2);
    for (let at = 2; at < 4; at++) assert.deepEqual(await resumed.step(batch(at)), await whole.step(batch(at)));
    assert.deepEqual(await resumed.trainable(), await whole.trainable());
    await Promise.all([whole.release(), resumed.release()]);
  });

  test(`${name}: one loaded base runs any adapter of its shape, and refuses others`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    const trainer = await Trainer.open(ort, loop, { ...options, learningRate: 0.01 });
    const batch = batchOf(manifest, rows.slice(0, 4), vocabulary.pad);
    for (let step = 0; step < 3; step++) await trainer.step(batch);
    const trained = await trainer.adapter();
    await trainer.release();

    const base = await AdaptedModel.open(ort, loop);
    const adapter = await base.loadAdapter(trained);
    const data = dataOf(manifest, "inference", [rows[0].ids], vocabulary.pad);
    const logits = async (adapter) => (await base.run(data, adapter, ["logits"])).logits.data;
    const [fresh, tuned, again] = [await logits(undefined), await logits(adapter), await logits(base.initial)];
    assert.deepEqual(fresh, again);
    assert.ok(fresh.some((value, at) => Math.abs(value - tuned[at]) > 0.01));

    // The merged model answers the same.
    const folder = join(work, `trained-${name}`);
    mkdirSync(folder);
    for (const [name, bytes] of Object.entries(trained)) writeFileSync(join(folder, name), bytes);
    run("inject", join(MODEL, "model.onnx"), "--adapter", folder, "-o", join(work, `given-${name}`));
    run("merge", join(work, `given-${name}`), "-o", join(work, `merged-${name}.onnx`));
    const merged = await ort.InferenceSession.create(new Uint8Array(readFileSync(join(work, `merged-${name}.onnx`))));
    const feeds = Object.fromEntries(merged.inputNames.map((name) => [name, new ort.Tensor(data[name].type, data[name].data, data[name].dims)]));
    const found = (await merged.run(feeds)).logits.data;
    tuned.forEach((value, at) => assert.ok(Math.abs(value - found[at]) < 1e-3));

    const config = (settings) => ({ ...trained, "adapter_config.json": new TextEncoder().encode(JSON.stringify({ ...JSON.parse(new TextDecoder().decode(trained["adapter_config.json"])), ...settings })) });
    await assert.rejects(base.loadAdapter(config({ lora_alpha: 99 })), /lora_alpha is 99, the graph has 16[\s\S]*hint: give loadAdapter the core/);
    const fewer = readSafetensors(trained["adapter_model.safetensors"]);
    const [first] = fewer.keys();
    fewer.delete(first);
    await assert.rejects(base.loadAdapter({ ...trained, "adapter_model.safetensors": writeSafetensors(fewer) }), /the adapter has no tensor for/);
    await assert.rejects(base.loadAdapter({ ...trained, "adapter_model.safetensors": new Uint8Array(4) }), /not a safetensors file/);
    await assert.rejects(base.loadAdapter({}), /no file adapter_config.json[\s\S]*hint: /);
    await base.release();
  });

  test(`${name}: a batch of the runtime's own tensors is a batch of numbers`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    const numbers = batchOf(manifest, rows.slice(0, 2), vocabulary.pad);
    const inputs = Object.fromEntries(Object.entries(numbers.inputs).map(([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)]));
    const losses = [];
    for (const batch of [numbers, { ...numbers, inputs }]) losses.push((await (await Trainer.open(ort, loop, options)).step(batch)).loss);
    assert.equal(losses[0], losses[1]);
  });

  test(`${name}: evaluation gives the loss that the next step starts from`, async () => {
    const { manifest, vocabulary, examples: rows } = await examples();
    const trainer = await Trainer.open(ort, loop, options);
    const batch = batchOf(manifest, rows.slice(0, 3), vocabulary.pad);
    await trainer.step(batch);
    const { lossSum, labelCount, correct } = await trainer.evaluate(batch);
    assert.equal(labelCount, batch.labelCount);
    assert.ok(correct >= 0 && correct <= labelCount);
    assert.ok(Math.abs(lossSum / labelCount / (await trainer.step(batch)).loss - 1) < 1e-5);
    await assert.rejects(trainer.step({ ...batch, inputs: {} }), /input input_ids is in no batch/);
    await trainer.release();
  });
}

test("learning rates are those of transformers", () => {
  const rates = (decay, warmupSteps, totalSteps, count) => Array.from({ length: count }, (_, at) => rate({ decay, peak: 1, warmupSteps, totalSteps }, at + 1));
  const near = (found, expected) => found.forEach((value, at) => assert.ok(Math.abs(value - expected[at]) < 1e-12, `${found}`));
  near(rates("constant", 2, 4, 4), [0, 0.5, 1, 1]);
  near(rates("linear", 3, 12, 6), [0, 1 / 3, 2 / 3, 1, 8 / 9, 7 / 9]);
  near(rates("cosine", 0, 4, 5), [1, 0.8535533905932738, 0.5, 0.1464466094067262, 0]);
  near(rates("linear", 5, 3, 6), [0, 0.2, 0.4, 0.6, 0.8, 0]);
});

test("tensors are written as they are read, and half-precision ones are widened", () => {
  const tensors = new Map([["a", { shape: [2, 1], data: Float32Array.of(0.5, -3) }], ["b", { shape: [], data: Float32Array.of(7) }]]);
  assert.deepEqual(readSafetensors(writeSafetensors(tensors)), tensors);
  const header = JSON.stringify({ h: { dtype: "F16", shape: [3], data_offsets: [0, 6] }, b: { dtype: "BF16", shape: [1], data_offsets: [6, 8] } });
  const bytes = new Uint8Array(8 + header.length + 8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(new TextEncoder().encode(header), 8);
  [0x3c00, 0xc000, 0x0001, 0x3fc0].forEach((bits, at) => new DataView(bytes.buffer).setUint16(8 + header.length + 2 * at, bits, true));
  const read = readSafetensors(bytes);
  assert.deepEqual([...read.get("h").data], [1, -2, 2 ** -24]);
  assert.deepEqual([...read.get("b").data], [1.5]);
});
