// `peft-onnx.json`: what the graphs of an exported folder take and give.

import { type Folder, json } from "./files.js";

/** An input or output of a graph. */
export interface Port {
  readonly name: string;
  readonly role: "data" | "labels" | "state" | "parameter" | "result";
  readonly dtype: string;
  /** Lengths; names where they vary. */
  readonly shape: readonly (number | string)[];
}

/** A graph. */
export interface GraphFile {
  readonly file: string;
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
}

/** A tensor's place in the trainable vector. */
export interface Slot {
  readonly name: string;
  readonly file: string;
  readonly input: string;
  readonly shape: readonly number[];
  readonly offset: number;
}

/** What a data input is for. */
export type Role = string | Readonly<Record<string, string>>;

/** What `peft-onnx.json` says. */
export interface Manifest {
  readonly version: number;
  readonly method: string;
  readonly task: string;
  readonly graphs: Readonly<Record<string, GraphFile>>;
  readonly trainable: readonly Slot[];
  readonly trainable_count: number;
  readonly base_count: number;
  readonly logits: string;
  readonly classes: number | null;
  readonly class_names?: readonly string[];
  readonly vocabulary?: number;
  readonly max_positions: number | null;
  readonly virtual_tokens?: number;
  readonly feeding: {
    readonly inputs: Readonly<Record<string, Role>>;
    readonly rows?: number;
    readonly length?: number;
    readonly padding?: string;
  };
  readonly loss: { readonly name: string; readonly class_weights?: readonly number[] };
}

/** The file. */
export const MANIFEST = "peft-onnx.json";
/** The version that is understood. */
const VERSION = 2;

/** Reads the manifest of a folder. */
export async function readManifest(folder: Folder): Promise<Manifest> {
  const manifest = await json<Manifest>(folder, MANIFEST, "`peft-onnx export BUNDLE --format training -o FOLDER` writes such a folder");
  if (manifest.version !== VERSION) {
    throw new Error(`${MANIFEST}: version: expected ${VERSION}, found ${manifest.version}\nhint: use the peft-onnx that wrote it`);
  }
  return manifest;
}

/** The graph for a purpose. */
export function graphOf(manifest: Manifest, purpose: string): GraphFile {
  const graph = manifest.graphs[purpose];
  if (graph === undefined) {
    const hint = "`peft-onnx export BUNDLE --format training -o FOLDER` writes all graphs";
    throw new Error(`no graph named ${JSON.stringify(purpose)} in ${MANIFEST}: it has ${Object.keys(manifest.graphs).join(", ")}\nhint: ${hint}`);
  }
  return graph;
}
