// A training loop over the graphs of an exported folder: AdamW's state goes around, the data comes in batches.

import type { InferenceSession, Tensor } from "onnxruntime-common";

import { type AdapterFiles, DATA, filledAdapter, readAdapter } from "./adapter.js";
import type { Core } from "./core.js";
import { type Files, type Folder, folderOf, json, jsonBytes, needed, type Source } from "./files.js";
import { graphOf, type Manifest, readManifest } from "./manifest.js";
import { drop, floats, item, number, type Numbers, open, type Runtime, type SessionOptions, tensor, whole } from "./runtime.js";
import { readSafetensors, writeSafetensors } from "./safetensors.js";
import { type Decay, rate, type Schedule } from "./schedule.js";

/** Rows as the graphs take them. */
export interface Batch {
  /** The data inputs and labels, by name. */
  readonly inputs: Readonly<Record<string, Numbers | Tensor>>;
  /** What the loss is divided by: labels that count, or rows. */
  readonly labelCount: number;
  /**
   * What the second term of a loss is divided by, for losses that have one: with a teacher beside classes that weigh, labels whatever they weigh; with `orpo`, the tokens of
   * chosen texts that something predicts, prompts counted. Batches that are accumulated need it.
   */
  readonly secondCount?: number;
}

/** How a trainer takes its steps. */
export interface TrainerOptions extends SessionOptions {
  /** The learning rate at its highest; 2e-4 by default. */
  readonly learningRate?: number;
  /** How it goes on; it stays by default. */
  readonly decay?: Decay;
  /** Steps over which it rises. */
  readonly warmupSteps?: number;
  /** Steps of the whole run, which `linear` and `cosine` fall over. */
  readonly totalSteps?: number;
  /** Decides which elements dropout drops in accumulated steps. */
  readonly seed?: number;
  /** A checkpoint to go on from. */
  readonly resume?: Source;
  /** The core, for methods that keep parameters beside the adapter's own file. */
  readonly core?: Core;
}

/** What a step found. */
export interface Step {
  /** Its number, from 1. */
  readonly number: number;
  /** The loss before the update, mean over the labels that count. */
  readonly loss: number;
  /** The norm of the gradient before clipping. */
  readonly gradNorm: number;
  /** Whether the update was made: a gradient or a state that is not finite changes nothing. */
  readonly isUpdated: boolean;
  readonly learningRate: number;
}

/** What a batch is worth with the adapter as it is. */
export interface Evaluation {
  readonly lossSum: number;
  readonly labelCount: number;
  /** Right predictions, where the task counts them. */
  readonly correct: number | undefined;
  /** What the loss read: `logits`, `embeddings`, .. */
  readonly predictions: Readonly<Record<string, Tensor>>;
}

const STATE = ["trainable", "adam_m", "adam_v"] as const;
const NEXT = STATE.map((name) => `${name}_next`);
const TOLD = ["grad_norm", "updated"];
const RESULTS = new Set(["loss_sum", "label_count", "correct"]);
/** The files of a checkpoint beside the adapter's. */
const OPTIMIZER = "optimizer.safetensors";
const PROGRESS = "trainer_state.json";

type State = Record<(typeof STATE)[number], Tensor>;

/** What the second term of the loss of several batches is divided by. */
function secondCount(batches: readonly Batch[]): number {
  const counts = batches.map((batch) => {
    if (batch.secondCount === undefined) {
      throw new Error("the loss has a second term, and a batch does not say what it is divided by\nhint: give each batch its secondCount, or take whole batches");
    }
    return batch.secondCount;
  });
  const sum = counts.reduce((sum, count) => sum + count, 0);
  return sum > 0 ? sum : 1;
}

/** An adapter being trained. */
export class Trainer {
  private readonly sessions = new Map<string, Promise<InferenceSession>>();
  private readonly schedule: Schedule;

  private constructor(
    private readonly ort: Runtime,
    private readonly folder: Folder,
    /** What the folder says of its graphs. */
    readonly manifest: Manifest,
    private readonly own: AdapterFiles,
    private readonly options: TrainerOptions,
    private state: State,
    private taken: number,
  ) {
    const { decay = "constant", learningRate = 2e-4, warmupSteps = 0, totalSteps } = options;
    if (decay !== "constant" && totalSteps === undefined) throw new Error(`the learning rate falls (${decay}) over totalSteps, which is not given`);
    this.schedule = { decay, peak: learningRate, warmupSteps, totalSteps: totalSteps ?? 0 };
  }

