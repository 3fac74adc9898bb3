// Adapters of one loaded base: `inference.onnx` takes the adapter's tensors as inputs, so that another adapter is other inputs of the same session.

import type { InferenceSession, Tensor } from "onnxruntime-common";

import type { Core } from "./core.js";
import { type Files, type Folder, folderOf, json, needed, type Source } from "./files.js";
import { graphOf, type Manifest, readManifest, type Slot } from "./manifest.js";
import { type Numbers, open, type Runtime, type SessionOptions, tensor } from "./runtime.js";
import { type FloatTensor, readSafetensors, type Tensors, writeSafetensors } from "./safetensors.js";

/** The file with an adapter's configuration. */
export const CONFIG = "adapter_config.json";
/** The file with its tensors. */
export const WEIGHTS = "adapter_model.safetensors";
/** What a method trains where the adapter's file has what is made of it. */
const BESIDE = ["prompt_encoder.safetensors", "lora_factors.safetensors"];
/** The file with the weights of an exported folder's graphs. */
export const DATA = "training.data";
/** What PEFT puts in front of names. */
const PREFIX = "base_model.model.";

/** Settings that say how an adapter was made or where it belongs: the same graph runs it, whatever they are. */
const OF_NO_GRAPH = new Set([
  "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "peft_version", "target_modules", "exclude_modules",
  "modules_to_save", "layers_to_transform", "layers_pattern", "lora_dropout", "init_lora_weights", "loftq_config", "corda_config", "eva_config",
  "megatron_config", "megatron_core", "runtime_config", "qalora_group_size", "use_qalora", "new_head", "peft_onnx", "lora_bias", "bias",
]);

/** An adapter, ready for a base: what its session is fed beside the data. */
export interface Adapter {
  /** Tensors by the names of the inference graph's inputs. */
  readonly feeds: Readonly<Record<string, Numbers>>;
}

/** An adapter's files as they are read. */
export interface AdapterFiles {
  readonly config: Record<string, unknown>;
  readonly tensors: Tensors;
  readonly files: Files;
}

/** Reads an adapter that PEFT, or peft-onnx, wrote. */
export async function readAdapter(source: Source | Folder): Promise<AdapterFiles> {
  const folder = isFolder(source) ? source : folderOf(source);
  const hint = "an adapter is what PEFT's `save_pretrained` writes";
  const config = await json<Record<string, unknown>>(folder, CONFIG, hint);
  const files: Record<string, Uint8Array> = { [CONFIG]: await needed(folder, CONFIG, hint), [WEIGHTS]: await needed(folder, WEIGHTS, hint) };
  for (const name of BESIDE) {
    const bytes = await folder.read(name);
    if (bytes !== undefined) files[name] = bytes;
  }
  return { config, tensors: readSafetensors(files[WEIGHTS]!), files };
}

function isFolder(source: Source | Folder): source is Folder {
  return typeof (source as Folder).read === "function";
}

/**
 * An adapter for the inference graph of `manifest`, which was made for the adapter `own`. Without `core` the other one must have the same settings; with it
 * scales may differ.
 */
export async function loadAdapter(manifest: Manifest, own: AdapterFiles, source: Source | Folder, core?: Core): Promise<Adapter> {
  const adapter = await readAdapter(source);
  if (core !== undefined) return { feeds: core.adapterInputs(manifest, own.files, adapter.files) };
  const differs = differing(own.config, adapter.config);
  if (differs.length > 0) {
    const told = differs.map((name) => `${name} is ${show(adapter.config[name])}, the graph has ${show(own.config[name])}`);
    throw new Error(`${CONFIG}: ${told.join("; ")}\nhint: give loadAdapter the core, which brings scales to those of the graph`);
  }
  return { feeds: feedsOf(manifest, adapter.tensors) };
}

function show(value: unknown): string {
  return value === undefined ? "not there" : JSON.stringify(value);
}

function differing(own: Record<string, unknown>, other: Record<string, unknown>): string[] {
  const said = (value: unknown) => (value === null || value === false || isEmpty(value) ? undefined : JSON.stringify(value));
  const names = new Set([...Object.keys(own), ...Object.keys(other)].filter((name) => !OF_NO_GRAPH.has(name)));
  return [...names].filter((name) => said(own[name]) !== said(other[name]));
}

