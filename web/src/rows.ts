// Rows of a table as numbers, and numbers as batches: for classification and for language models, as `peft-onnx train` has them.

import { graphOf, type Manifest, type Port, type Role } from "./manifest.js";
import type { Numbers } from "./runtime.js";
import type { Batch } from "./trainer.js";

/** A tokenizer: `Tokenizer` of `@huggingface/tokenizers`. */
export interface Tokenizer {
  encode(text: string, options?: { text_pair?: string | null; add_special_tokens?: boolean; return_token_type_ids?: boolean | null }): {
    ids: number[];
    token_type_ids?: number[];
  };
  decode(ids: number[], options?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean | null }): string;
  token_to_id(token: string): number | undefined;
}

/** A row: `text` (and `text_pair`) with a `label`, a `text` to learn, or a `prompt` and its `completion`. */
export interface Row {
  readonly text?: string;
  readonly text_pair?: string;
  readonly label?: string | number;
  readonly prompt?: string;
  readonly completion?: string;
}

/** A row as numbers. */
export interface Example {
  readonly ids: readonly number[];
  readonly segments: readonly number[];
  /** A label for each token, -100 where none is learnt; or the row's class. */
  readonly labels: readonly number[] | number;
  /** Whether the row had more tokens. */
  readonly isCut: boolean;
}

/** The label of a token that does not count. */
const IGNORED = -100;

/** Names of special tokens where no file tells, as in `peft-onnx`. */
const USUAL = {
  eos: ["</s>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|im_end|>", "<eos>", "<end_of_turn>"],
  pad: ["[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"],
};

/** A tokenizer with its special tokens. */
export interface Vocabulary {
  readonly tokenizer: Tokenizer;
  /** The token that ends a text. */
  readonly eos: number | undefined;
  /** The token that rows are filled up with. */
  readonly pad: number;
}

/**
 * The special tokens of a tokenizer, of what the files beside it say, the most trusted first: `tokenizer_config.json`, `special_tokens_map.json`,
 * `generation_config.json`, `config.json`.
 */
export function vocabulary(tokenizer: Tokenizer, ...files: readonly Readonly<Record<string, unknown>>[]): Vocabulary {
  const told = (file: Readonly<Record<string, unknown>>, name: "eos" | "pad") => {
    const [token, id] = [file[`${name}_token`], file[`${name}_token_id`]];
    const text = typeof token === "string" ? token : (token as { content?: string } | null | undefined)?.content;
    const number: unknown = Array.isArray(id) ? id[0] : id;
    return (text === undefined ? undefined : tokenizer.token_to_id(text)) ?? (typeof number === "number" ? number : undefined);
  };
  const named = (name: "eos" | "pad") =>
    [...files.map((file) => told(file, name)), ...USUAL[name].map((token) => tokenizer.token_to_id(token))].find((id) => id !== undefined);
  const eos = named("eos");
  return { tokenizer, eos, pad: named("pad") ?? eos ?? 0 };
}

/** Rows as numbers, for the task of a manifest. Rows longer than `maxLength` tokens are cut, and say so. `class_names` of the manifest say which label has which number. */
export function encode(manifest: Manifest, { tokenizer, eos }: Vocabulary, rows: readonly Row[], maxLength?: number): Example[] {
  const most = manifest.feeding.length ?? manifest.max_positions ?? Infinity;
  const read = READERS[manifest.task];
  if (read === undefined) {
    const hint = `rows are read for ${Object.keys(READERS).join(", ")}; give the trainer batches of your own for other tasks`;
    throw new Error(`rows for ${manifest.task} are not read here\nhint: ${hint}`);
  }
  return rows.map((row, at) => {
    try {
      const example = read(row, { tokenizer, eos, limit: maxLength ?? Infinity, manifest });
      if (example.ids.length <= most) return example;
      throw new Error(`${example.ids.length} tokens, the model takes ${most}\nhint: a maxLength of ${most} cuts longer rows`);
    } catch (why) {
      throw new Error(`row ${at + 1}: ${(why as Error).message}`);
    }
  });
}

interface Reading {
  readonly tokenizer: Tokenizer;
  readonly eos: number | undefined;
  readonly limit: number;
  readonly manifest: Manifest;
}

const READERS: Readonly<Record<string, (row: Row, reading: Reading) => Example>> = {
  "seq-cls": classified,
  "causal-lm": written,
};