  /** Opens a folder that `peft-onnx export --format training` or `Core` wrote. */
  static async open(ort: Runtime, source: Source, options: TrainerOptions = {}): Promise<Trainer> {
    const folder = folderOf(source);
    const [manifest, own] = [await readManifest(folder), await readAdapter(folder)];
    const [state, taken] = options.resume === undefined
      ? [await first(ort, folder), 0] as const
      : await resumed(ort, folderOf(options.resume), manifest);
    return new Trainer(ort, folder, manifest, own, options, state, taken);
  }

  /** How many steps were taken. */
  get steps(): number {
    return this.taken;
  }

  /** Takes an optimizer step over a batch; over several ones, whose gradients are added up. */
  async step(batches: Batch | readonly Batch[]): Promise<Step> {
    const all = Array.isArray(batches) ? (batches as readonly Batch[]) : [batches as Batch];
    const [only] = all;
    if (only === undefined) throw new Error("a step needs a batch");
    const step = this.taken + 1;
    const learningRate = rate(this.schedule, step);
    const feeds = { step: whole(this.ort, step), learning_rate: number(this.ort, learningRate) };
    const out = all.length === 1 ? await this.whole(only, feeds) : await this.accumulated(all, feeds);
    const isUpdated = (await item(out.results["updated"])) > 0;
    const before = this.state;
    this.state = { trainable: out.results["trainable_next"]!, adam_m: out.results["adam_m_next"]!, adam_v: out.results["adam_v_next"]! };
    for (const name of STATE) drop(before[name]);
    this.taken = step;
    return { number: step, loss: out.loss, gradNorm: await item(out.results["grad_norm"]), isUpdated, learningRate };
  }

  /** The loss of a batch with the adapter as it is, and what the model answers. */
  async evaluate(batch: Batch): Promise<Evaluation> {
    const session = await this.session("evaluation");
    const feeds = this.fed("evaluation", session, batch, { trainable: this.state.trainable });
    const out = await session.run(feeds);
    const predictions = Object.entries(out).filter(([name]) => !RESULTS.has(name)) as [string, Tensor][];
    const correct = out["correct"] as Tensor | undefined;
    return {
      lossSum: await item(out["loss_sum"] as Tensor),
      labelCount: await item(out["label_count"] as Tensor),
      correct: correct === undefined ? undefined : await item(correct),
      predictions: Object.fromEntries(predictions),
    };
  }

  /** All trainable numbers as they are. */
  async trainable(): Promise<Float32Array> {
    return Float32Array.from(await floats(this.state.trainable));
  }

  /** The adapter as it is: the files of a PEFT folder. */
  async adapter(): Promise<Files> {
    return filledAdapter(this.manifest, this.own, await this.trainable(), this.options.core);
  }

  /** The adapter, and beside it what an exact resume needs. */
  async checkpoint(): Promise<Files> {
    const vectors = await Promise.all(STATE.map(async (name) => [name, Float32Array.from(await floats(this.state[name]))] as const));
    const optimizer = new Map(vectors.map(([name, data]) => [name, { shape: [data.length], data }]));
    const progress = { step: this.taken, trainable_count: this.manifest.trainable_count };
    return { ...(await this.adapter()), [OPTIMIZER]: writeSafetensors(optimizer), [PROGRESS]: jsonBytes(progress) };
  }

  /** Lets the sessions go. */
  async release(): Promise<void> {
    for (const name of STATE) drop(this.state[name]);
    const opened = await Promise.all(this.sessions.values());
    this.sessions.clear();
    for (const session of opened) await session.release();
  }

  /** One graph does it all. */
  private async whole(batch: Batch, feeds: Record<string, Tensor>): Promise<Outcome> {
    const session = await this.session("training");
    const results = await session.run(this.fed("training", session, batch, { ...feeds, ...this.state }), ["loss", ...TOLD, ...NEXT]);
    return { loss: await item(results["loss"] as Tensor), results: results as Record<string, Tensor> };
  }

