// The work: the core, ONNX Runtime and the tokenizer live here, so that the page stays responsive. Nothing is fetched but files of the page itself.

import { Tokenizer } from "@huggingface/tokenizers";

import {
  AdaptedModel, type Adapter, batches, batchOf, Core, dataOf, encode, type Example, type Files, type InjectOptions, type Manifest, type Model,
  type Runtime, shuffled, Trainer, type Vocabulary, vocabulary,
} from "../src/index.js";
import type { Answer, Device, Events, Given, Prepared, Requests, TrainOptions } from "./messages.js";
import { classesOf, readTable, rowsOf, type Table } from "./table.js";

/** Files that name special tokens, the most trusted first. */
const COMPANIONS = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"];
/** From so many rows on some are held back. */
const FEWEST_TO_PART = 20;
/** The share that is held back. */
const HELD_BACK = 0.1;
/** Tokens that are written to try a language model. */
const WRITTEN = 40;

let core: Core | undefined;
let model: Model | undefined;
let words: Vocabulary | undefined;
let table: Table | undefined;
let loop: Files | undefined;
let manifest: Manifest | undefined;
let learnt: readonly Example[] = [];
let heldBack: readonly Example[] = [];
let trainer: Trainer | undefined;
let adapted: { readonly base: AdaptedModel; trained: Adapter | undefined } | undefined;
let device: Device = "wasm";
let isStopped = false;

function tell<Name extends keyof Events>(event: Name, value: Events[Name]): void {
  self.postMessage({ event, value });
}

function there<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`${what} is not there yet`);
  return value;
}

const files = (given: Readonly<Record<string, ArrayBuffer>>): Files => Object.fromEntries(Object.entries(given).map(([name, bytes]) => [name, new Uint8Array(bytes)]));
const parsed = (bytes: Uint8Array): Record<string, unknown> => JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;

/** ONNX Runtime for a device, from beside the page. */
async function runtime(device: Device): Promise<Runtime> {
  const ort = device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  ort.env.wasm.wasmPaths = new URL("./ort/", self.location.href).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
  ort.env.logLevel = "error";
  return ort as unknown as Runtime;
}

const sessions = () => ({ executionProviders: [device] });

async function opened({ model: bytes, data, beside, table: rows }: Given) {
  core ??= await Core.load({
    wasm: new URL("./wasm/peft_onnx_core_bg.wasm", self.location.href),
    warn: (warning) => tell("warning", warning),
  });
  await letGo();
  model?.free();
  model = words = table = undefined;
  const near = files(beside);
  model = core.model(new Uint8Array(bytes), { data: files(data), files: near });
  const tokenizer = near["tokenizer.json"];
  if (tokenizer === undefined) throw new Error("there is no tokenizer.json\nhint: it lies beside the model");
  const said = COMPANIONS.flatMap((name) => (near[name] === undefined ? [] : [parsed(near[name])]));
  words = vocabulary(new Tokenizer(parsed(tokenizer), near["tokenizer_config.json"] === undefined ? {} : said[0]!), ...said);
  table = readTable(rows);
  return { inspection: model.inspect(), columns: table.columns, rows: table.rows.length };
}

async function letGo(): Promise<void> {
  await trainer?.release();
  await adapted?.base.release();
  trainer = adapted = loop = manifest = undefined;
}

async function prepared(asked: InjectOptions, columns: Parameters<typeof rowsOf>[1], maxLength: number | undefined, holdsBack: boolean): Promise<Prepared> {
  await letGo();
  const rows = there(table, "the table");
  const classes = columns.label === undefined ? undefined : classesOf(rows, columns.label);
  loop = there(model, "the model").inject({ ...asked, ...(classes === undefined || classes.names.length === 0 ? {} : { class_names: classes.names }) });
  manifest = parsed(there(loop["peft-onnx.json"], "the manifest")) as unknown as Manifest;
  const examples = encode(manifest, there(words, "the tokenizer"), rowsOf(rows, columns), maxLength);
  const count = holdsBack && examples.length >= FEWEST_TO_PART ? Math.round(examples.length * HELD_BACK) : 0;
  const mixed = count > 0 ? shuffled(examples, 1) : examples;
  [heldBack, learnt] = [mixed.slice(0, count), mixed.slice(count)];
  const { trainable_count: trainable, base_count: base, task, method, class_names: names = [] } = manifest;
  const cut = examples.filter(({ isCut }) => isCut).length;
  return { task, method, trainable, base, names, learnt: learnt.length, heldBack: heldBack.length, cut };
}