/** A text with its class. */
function classified(row: Row, { tokenizer, limit, manifest }: Reading): Example {
  const text = row.text?.trim() ? row.text : undefined;
  if (text === undefined) throw new Error("the column text is empty\nhint: leave the row out");
  if (row.label === undefined || row.label === "") throw new Error("no column named \"label\"");
  const pair = row.text_pair === undefined ? {} : { text_pair: row.text_pair };
  const { ids, token_type_ids: segments = [] } = tokenizer.encode(text, { return_token_type_ids: true, ...pair });
  const labels = classOf(row.label, manifest);
  if (ids.length <= limit) return { ids, segments, labels, isCut: false };
  if (row.text_pair !== undefined) throw new Error(`a pair of texts of ${ids.length} tokens, ${limit} are taken\nhint: shorten the texts`);
  const behind = addedBehind(ids, tokenizer.encode(text, { add_special_tokens: false }).ids);
  const cut = (tokens: readonly number[]) => [...tokens.slice(0, Math.max(limit - behind, 0)), ...tokens.slice(tokens.length - behind)];
  return { ids: cut(ids), segments: segments.length > 0 ? cut(segments) : [], labels, isCut: true };
}

/** How many tokens stand behind those of the text itself. */
function addedBehind(ids: readonly number[], plain: readonly number[]): number {
  const added = ids.length - plain.length;
  const before = Array.from({ length: added + 1 }, (_, at) => at).find((at) => plain.every((id, of) => ids[at + of] === id));
  return added - (before ?? added);
}

function classOf(label: string | number, manifest: Manifest): number {
  const names = manifest.class_names ?? [];
  const named = names.indexOf(String(label));
  const number = named >= 0 ? named : Number(label);
  const count = manifest.classes ?? Infinity;
  if (named < 0 && (names.length > 0 || !Number.isInteger(number))) {
    throw new Error(`the label ${JSON.stringify(label)} is no class\nhint: classes are ${names.length > 0 ? names.join(", ") : "numbers from 0 on"}`);
  }
  if (number < 0 || number >= count) throw new Error(`label: expected a number from 0 to ${count - 1}, found ${number}`);
  return number;
}

/** A text to learn, or the completion of a prompt. */
function written(row: Row, { tokenizer, eos, limit }: Reading): Example {
  const prompt = row.prompt ?? "";
  const text = row.prompt === undefined ? row.text : prompt + (row.completion ?? "");
  if (text === undefined) throw new Error("no column named \"text\"; nor prompt and completion");
  const ids = [...tokenizer.encode(text).ids];
  if (eos !== undefined && ids[ids.length - 1] !== eos) ids.push(eos);
  const begins = row.prompt === undefined ? 0 : seam(tokenizer, ids, prompt);
  const labels = ids.map((id, at) => (at < begins ? IGNORED : id));
  return { ids: ids.slice(0, limit), segments: [], labels: labels.slice(0, limit), isCut: ids.length > limit };
}

/** How many of the tokens lie in the prompt alone. A token that reaches into the completion belongs to that. */
function seam(tokenizer: Tokenizer, ids: readonly number[], prompt: string): number {
  const alone = tokenizer.encode(prompt).ids;
  let count = 0;
  while (count < alone.length && count < ids.length && alone[count] === ids[count]) count++;
  const reach = (count: number) =>
    tokenizer.decode(ids.slice(0, count), { skip_special_tokens: true, clean_up_tokenization_spaces: false }).length;
  while (count < ids.length && reach(count + 1) <= prompt.length) count++;
  return count;
}

/** Some examples as one batch, each as long as the longest of them. */
export function batchOf(manifest: Manifest, examples: readonly Example[], pad: number): Batch {
  const inputs = inputsOf(manifest, "training", examples, pad);
  const weights = manifest.loss.class_weights ?? [];
  const counts = (label: number) => (label === IGNORED ? 0 : 1);
  const weight = (label: number) => counts(label) * (weights[label] ?? 1);
  // A language model predicts no first token.
  const counted = (of: (label: number) => number) =>
    examples.flatMap(({ labels }) => (typeof labels === "number" ? [labels] : labels.slice(1))).reduce((sum, label) => sum + of(label), 0);
  inputs["labels"] = labelsOf(examples, inputs["labels"]?.dims[1] ?? lengthOf(manifest, examples));
  return { inputs, labelCount: counted(weight), secondCount: counted(counts) };
}

/** What a graph is fed for texts without labels. */
export function dataOf(manifest: Manifest, purpose: string, texts: readonly (readonly number[])[], pad: number): Record<string, Numbers> {
  return inputsOf(manifest, purpose, texts.map((ids) => ({ ids, segments: [], labels: [], isCut: false })), pad);
}

function lengthOf(manifest: Manifest, examples: readonly Example[]): number {
  return manifest.feeding.length ?? Math.max(...examples.map(({ ids }) => ids.length));
}

function labelsOf(examples: readonly Example[], length: number): Numbers {
  if (examples.every(({ labels }) => typeof labels === "number")) {
    return { type: "int64", data: BigInt64Array.from(examples, ({ labels }) => BigInt(labels as number)), dims: [examples.length] };
  }
  return whole(matrix(examples.map(({ labels }) => labels as readonly number[]), length, IGNORED));
}

