// A table of rows: what its columns are, and which classes its labels name.

import Papa from "papaparse";

import type { Row } from "../src/index.js";

/** A table. */
export interface Table {
  readonly columns: readonly string[];
  readonly rows: readonly Readonly<Record<string, string>>[];
}

/** What the columns of a table are used as. */
export interface Columns {
  readonly text?: string | undefined;
  readonly label?: string | undefined;
  readonly prompt?: string | undefined;
  readonly completion?: string | undefined;
}

/** Names that columns usually have. */
const USUAL = {
  text: ["text", "sentence", "body", "content", "review", "message", "question", "title"],
  label: ["label", "labels", "class", "category", "target", "sentiment"],
  prompt: ["prompt", "instruction", "input"],
  completion: ["completion", "response", "output", "answer"],
};

/** Reads a table whose first row names its columns, or lines of JSON. */
export function readTable(text: string): Table {
  const trimmed = text.replace(/^\uFEFF/, "");
  return trimmed.startsWith("{") ? ofJson(trimmed) : ofCsv(trimmed);
}

function ofCsv(text: string): Table {
  const { data, errors, meta } = Papa.parse<Record<string, string>>(text, { header: true, skipEmptyLines: "greedy" });
  // One column alone has no separator to be found.
  const first = errors.find((error) => error.code !== "UndetectableDelimiter");
  if (first !== undefined) throw new Error(`the table, row ${(first.row ?? 0) + 1}: ${first.message}\nhint: a text with a separator or a line break stands in quotation marks`);
  if (data.length === 0) throw new Error("the table has no rows\nhint: its first row names the columns");
  return { columns: meta.fields ?? [], rows: data };
}

function ofJson(text: string): Table {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const rows = lines.map((line, at) => {
    try {
      const row = JSON.parse(line) as Record<string, unknown>;
      return Object.fromEntries(Object.entries(row).filter(([, value]) => typeof value !== "object").map(([name, value]) => [name, String(value)]));
    } catch (why) {
      throw new Error(`the rows, line ${at + 1}: ${(why as Error).message}`);
    }
  });
  return { columns: [...new Set(rows.flatMap(Object.keys))], rows };
}

/** What columns are by their names and values. */
export function guessed({ columns, rows }: Table): Columns {
  const named = (role: keyof typeof USUAL) => USUAL[role].map((name) => columns.find((column) => column.toLowerCase() === name)).find((column) => column !== undefined);
  const [prompt, completion] = [named("prompt"), named("completion")];
  if (prompt !== undefined && completion !== undefined) return { prompt, completion };
  const different = (column: string) => new Set(rows.map((row) => row[column])).size;
  const others = (taken: string | undefined) => columns.filter((column) => column !== taken);
  const text = named("text") ?? others(named("label")).sort((a, b) => different(b) - different(a))[0];
  // A column whose values come again and again.
  const label = named("label") ?? others(text).filter((column) => 2 * different(column) <= rows.length).sort((a, b) => different(a) - different(b))[0];
  return { text, label };
}

/** The classes of a column: names in the order of the alphabet; none where labels are numbers. */
export function classesOf({ rows }: Table, column: string): { readonly names: string[]; readonly count: number } {
  const labels = [...new Set(rows.map((row) => row[column] ?? ""))];
  if (labels.every((label) => /^\d+$/.test(label))) return { names: [], count: Math.max(...labels.map(Number)) + 1 };
  const names = labels.filter((label) => label !== "").sort((a, b) => (a < b ? -1 : 1));
  return { names, count: names.length };
}

/** The rows as training takes them. */
export function rowsOf({ rows }: Table, { text, label, prompt, completion }: Columns): Row[] {
  return rows.map((row) => {
    if (prompt !== undefined && completion !== undefined) return { prompt: row[prompt] ?? "", completion: row[completion] ?? "" };
    return { ...(text === undefined ? {} : { text: row[text] ?? "" }), ...(label === undefined ? {} : { label: row[label] ?? "" }) };
  });
}
