// The core beside the program: the same models give the same files. Skipped where web/scripts/wasm.sh has not built it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import * as ort from "onnxruntime-node";

import { AdaptedModel, batchOf, Core, folderOf, readManifest, readSafetensors, Trainer } from "../dist/index.js";

const ROOT = new URL("../../", import.meta.url).pathname;
const PROGRAM = process.env.PEFT_ONNX ?? join(ROOT, "target/debug/peft-onnx");
const FIXTURES = join(ROOT, "models/fixtures");
const CLASSIFIER = join(FIXTURES, "bert_classifier/torchscript.onnx");
const skip = existsSync(new URL("../dist/wasm/peft_onnx_core_bg.wasm", import.meta.url)) ? false : "the core is not built: web/scripts/wasm.sh";

const work = mkdtempSync(join(tmpdir(), "peft-onnx-core-"));
const run = (...args) => execFileSync(PROGRAM, args, { encoding: "utf8" });
const bytes = (file) => new Uint8Array(readFileSync(file));
const text = (bytes) => new TextDecoder().decode(bytes);
const folder = (name, files) => {
  mkdirSync(join(work, name));
  for (const [file, bytes] of Object.entries(files)) writeFileSync(join(work, name, file), bytes);
  return join(work, name);
};

let core;
const warnings = [];
before(async () => {
  if (!skip) core = await Core.load({ warn: (warning) => warnings.push(warning) });
});
after(() => rmSync(work, { recursive: true }));

test("what is known of a model is what the program prints", { skip }, () => {
  const model = core.model(bytes(CLASSIFIER));
  const { file: _, ...expected } = JSON.parse(run("inspect", CLASSIFIER, "--json"));
  const { file, ...found } = model.inspect();
  assert.equal(file, "model.onnx");
  assert.deepEqual(found, expected);
  model.free();
});

/** The losses of three steps over two rows. */
async function losses(source) {
  const trainer = await Trainer.open(ort, source, { learningRate: 0.01 });
  const rows = [[[2, 7, 8, 9, 3], 1], [[2, 11, 12, 3], 0]].map(([ids, labels]) => ({ ids, segments: [], labels, isCut: false }));
  const batch = batchOf(trainer.manifest, rows, 0);
  const found = [];
  for (let step = 0; step < 3; step++) found.push((await trainer.step(batch)).loss);
  await trainer.release();
  return found;
}

test("the files of a training loop train as those that the program exports", { skip }, async () => {
  for (const [name, asked, options] of [
    ["lora", [], {}],
    ["head", ["--num-labels", "5", "--rank", "4", "--target-modules", "query,value"], { num_labels: 5, rank: 4, target_modules: ["query", "value"] }],
    ["ia3", [], { method: "ia3" }],
  ]) {
    const [bundle, loop] = [join(work, `${name}.bundle`), join(work, `${name}.loop`)];
    run("inject", CLASSIFIER, "--method", options.method ?? "lora", ...asked, "-o", bundle, "--quiet");
    run("export", bundle, "--format", "training", "-o", loop, "--quiet");
    const model = core.model(bytes(CLASSIFIER));
    const files = model.inject(options);
    assert.deepEqual(readSafetensors(files["adapter_model.safetensors"]), readSafetensors(bytes(join(loop, "adapter_model.safetensors"))));
    const [ours, theirs] = [JSON.parse(text(files["peft-onnx.json"])), JSON.parse(readFileSync(join(loop, "peft-onnx.json"), "utf8"))];
    const ports = (graph) => graph.inputs.map(({ name, role }) => `${name} ${role}`);
    assert.deepEqual(Object.entries(ours.graphs).map(([name, graph]) => [name, ports(graph)]), Object.entries(theirs.graphs).map(([name, graph]) => [name, ports(graph)]));
    assert.deepEqual({ ...ours, base: 0, graphs: 0 }, { ...theirs, base: 0, graphs: 0 });
    assert.deepEqual(await losses(files), await losses(loop), name);
    model.free();
  }
});

test("weights in a file of their own, an adapter that is there, and the merged model", { skip }, async () => {
  const [file, data] = ["dynamo_external.onnx", "dynamo_external.onnx.data"].map((name) => join(FIXTURES, "llama", name));
  const given = join(FIXTURES, "llama/cases/lora_qv/adapter_init");
  const adapter = Object.fromEntries(["adapter_config.json", "adapter_model.safetensors"].map((name) => [name, bytes(join(given, name))]));
  assert.throws(() => core.model(bytes(file)), /dynamo_external.onnx.data[\s\S]*\nhint: the weights are in a file of this name/);
  const model = core.model(bytes(file), { data: { "dynamo_external.onnx.data": bytes(data) } });
  const files = model.inject({}, adapter);
  assert.deepEqual(readSafetensors(files["adapter_model.safetensors"]), readSafetensors(adapter["adapter_model.safetensors"]));

  const merged = model.merge(JSON.parse(text(files["peft-onnx.json"])), adapter);
  assert.deepEqual(Object.keys(merged).sort(), ["model.onnx", "model.onnx.data"]);
  run("inject", file, "--adapter", given, "-o", join(work, "given"), "--quiet");
  mkdirSync(join(work, "merged"));
  run("merge", join(work, "given"), "-o", join(work, "merged/model.onnx"), "--quiet");
  const ids = (data) => new ort.Tensor("int64", BigInt64Array.from(data, BigInt), [1, data.length]);
  const logits = async (model, weights) => {
    const session = await ort.InferenceSession.create(model, { externalData: [{ path: "model.onnx.data", data: weights }] });
    const feeds = { input_ids: ids([1, 5, 9]), attention_mask: ids([1, 1, 1]), position_ids: ids([0, 1, 2]) };
    const fed = Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]]));
    return (await session.run(fed)).logits.data;
  };
  const [ours, theirs] = [[merged["model.onnx"], merged["model.onnx.data"]], ["model.onnx", "model.onnx.data"].map((name) => bytes(join(work, "merged", name)))];
  // The products of an adapter's factors are added up in another order.
  const expected = await logits(...theirs);
  (await logits(...ours)).forEach((value, at) => assert.ok(Math.abs(value - expected[at]) < 1e-5));
  model.free();
});