function inputsOf(manifest: Manifest, purpose: string, examples: readonly Example[], pad: number): Record<string, Numbers> {
  const length = lengthOf(manifest, examples);
  const { rows } = manifest.feeding;
  if (rows !== undefined && rows !== examples.length) {
    throw new Error(`rows in a batch: expected ${rows}, as many as the model takes, found ${examples.length}`);
  }
  const { padding = "hidden" } = manifest.feeding;
  const isRead = padding === "read" || (padding === "later" && manifest.task !== "causal-lm");
  if (isRead && examples.some(({ ids }) => ids.length !== length)) {
    const hint = "rows of one length go together: the model has no input that hides what fills up short ones";
    throw new Error(`rows of ${[...new Set(examples.map(({ ids }) => ids.length))].join(" and ")} tokens in a batch\nhint: ${hint}`);
  }
  const ports = graphOf(manifest, purpose).inputs.filter((port) => port.role === "data");
  return Object.fromEntries(ports.map((port) => [port.name, filled(port, manifest.feeding.inputs[port.name], examples, length, pad)]));
}

/** What an input is filled with. */
function filled(port: Port, role: Role | undefined, examples: readonly Example[], length: number, pad: number): Numbers {
  const [name, form] = typeof role === "object" ? Object.entries(role)[0]! : [role, undefined];
  switch (name) {
    case "input_ids":
      return as(port, matrix(examples.map(({ ids }) => ids), length, pad));
    case "attention_mask": {
      const [seen, hidden] = form === "seen" || form === undefined ? [1, 0] : form === "hidden" ? [0, 1] : [0, -3.4028234663852886e38];
      return as(port, matrix(examples.map(({ ids }) => ids.map(() => seen)), length, hidden));
    }
    case "position_ids":
      return as(port, matrix(examples.map(({ ids }) => ids.map((_, at) => at)), length, 0));
    case "token_type_ids":
      return as(port, matrix(examples.map(({ ids, segments }) => ids.map((_, at) => segments[at] ?? 0)), length, 0));
    case "lengths":
      return as(port, { values: examples.map(({ ids }) => ids.length), dims: [examples.length] });
    case "past":
      return emptyCache(port, examples.length);
    case "use_cache_branch":
      return { type: "bool", data: Uint8Array.of(0), dims: port.shape.map(() => 1) };
    default:
      throw new Error(`input ${port.name}: nothing in the rows fills it\nhint: give the trainer batches of your own`);
  }
}

/** A cache of no tokens: its axes that vary are the batch and its length. */
function emptyCache(port: Port, rows: number): Numbers {
  const dims = port.shape.map((axis, at) => (typeof axis === "number" ? axis : at === 0 ? rows : 0));
  if (port.dtype !== "float") throw new Error(`input ${port.name}: a cache of ${port.dtype} is not fed here`);
  return { type: "float32", data: new Float32Array(0), dims };
}

/** Numbers with a shape, of no type yet. */
interface Grid {
  readonly values: readonly number[];
  readonly dims: readonly number[];
}

/** Rows of one length, short ones filled up. */
function matrix(rows: readonly (readonly number[])[], length: number, fill: number): Grid {
  const filled = (row: readonly number[]) => Array.from({ length }, (_, at) => row[at] ?? fill);
  return { values: rows.flatMap(filled), dims: [rows.length, length] };
}

function whole({ values, dims }: Grid): Numbers {
  return { type: "int64", data: BigInt64Array.from(values, BigInt), dims };
}

/** Numbers in the type that an input has. */
function as(port: Port, grid: Grid): Numbers {
  const { values, dims } = grid;
  switch (port.dtype) {
    case "int64":
      return whole(grid);
    case "int32":
      return { type: "int32", data: Int32Array.from(values), dims };
    case "bool":
      return { type: "bool", data: Uint8Array.from(values), dims };
    case "float":
      return { type: "float32", data: Float32Array.from(values), dims };
    default:
      throw new Error(`input ${port.name}: numbers of type ${port.dtype} are not fed here`);
  }
}

/** Batches of so many examples each, epoch after epoch: in their order, or shuffled anew each epoch with a seed. */
export function* batches<T>(examples: readonly T[], size: number, seed?: number): Generator<{ readonly epoch: number; readonly examples: readonly T[] }, never> {
  if (examples.length === 0 || size < 1) throw new Error("batches need rows, and a size of at least one");
  for (let epoch = 0; ; epoch++) {
    const order = seed === undefined ? examples : shuffled(examples, seed + epoch);
    for (let at = 0; at < order.length; at += size) yield { epoch, examples: order.slice(at, at + size) };
  }
}

/** Fisher and Yates, drawn by a generator of 32 bits (mulberry32). */
export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const order = [...items];
  let state = seed >>> 0;
  const draw = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let at = order.length - 1; at > 0; at--) {
    const other = Math.floor(draw() * (at + 1));
    [order[at], order[other]] = [order[other]!, order[at]!];
  }
  return order;
}
