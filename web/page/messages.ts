// What the page and its worker say to each other.

import type { Decay, Files, InjectOptions, Inspection, Step } from "../src/index.js";
import type { Columns } from "./table.js";

/** Where to compute. */
export type Device = "wasm" | "webgpu";

/** What was dropped. */
export interface Given {
  readonly model: ArrayBuffer;
  /** The files that its weights lie in. */
  readonly data: Readonly<Record<string, ArrayBuffer>>;
  /** The tokenizer and configurations. */
  readonly beside: Readonly<Record<string, ArrayBuffer>>;
  readonly table: string;
}

/** A model with an adapter, and rows as numbers. */
export interface Prepared {
  readonly task: string;
  readonly method: string;
  readonly trainable: number;
  readonly base: number;
  readonly names: readonly string[];
  readonly learnt: number;
  readonly heldBack: number;
  /** Rows that had more tokens. */
  readonly cut: number;
}

/** How to train. */
export interface TrainOptions {
  readonly device: Device;
  readonly batchSize: number;
  readonly accumulation: number;
  readonly epochs: number;
  /** In place of epochs. */
  readonly steps?: number;
  readonly learningRate: number;
  readonly decay: Decay;
  readonly warmupSteps: number;
  readonly isShuffled: boolean;
  readonly seed: number;
}

/** What a model answers: classes with their probabilities, or how a text goes on. */
export interface Answer {
  readonly classes?: readonly { readonly name: string; readonly probability: number }[];
  readonly text?: string;
}

/** What the page asks, and what is answered. */
export interface Requests {
  open: { given: Given; answer: { readonly inspection: Inspection; readonly columns: readonly string[]; readonly rows: number } };
  prepare: { given: { readonly options: InjectOptions; readonly columns: Columns; readonly maxLength: number | undefined; readonly holdsBack: boolean }; answer: Prepared };
  train: { given: TrainOptions; answer: { readonly steps: number; readonly seconds: number } };
  stop: { given: Record<never, never>; answer: void };
  try: { given: { readonly text: string }; answer: { readonly before: Answer; readonly after: Answer } };
  adapter: { given: Record<never, never>; answer: Files };
  merge: { given: Record<never, never>; answer: Files };
}

/** What the worker tells unasked. */
export interface Events {
  warning: string;
  step: Step & { readonly of: number; readonly seconds: number };
  evaluation: { readonly step: number; readonly loss: number; readonly accuracy: number | undefined };
}
