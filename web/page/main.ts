// The page: what is dropped, asked and shown. The work is the worker's.

import type { Decay, Files, InjectOptions, Inspection } from "../src/index.js";
import { Curve } from "./curve.js";
import type { Answer, Device, Events, Prepared, Requests } from "./messages.js";
import { classesOf, type Columns, guessed, readTable, type Table } from "./table.js";

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map<number, { readonly resolve: (answer: never) => void; readonly reject: (why: Error) => void }>();
let asked = 0;

function ask<Name extends keyof Requests>(name: Name, given: Requests[Name]["given"], handed: Transferable[] = []): Promise<Requests[Name]["answer"]> {
  const id = asked++;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, name, given }, handed);
  });
}

worker.onmessage = ({ data }: MessageEvent) => {
  if (data.event !== undefined) return told(data.event, data.value);
  const asker = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error === undefined) asker?.resolve(data.answer as never);
  else asker?.reject(new Error(data.error));
};
worker.onerror = (event) => say(`the worker stopped: ${event.message}`);

function byId<T extends Element = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no ${id}`);
  return found as unknown as T;
}

const value = (id: string) => byId<HTMLInputElement>(id).value;
const numberOf = (id: string) => (value(id) === "" ? undefined : Number(value(id)));
const show = (id: string, isShown = true) => byId(id).toggleAttribute("hidden", !isShown);

function say(text: string): void {
  byId("message").textContent = text;
}

/** Does something that may fail, and says so. */
function tried(button: HTMLButtonElement | undefined, work: () => Promise<void>): void {
  say("");
  if (button !== undefined) button.disabled = true;
  document.body.dataset["busy"] = "true";
  work()
    .catch((why: Error) => say(why.message))
    .finally(() => {
      if (button !== undefined) button.disabled = false;
      delete document.body.dataset["busy"];
    });
}

// Files

const dropped = new Map<string, File>();
let table: Table | undefined;
let inspection: Inspection | undefined;
let prepared: Prepared | undefined;

const isTable = (name: string) => /\.(csv|tsv|jsonl)$/i.test(name);
const isModel = (name: string) => /\.onnx$/i.test(name);
const isBeside = (name: string) => /\.(json|txt|jinja)$/i.test(name);

function take(files: Iterable<File>): void {
  for (const file of files) {
    // Another model or table takes the place of the one before.
    for (const other of [...dropped.keys()]) if ((isModel(other) && isModel(file.name)) || (isTable(other) && isTable(file.name))) dropped.delete(other);
    dropped.set(file.name, file);
  }
  byId("dropped").replaceChildren(...[...dropped.values()].map((file) => {
    const item = document.createElement("li");
    item.textContent = `${file.name}, ${bytes(file.size)}`;
    return item;
  }));
  const names = [...dropped.keys()];
  const missing = [[isModel, "a model (.onnx)"], [(name: string) => name === "tokenizer.json", "tokenizer.json"], [isTable, "a table (.csv or .jsonl)"]] as const;
  const open = missing.filter(([is]) => !names.some(is)).map(([, what]) => what);
  byId<HTMLButtonElement>("open").disabled = open.length > 0;
  say(open.length > 0 && names.length > 0 ? `still missing: ${open.join(", ")}` : "");
}

const bytes = (count: number) => (count < 1e6 ? `${(count / 1e3).toFixed(0)} kB` : `${(count / 1e6).toFixed(1)} MB`);
const count = (number: number) => number.toLocaleString("en");

byId<HTMLInputElement>("files").onchange = ({ target }) => take((target as HTMLInputElement).files ?? []);
const drop = byId("drop");
drop.ondragover = (event) => {
  event.preventDefault();
  drop.classList.add("over");
};
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer?.files ?? []);
};

byId("open").onclick = () => tried(byId<HTMLButtonElement>("open"), async () => {
  const files = [...dropped.values()];
  const read = async (is: (name: string) => boolean) =>
    Object.fromEntries(await Promise.all(files.filter(({ name }) => is(name)).map(async (file) => [file.name, await file.arrayBuffer()] as const)));
  const model = files.find(({ name }) => isModel(name))!;
  const rows = await files.find(({ name }) => isTable(name))!.text();
  const isData = (name: string) => !isTable(name) && !isModel(name) && !isBeside(name);
  const [bytes, data, beside] = [await model.arrayBuffer(), await read(isData), await read(isBeside)];
  const opened = await ask("open", { model: bytes, data, beside, table: rows }, [bytes, ...Object.values(data)]);
  table = readTable(rows);
  inspection = opened.inspection;
  describe(inspection, opened.rows);
  choose(table, inspection);
  show("model");
  show("options");
});

function describe(seen: Inspection, rows: number): void {
  const numbers = seen.constants.reduce((sum, { numbers }) => sum + numbers, 0);
  const facts: [string, string][] = [
    ["made by", seen.producer ?? "an unknown program"],
    ["parameters", count(numbers)],
    ["layers", `${seen.layers}, with ${seen.projections.length} projections`],
    ["task", seen.task === null ? seen.task_because : `${seen.task}: ${seen.task_because}`],
    ["a LoRA of rank 8", `${count(seen.sites.lora_all_linear_rank_8)} parameters`],
    ["rows", count(rows)],
  ];
  if (seen.no_gradient.length > 0) facts.push(["no gradient", seen.no_gradient.map(({ operator, why }) => `${operator}: ${why}`).join("; ")]);
  byId("inspection").replaceChildren(...facts.flatMap(([term, text]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    [dt.textContent, dd.textContent] = [term, text];
    return [dt, dd];
  }));
}

// Options

const COLUMNS = ["text", "label", "prompt", "completion"] as const;

function choose(rows: Table, seen: Inspection): void {
  const guess = guessed(rows);
  const task = byId<HTMLSelectElement>("task");
  task.value = seen.task === "causal-lm" && (guess.label === undefined || guess.prompt !== undefined) ? "causal-lm" : "seq-cls";
  for (const role of COLUMNS) {
    const options = rows.columns.map((column) => new Option(column, column));
    byId<HTMLSelectElement>(role).replaceChildren(...(role === "prompt" ? [new Option("none", "")] : []), ...options);
    const told = guess[role] ?? (role === "completion" ? guess.text : undefined);
    byId<HTMLSelectElement>(role).value = told ?? (role === "prompt" ? "" : rows.columns[0] ?? "");
  }
  ofTask();
}

function ofTask(): void {
  for (const label of document.querySelectorAll<HTMLElement>("[data-task]")) label.hidden = label.dataset["task"] !== value("task");
}
byId("task").onchange = ofTask;

function columns(): Columns {
  if (value("task") === "seq-cls") return { text: value("text"), label: value("label") };
  return value("prompt") === "" ? { text: value("completion") } : { prompt: value("prompt"), completion: value("completion") };
}

function options(): InjectOptions {
  const [method, rank, task] = [value("method"), numberOf("rank"), value("task")];
  const ranked = ["lora", "loha", "lokr", "vera"].includes(method) && rank !== undefined ? { rank } : {};
  const classes = task === "seq-cls" && table !== undefined ? classesOf(table, value("label")).count : undefined;
  const isOwnHead = inspection?.task === "seq-cls" && inspection.head?.classes === classes;
  // A model with other classes, or none, gets a new head.
  return { method, ...ranked, task, ...(classes === undefined || isOwnHead ? {} : { num_labels: classes }) };
}

// The run

let curve: Curve | undefined;

byId<HTMLFormElement>("options").onsubmit = (event) => {
  event.preventDefault();
  const train = byId<HTMLButtonElement>("train");
  tried(train, async () => {
    show("result", false);
    const steps = new URLSearchParams(location.search).get("steps");
    prepared = await ask("prepare", { options: options(), columns: columns(), maxLength: numberOf("length"), holdsBack: byId<HTMLInputElement>("hold").checked });
    const { trainable, base, learnt, heldBack, cut } = prepared;
    const share = ((100 * trainable) / base).toPrecision(2);
    const told = `${count(trainable)} of ${count(base)} parameters (${share} %), ${count(learnt)} rows to learn, ${heldBack} held back${cut > 0 ? `, ${cut} cut` : ""}`;
    byId("progress").textContent = told;
    show("run");
    byId("held").textContent = "";
    curve = undefined;
    byId<HTMLButtonElement>("stop").disabled = false;
    const { steps: taken, seconds } = await ask("train", {
      device: value("device") as Device,
      batchSize: numberOf("batch") ?? 8,
      accumulation: numberOf("accumulation") ?? 1,
      epochs: numberOf("epochs") ?? 3,
      ...(steps === null ? {} : { steps: Number(steps) }),
      learningRate: numberOf("rate") ?? 5e-4,
      decay: value("decay") as Decay,
      warmupSteps: 0,
      isShuffled: byId<HTMLInputElement>("shuffle").checked,
      seed: 42,
    }).finally(() => (byId<HTMLButtonElement>("stop").disabled = true));
    byId("progress").textContent = `${taken} steps in ${seconds.toFixed(1)} s: ${told}`;
    document.body.dataset["done"] = String(taken);
    show("result");
  });
};

byId("stop").onclick = () => void ask("stop", {});

function told<Name extends keyof Events>(event: Name, value: Events[Name]): void {
  if (event === "warning") return console.warn(value);
  if (event === "step") {
    const { number, of, loss, seconds, isUpdated } = value as Events["step"];
    curve ??= new Curve(byId<SVGSVGElement>("curve"), of);
    curve.add({ step: number, loss });
    byId("progress").textContent = `step ${number} of ${of}: loss ${loss.toFixed(4)}, ${seconds.toFixed(2)} s a step, ${Math.ceil((of - number) * seconds)} s to go`;
    if (!isUpdated) say(`step ${number} changed nothing: its gradient is not finite\nhint: a lower learning rate`);
  } else {
    const { step, loss, accuracy } = value as Events["evaluation"];
    curve?.addHeld({ step, loss });
    byId("held").textContent = `, at step ${step}: loss ${loss.toFixed(4)}${accuracy === undefined ? "" : `, ${(100 * accuracy).toFixed(1)} % right`}`;
  }
  // What happened, for those who look on.
  document.dispatchEvent(new CustomEvent(`peft-onnx:${event}`, { detail: value }));
}

// The result

byId<HTMLFormElement>("try").onsubmit = (event) => {
  event.preventDefault();
  tried(undefined, async () => {
    const { before, after } = await ask("try", { text: value("input") });
    byId("answers").replaceChildren(shown("before", before), shown("after", after));
  });
};

function shown(title: string, answer: Answer): HTMLElement {
  const box = document.createElement("div");
  const head = document.createElement("h3");
  head.textContent = title;
  box.append(head);
  for (const { name, probability } of answer.classes ?? []) {
    const [line, meter] = [document.createElement("div"), document.createElement("meter")];
    meter.value = probability;
    line.append(`${name} ${(100 * probability).toFixed(1)} %`, meter);
    box.append(line);
  }
  if (answer.text !== undefined) {
    const text = document.createElement("p");
    text.textContent = answer.text;
    box.append(text);
  }
  return box;
}

function download(files: Files): void {
  const links = Object.entries(files).map(([name, bytes]) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes as BlobPart], { type: "application/octet-stream" }));
    [link.download, link.textContent] = [name, name];
    return link;
  });
  byId("downloads").replaceChildren(...links.flatMap((link) => [link, " "]));
  for (const link of links) link.click();
}

byId("adapter").onclick = () => tried(byId<HTMLButtonElement>("adapter"), async () => download(await ask("adapter", {})));
byId("merge").onclick = () => tried(byId<HTMLButtonElement>("merge"), async () => download(await ask("merge", {})));
