// What is used of ONNX Runtime: onnxruntime-web and onnxruntime-node both have it.

import type { InferenceSession, Tensor } from "onnxruntime-common";

import type { Folder } from "./files.js";

/** The module `onnxruntime-web`, `onnxruntime-web/webgpu` or `onnxruntime-node`. */
export interface Runtime {
  readonly InferenceSession: { create(model: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession> };
  readonly Tensor: new (type: Tensor.Type, data: Tensor.DataType, dims?: readonly number[]) => Tensor;
  readonly env?: { readonly wasm: { numThreads?: number } };
}

/** Numbers with a shape. */
export interface Numbers {
  readonly type: "int64" | "int32" | "float32" | "bool";
  readonly data: BigInt64Array | Int32Array | Float32Array | Uint8Array;
  readonly dims: readonly number[];
}

/** How sessions are opened. */
export interface SessionOptions {
  /** Where to compute: `["webgpu"]`, `["wasm"]`, `["cpu"]`; by default what the runtime takes. */
  readonly executionProviders?: InferenceSession.SessionOptions["executionProviders"];
  /** Other options of ONNX Runtime. */
  readonly sessionOptions?: InferenceSession.SessionOptions;
}

/** The tensor of some numbers; a tensor stays what it is. */
export function tensor(ort: Runtime, numbers: Numbers | Tensor): Tensor {
  return "location" in numbers ? numbers : new ort.Tensor(numbers.type, numbers.data as Tensor.DataType, numbers.dims);
}

/** A whole number, rank 0. */
export function whole(ort: Runtime, value: number): Tensor {
  return new ort.Tensor("int64", BigInt64Array.of(BigInt(value)), []);
}

/** A number, rank 0. */
export function number(ort: Runtime, value: number): Tensor {
  return new ort.Tensor("float32", Float32Array.of(value), []);
}

/** The one number of a tensor. */
export async function item(tensor: Tensor | undefined): Promise<number> {
  if (tensor === undefined) return NaN;
  return Number((await tensor.getData() as Float32Array)[0]);
}

/** The numbers of a float32 tensor, wherever they are. */
export async function floats(tensor: Tensor): Promise<Float32Array> {
  return await tensor.getData() as Float32Array;
}

/** Lets go of a tensor's memory, where it is the device's. */
export function drop(tensor: Tensor | undefined): void {
  if (tensor !== undefined && tensor.location !== "cpu" && tensor.location !== "none") tensor.dispose();
}

/** Whether sessions compute on WebGPU, so that what goes around from step to step stays there. */
export function isOnDevice(options: SessionOptions): boolean {
  const providers = options.executionProviders ?? [];
  return providers.some((provider) => (typeof provider === "string" ? provider : provider.name) === "webgpu");
}

/** Without a `navigator` (node before 21), onnxruntime-web counts cores by a `require` that its modules for browsers do not have: the count is given instead, as it would make it. */
function countThreads(ort: Runtime): void {
  const wasm = ort.env?.wasm;
  if (wasm === undefined || wasm.numThreads !== undefined || typeof navigator !== "undefined") return;
  const cores = globalThis.process?.getBuiltinModule?.("node:os").availableParallelism() ?? 1;
  wasm.numThreads = Math.min(4, Math.ceil(cores / 2));
}

/** Opens a graph of a folder. Outputs in `kept` stay on the device, if there is one. */
export async function open(
  ort: Runtime,
  folder: Folder,
  file: string,
  weights: string,
  options: SessionOptions,
  kept: readonly string[] = [],
): Promise<InferenceSession> {
  const model = await folder.read(file);
  if (model === undefined) throw new Error(`no file ${file} in ${folder.name}\nhint: \`peft-onnx export BUNDLE --format training -o FOLDER\` writes it`);
  const data = await folder.read(weights);
  const locations = Object.fromEntries(kept.map((name) => [name, "gpu-buffer" as const]));
  const all: InferenceSession.SessionOptions = {
    logSeverityLevel: 3,
    ...(options.executionProviders === undefined ? {} : { executionProviders: options.executionProviders }),
    ...(isOnDevice(options) && kept.length > 0 ? { preferredOutputLocation: locations } : {}),
    ...(data === undefined ? {} : { externalData: [{ path: weights, data }] }),
    ...options.sessionOptions,
  };
  countThreads(ort);
  return ort.InferenceSession.create(model, all);
}