  /** The gradient of each batch is added up; then the update. */
  private async accumulated(batches: readonly Batch[], feeds: Record<string, Tensor>): Promise<Outcome> {
    const [session, update] = [await this.session("gradient"), await this.session("update")];
    const labels = batches.reduce((sum, batch) => sum + batch.labelCount, 0);
    const count = number(this.ort, labels > 0 ? labels : 1);
    const second = session.inputNames.includes("second_count") ? { second_count: number(this.ort, secondCount(batches)) } : {};
    let gradient = new this.ort.Tensor("float32", new Float32Array(this.manifest.trainable_count), [this.manifest.trainable_count]);
    let loss = 0;
    for (const [at, batch] of batches.entries()) {
      const seed = whole(this.ort, dropoutSeed(this.options.seed ?? 42, this.taken, at));
      const more = { ...feeds, ...second, label_count: count, trainable: this.state.trainable, gradient, dropout_seed: seed };
      const out = await session.run(this.fed("gradient", session, batch, more), ["loss", "gradient_next"]);
      drop(gradient);
      gradient = out["gradient_next"] as Tensor;
      loss += await item(out["loss"] as Tensor);
    }
    const results = await update.run({ ...feeds, ...this.state, gradient }, [...TOLD, ...NEXT]);
    drop(gradient);
    return { loss, results: results as Record<string, Tensor> };
  }

  /** What a session takes, of a batch and what goes around. */
  private fed(purpose: string, session: InferenceSession, batch: Batch, more: Record<string, Tensor>): Record<string, Tensor> {
    const feeds: Record<string, Tensor> = {};
    for (const name of session.inputNames) {
      const given = batch.inputs[name];
      const value = more[name] ?? (given === undefined ? undefined : tensor(this.ort, given));
      if (value === undefined) {
        throw new Error(`${purpose}.onnx: input ${name} is in no batch\nhint: a batch has ${Object.keys(batch.inputs).join(", ")}`);
      }
      feeds[name] = value;
    }
    return feeds;
  }

  private session(purpose: string): Promise<InferenceSession> {
    const known = this.sessions.get(purpose);
    if (known !== undefined) return known;
    const kept = { training: NEXT, update: NEXT, gradient: ["gradient_next"] }[purpose] ?? [];
    const opened = open(this.ort, this.folder, graphOf(this.manifest, purpose).file, DATA, this.options, kept);
    this.sessions.set(purpose, opened);
    return opened;
  }
}

interface Outcome {
  readonly loss: number;
  readonly results: Record<string, Tensor>;
}

/** Other batches drop other elements; the same run drops the same. */
function dropoutSeed(seed: number, taken: number, at: number): number {
  let mixed = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(taken + 1, 0xc2b2ae35) ^ Math.imul(at + 1, 0x27d4eb2f);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x7feb352d);
  return (mixed ^ (mixed >>> 15)) >>> 1;
}

async function first(ort: Runtime, folder: Folder): Promise<State> {
  // It has no inputs and computes nothing: wherever the others run, this one runs on the CPU.
  const session = await open(ort, folder, "initial.onnx", "initial.data", {});
  const out = await session.run({}, [...STATE]);
  const state = Object.fromEntries(await Promise.all(STATE.map(async (name) => {
    const data = Float32Array.from(await floats(out[name] as Tensor));
    return [name, new ort.Tensor("float32", data, [data.length])] as const;
  })));
  await session.release();
  return state as State;
}

async function resumed(ort: Runtime, folder: Folder, manifest: Manifest): Promise<readonly [State, number]> {
  const hint = "a checkpoint is what `Trainer.checkpoint()` gives";
  const progress = await json<{ step: number }>(folder, PROGRESS, hint);
  const tensors = readSafetensors(await needed(folder, OPTIMIZER, hint));
  const state = Object.fromEntries(STATE.map((name) => {
    const data = tensors.get(name)?.data;
    if (data?.length !== manifest.trainable_count) {
      throw new Error(`${OPTIMIZER}: ${name}: expected ${manifest.trainable_count} numbers, found ${data?.length ?? 0}\nhint: it is a checkpoint of another model or method`);
    }
    return [name, new ort.Tensor("float32", data, [data.length])] as const;
  }));
  return [state as State, progress.step];
}