test("adapters of other scales, and those that a network computes", { skip }, async () => {
  const model = core.model(bytes(CLASSIFIER));
  const files = model.inject({ rank: 4, alpha: 8 });
  const base = await AdaptedModel.open(ort, files, { core });
  const louder = JSON.stringify({ ...JSON.parse(text(files["adapter_config.json"])), lora_alpha: 16 });
  const [own, other] = [base.initial, await base.loadAdapter({ ...files, "adapter_config.json": new TextEncoder().encode(louder) })];
  for (const [name, { data }] of Object.entries(own.feeds)) {
    const scale = name.includes("lora_B") ? 2 : 1;
    assert.deepEqual([...other.feeds[name].data], [...data].map((value) => value * scale), name);
  }
  await base.release();

  const prompted = core.model(bytes(CLASSIFIER)).inject({ method: "p_tuning", num_virtual_tokens: 3 });
  const manifest = await readManifest(folderOf(prompted));
  assert.ok(manifest.trainable.some(({ file }) => file === "prompt_encoder.safetensors"));
  const batch = batchOf(manifest, [{ ids: [2, 7, 8, 3], segments: [], labels: 1, isCut: false }], 0);
  const alone = await Trainer.open(ort, prompted, { learningRate: 0.01 });
  await alone.step(batch);
  await assert.rejects(alone.adapter(), /hint: give the trainer the core/);
  const trainer = await Trainer.open(ort, prompted, { learningRate: 0.01, core });
  await trainer.step(batch);
  const trained = await trainer.adapter();
  assert.deepEqual(Object.keys(trained).sort(), ["adapter_config.json", "adapter_model.safetensors", "prompt_encoder.safetensors"]);
  // What comes out is an adapter that the program reads, and whose vector is the trained one.
  assert.deepEqual(core.trainableOf(manifest, trained), await trainer.trainable());
  run("inject", CLASSIFIER, "--adapter", folder("trained", trained), "-o", join(work, "again"), "--quiet");
  model.free();
});

test("dropout in accumulated steps follows the seed", { skip }, async () => {
  const model = core.model(bytes(CLASSIFIER));
  const files = model.inject({ dropout: 0.5 });
  const vector = async (seed) => {
    const trainer = await Trainer.open(ort, files, { learningRate: 0.01, seed });
    const batch = batchOf(trainer.manifest, [{ ids: [2, 7, 8, 9, 3], segments: [], labels: 1, isCut: false }], 0);
    for (let step = 0; step < 2; step++) await trainer.step([batch, batch]);
    const trained = await trainer.trainable();
    await trainer.release();
    return trained;
  };
  const once = await vector(3);
  assert.deepEqual(await vector(3), once);
  assert.ok((await vector(7)).some((value, at) => Math.abs(value - once[at]) > 1e-6), "another seed drops others");
  model.free();
});

test("rows of different lengths do not go together where nothing hides what fills them up", { skip }, async () => {
  const model = core.model(bytes(CLASSIFIER));
  const manifest = await readManifest(folderOf(model.inject({})));
  const rows = [[2, 7, 3], [2, 7, 8, 3]].map((ids) => ({ ids, segments: [], labels: 1, isCut: false }));
  assert.equal(batchOf(manifest, rows, 0).labelCount, 2);
  const weighted = { ...manifest, loss: { ...manifest.loss, class_weights: [1, 2.5, 1] } };
  assert.equal(batchOf(weighted, rows, 0).labelCount, 5);
  assert.equal(batchOf(weighted, rows, 0).secondCount, 2, "a teacher's divergence counts rows, whatever they weigh");
  const read = { ...manifest, feeding: { ...manifest.feeding, padding: "read" } };
  assert.throws(() => batchOf(read, rows, 0), /rows of 3 and 4 tokens in a batch\nhint: /);
  assert.equal(batchOf(read, rows.slice(0, 1), 0).labelCount, 1);
  model.free();
});

test("what cannot be done is said, and does no harm", { skip }, () => {
  assert.throws(() => core.model(new Uint8Array([1, 2, 3])), /not an ONNX model[\s\S]*\nhint: /);
  const model = core.model(bytes(CLASSIFIER));
  for (const [options, said] of [
    [{ rnk: 4 }, /options: unknown field `rnk`/],
    [{ rank: 0 }, /r: expected at least 1, found 0/],
    [{ method: "lorra" }, /lorra/],
    [{ target_modules: "qeury" }, /qeury[\s\S]*hint: /],
    [{ task: "poetry" }, /task: expected causal-lm.*found poetry/],
    [{ class_names: ["a", "b", "c", "d"] }, /names of classes: expected 3 at most/],
  ]) assert.throws(() => model.inject(options), said);
  assert.throws(() => model.inject({}, {}), /no file named "adapter_config.json"[\s\S]*hint: /);
  assert.ok(model.inject({ rank: 2 })["training.onnx"].length > 1000);
  model.free();
});