async function train(options: TrainOptions): Promise<{ readonly steps: number; readonly seconds: number }> {
  device = options.device;
  isStopped = false;
  await trainer?.release();
  const ort = await runtime(device);
  const known = there(manifest, "the adapter");
  const perEpoch = Math.ceil(learnt.length / (options.batchSize * options.accumulation));
  const steps = options.steps ?? Math.ceil(perEpoch * options.epochs);
  trainer = await Trainer.open(ort, there(loop, "the adapter"), {
    ...sessions(), learningRate: options.learningRate, decay: options.decay, warmupSteps: options.warmupSteps, totalSteps: steps, core: there(core, "the core"),
  });
  adapted = adapted === undefined ? undefined : { base: adapted.base, trained: undefined };
  const pad = there(words, "the tokenizer").pad;
  const next = batches(learnt, options.batchSize, options.isShuffled ? options.seed : undefined);
  const from = performance.now();
  let taken = 0;
  while (taken < steps && !isStopped) {
    const group = Array.from({ length: options.accumulation }, () => batchOf(known, next.next().value.examples, pad));
    const before = performance.now();
    const step = await trainer.step(group.length === 1 ? group[0]! : group);
    taken++;
    tell("step", { ...step, of: steps, seconds: (performance.now() - before) / 1000 });
    if (heldBack.length > 0 && (taken % perEpoch === 0 || taken === steps)) tell("evaluation", { step: taken, ...(await evaluated(known, pad, options.batchSize)) });
    // Messages that came meanwhile are read: one may say to stop.
    await new Promise((resolve) => setTimeout(resolve));
  }
  return { steps: taken, seconds: (performance.now() - from) / 1000 };
}

/** The loss of the rows that are held back, and the share of right predictions. */
async function evaluated(known: Manifest, pad: number, size: number): Promise<{ readonly loss: number; readonly accuracy: number | undefined }> {
  let [sum, count, right] = [0, 0, 0 as number | undefined];
  for (let at = 0; at < heldBack.length; at += size) {
    const { lossSum, labelCount, correct } = await there(trainer, "the trainer").evaluate(batchOf(known, heldBack.slice(at, at + size), pad));
    sum += lossSum;
    count += labelCount;
    right = right === undefined || correct === undefined ? undefined : right + correct;
  }
  return { loss: sum / count, accuracy: right === undefined ? undefined : right / count };
}

/** What the model answers, as it was and as it is. */
async function tried(text: string): Promise<{ readonly before: Answer; readonly after: Answer }> {
  const [known, files] = [there(manifest, "the adapter"), there(loop, "the adapter")];
  adapted ??= { base: await AdaptedModel.open(await runtime(device), files, { ...sessions(), core: there(core, "the core") }), trained: undefined };
  adapted.trained ??= await adapted.base.loadAdapter(await there(trainer, "the trained adapter").adapter());
  const { base, trained } = adapted;
  const answer = known.task === "causal-lm" ? continued : classified;
  return { before: await answer(base, base.initial, text), after: await answer(base, trained, text) };
}

async function logits(base: AdaptedModel, adapter: Adapter, ids: readonly number[]): Promise<Float32Array> {
  const known = there(manifest, "the adapter");
  const out = await base.run(dataOf(known, "inference", [ids], there(words, "the tokenizer").pad), adapter, [known.logits]);
  return await out[known.logits]!.getData() as Float32Array;
}

async function classified(base: AdaptedModel, adapter: Adapter, text: string): Promise<Answer> {
  const known = there(manifest, "the adapter");
  const scores = Array.from(await logits(base, adapter, there(words, "the tokenizer").tokenizer.encode(text).ids));
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const sum = powers.reduce((sum, power) => sum + power, 0);
  const classes = powers.map((power, at) => ({ name: known.class_names?.[at] ?? String(at), probability: power / sum }));
  return { classes: classes.sort((a, b) => b.probability - a.probability) };
}

async function continued(base: AdaptedModel, adapter: Adapter, text: string): Promise<Answer> {
  const { tokenizer, eos } = there(words, "the tokenizer");
  const start = tokenizer.encode(text).ids.filter((id, at, all) => !(at === all.length - 1 && id === eos));
  const ids = [...start];
  for (let written = 0; written < WRITTEN; written++) {
    const scores = await logits(base, adapter, ids);
    const last = scores.subarray(scores.length - scores.length / ids.length);
    const next = last.reduce((best, score, at) => (score > last[best]! ? at : best), 0);
    if (next === eos) break;
    ids.push(next);
  }
  return { text: tokenizer.decode(ids.slice(start.length), { skip_special_tokens: true }) };
}

const WORK: { readonly [Name in keyof Requests]: (given: Requests[Name]["given"]) => Promise<Requests[Name]["answer"]> } = {
  open: opened,
  prepare: ({ options, columns, maxLength, holdsBack }) => prepared(options, columns, maxLength, holdsBack),
  train,
  stop: async () => {
    isStopped = true;
  },
  try: ({ text }) => tried(text),
  adapter: async () => there(trainer, "the trained adapter").adapter(),
  merge: async () => there(model, "the model").merge(there(manifest, "the adapter"), await there(trainer, "the trained adapter").adapter()),
};

self.onmessage = async ({ data }: MessageEvent<{ id: number; name: keyof Requests; given: never }>) => {
  try {
    self.postMessage({ id: data.id, answer: await WORK[data.name](data.given) });
  } catch (error) {
    self.postMessage({ id: data.id, error: error instanceof Error ? error.message : String(error) });
  }
};