function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/** The inputs of the inference graph that an adapter's tensors are, each with its shape checked. */
function feedsOf(manifest: Manifest, tensors: Tensors): Record<string, Numbers> {
  const ports = new Map(graphOf(manifest, "inference").inputs.filter((port) => port.role === "parameter").map((port) => [port.name, port]));
  const slots = new Map(manifest.trainable.map((slot) => [slot.name, slot.input]));
  const feeds: Record<string, Numbers> = {};
  for (const [key, found] of tensors) {
    const names = [slots.get(key), key.startsWith(PREFIX) ? key.slice(PREFIX.length) : undefined, key];
    const port = names.map((name) => (name === undefined ? undefined : ports.get(name))).find((port) => port !== undefined);
    if (port === undefined) {
      const hint = "an adapter fits the graph of another one if both attach to the same modules with the same ranks";
      throw new Error(`tensor ${key}: no input of the inference graph is its\nhint: ${hint}`);
    }
    if (JSON.stringify(port.shape) !== JSON.stringify(found.shape)) {
      throw new Error(`tensor ${key}: shape: expected ${JSON.stringify(port.shape)}, found ${JSON.stringify(found.shape)}`);
    }
    feeds[port.name] = { type: "float32", data: found.data, dims: found.shape };
  }
  const missing = [...ports.keys()].filter((name) => !(name in feeds));
  if (missing.length > 0) {
    throw new Error(`the adapter has no tensor for ${missing.slice(0, 4).join(", ")}\nhint: it attaches to other modules than the graph's`);
  }
  return feeds;
}

/** The part of a trainable vector that a slot is. */
function partOf(vector: Float32Array, slot: Slot): FloatTensor {
  const length = slot.shape.reduce((product, axis) => product * axis, 1);
  return { shape: slot.shape, data: vector.slice(slot.offset, slot.offset + length) };
}

/** The files of an adapter, as PEFT reads them, with a trainable vector. `core` is needed for methods that keep parameters beside the adapter's own file. */
export function filledAdapter(manifest: Manifest, own: AdapterFiles, vector: Float32Array, core?: Core): Files {
  if (vector.length !== manifest.trainable_count) {
    throw new Error(`numbers in the trainable vector: expected ${manifest.trainable_count}, found ${vector.length}`);
  }
  if (core !== undefined) return core.filledAdapter(manifest, own.files, vector);
  const beside = manifest.trainable.find((slot) => slot.file !== WEIGHTS);
  if (beside !== undefined) {
    throw new Error(`${beside.name} is kept in ${beside.file}, and the adapter is computed from it\nhint: give the trainer the core: \`{ core: await Core.load() }\``);
  }
  const tensors: Tensors = new Map(own.tensors);
  for (const slot of manifest.trainable) tensors.set(slot.name, partOf(vector, slot));
  return { [CONFIG]: own.files[CONFIG]!, [WEIGHTS]: writeSafetensors(tensors) };
}

/** A base with an adapter at its side: one session, any number of adapters. */
export class AdaptedModel {
  private readonly device: Map<Adapter, Record<string, Tensor>> = new Map();

  private constructor(
    private readonly ort: Runtime,
    /** The session of the inference graph. */
    readonly session: InferenceSession,
    /** What the folder says of its graphs. */
    readonly manifest: Manifest,
    private readonly own: AdapterFiles,
    /** The adapter that came with the folder. */
    readonly initial: Adapter,
    private readonly core: Core | undefined,
  ) {}

  /** Opens the inference graph of a folder that `peft-onnx export --format training` or `Core` wrote. */
  static async open(ort: Runtime, source: Source, options: SessionOptions & { readonly core?: Core } = {}): Promise<AdaptedModel> {
    const folder = folderOf(source);
    const [manifest, own] = [await readManifest(folder), await readAdapter(folder)];
    const session = await open(ort, folder, graphOf(manifest, "inference").file, DATA, options);
    const initial = await loadAdapter(manifest, own, folder, options.core);
    return new AdaptedModel(ort, session, manifest, own, initial, options.core);
  }

  /** Another adapter for the same session: a PEFT folder with the same modules and ranks. */
  async loadAdapter(source: Source): Promise<Adapter> {
    return loadAdapter(this.manifest, this.own, source, this.core);
  }

  /** Runs the base with an adapter; without one, with the adapter that came with the folder. */
  async run(data: Readonly<Record<string, Numbers | Tensor>>, adapter: Adapter = this.initial, outputs?: readonly string[]): Promise<InferenceSession.OnnxValueMapType> {
    const feeds: Record<string, Tensor> = { ...this.tensors(adapter) };
    for (const [name, numbers] of Object.entries(data)) feeds[name] = tensor(this.ort, numbers);
    const missing = this.session.inputNames.filter((name) => !(name in feeds));
    if (missing.length > 0) throw new Error(`inputs that are not fed: ${missing.join(", ")}`);
    return outputs === undefined ? this.session.run(feeds) : this.session.run(feeds, outputs);
  }

  /** Lets an adapter go: its tensors are kept for as long as it is used. */
  forget(adapter: Adapter): void {
    this.device.delete(adapter);
  }

  /** Lets the session go. */
  async release(): Promise<void> {
    this.device.clear();
    await this.session.release();
  }

  private tensors(adapter: Adapter): Record<string, Tensor> {
    const known = this.device.get(adapter);
    if (known !== undefined) return known;
    const made = Object.fromEntries(Object.entries(adapter.feeds).map(([name, numbers]) => [name, tensor(this.ort, numbers)]));
    this.device.set(adapter, made);
    return made;
  }
}
