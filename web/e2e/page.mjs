// The page in a headless Chromium, end to end: what is dropped is looked at, trained, tried and taken away, and the losses are those of `peft-onnx train`.
//
//   PEFT_ONNX=target/debug/peft-onnx CHROMIUM=/usr/bin/chromium node web/e2e/page.mjs [wasm] [webgpu]

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import * as ort from "onnxruntime-node";
import { chromium } from "playwright-core";

import { readSafetensors } from "../dist/index.js";
import { serve } from "../scripts/serve.mjs";

const ROOT = new URL("../../", import.meta.url).pathname;
const PROGRAM = process.env.PEFT_ONNX ?? join(ROOT, "target/debug/peft-onnx");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const DEVICES = process.argv.length > 2 ? process.argv.slice(2) : ["wasm", "webgpu"];
/** How far a loss may be from native's, as a share of it: other kernels add numbers up in another order. */
const TOLERANCE = { wasm: 1e-5, webgpu: 1e-4 };
const FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

const work = mkdtempSync(join(tmpdir(), "peft-onnx-page-"));
const run = (...args) => execFileSync(PROGRAM, [...args, "--quiet"], { encoding: "utf8" });
const json = (file) => JSON.parse(readFileSync(file, "utf8"));

/** A table with a first row that names its columns. */
function csv(file, rows) {
  const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const columns = Object.keys(rows[0]);
  writeFileSync(file, [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((row) => row.map(cell).join(",")).join("\n"));
}

/** A language model with prompts and completions. */
function writer() {
  const folder = join(ROOT, "models/tiny-lm");
  const table = join(work, "talk.csv");
  const rows = readFileSync(join(ROOT, "models/finetune/train.jsonl"), "utf8").trim().split("\n").slice(0, 24).map((line) => JSON.parse(line));
  csv(table, rows);
  return {
    name: "tiny-lm",
    files: ["model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json"].map((name) => join(folder, name)),
    table, task: "causal-lm", steps: 6, batch: 4, rate: 0.002, inject: [], ask: "Orlando: Go apart, Adam.\nOliver:",
  };
}

/** A classifier with a tokenizer of 64 words, and rows of a text and the name of its class, under names of their own. */
function classifier() {
  const folder = join(work, "classifier");
  execFileSync("mkdir", ["-p", folder]);
  const words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ..."abcdefghijklmnopqrstuvwxyz".split(""), ...Array.from({ length: 34 }, (_, at) => `w${at}`)];
  const special = words.slice(0, 4).map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }));
  const piece = (id) => ({ SpecialToken: { id, type_id: 0 } });
  const text = (id, type_id) => ({ Sequence: { id, type_id } });
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify({
    version: "1.0", truncation: null, padding: null, added_tokens: special, normalizer: null, pre_tokenizer: { type: "Whitespace" },
    post_processor: {
      type: "TemplateProcessing", single: [piece("[CLS]"), text("A", 0), piece("[SEP]")], pair: [piece("[CLS]"), text("A", 0), piece("[SEP]"), text("B", 1), { SpecialToken: { id: "[SEP]", type_id: 1 } }],
      special_tokens: Object.fromEntries([["[CLS]", 2], ["[SEP]", 3]].map(([id, at]) => [id, { id, ids: [at], tokens: [id] }])),
    },
    decoder: null, model: { type: "WordLevel", vocab: Object.fromEntries(words.map((word, id) => [word, id])), unk_token: "[UNK]" },
  }));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ pad_token: "[PAD]", unk_token: "[UNK]", cls_token: "[CLS]", sep_token: "[SEP]", tokenizer_class: "PreTrainedTokenizerFast" }));
  const model = join(folder, "model.onnx");
  writeFileSync(model, readFileSync(join(ROOT, "models/fixtures/bert_classifier/torchscript.onnx")));
  const table = join(work, "tickets.csv");
  const kinds = ["bill", "bug", "praise", "question"];
  csv(table, Array.from({ length: 24 }, (_, at) => ({ body: Array.from({ length: 3 + (at % 5) }, (_, of) => words[4 + ((7 * at + 3 * of) % 26)]).join(" "), category: kinds[(at * 3) % 4] })));
  return {
    name: "classifier", files: [model, ...["tokenizer.json", "tokenizer_config.json"].map((name) => join(folder, name))],
    table, task: "seq-cls", steps: 6, batch: 4, rate: 0.01, inject: ["--num-labels", "4"], ask: "a b w3", kinds,
  };
}

/** The losses of native training on the same rows, and the adapter that comes out. */
function native({ name, files, table, task, steps, batch, rate, inject }) {
  const bundle = join(work, `${name}.lora`);
  run("inject", files[0], "--method", "lora", "--task", task, ...inject, "-o", bundle);
  run("train", bundle, "--data", table, "--max-steps", `${steps}`, "--batch-size", `${batch}`, "--learning-rate", `${rate}`, "--lr-scheduler", "linear", "--no-shuffle", "--run", "native",
    ...(task === "seq-cls" ? ["--map", "body=text", "--map", "category=label"] : []));
  const lines = readFileSync(join(bundle, "runs/native/metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  return { losses: lines.filter(({ loss }) => loss !== undefined).map(({ loss }) => loss), bundle };
}

async function idle(page) {
  await page.waitForFunction(() => document.body.dataset.busy === undefined, undefined, { timeout: 300_000 });
  const said = await page.textContent("#message");
  assert.equal(said, "", said);
}

async function downloads(page, button, names) {
  const arriving = names.map(() => undefined);
  let at = 0;
  const all = new Promise((resolve) => page.on("download", function take(download) {
    arriving[at++] = download;
    if (at === names.length) {
      page.off("download", take);
      resolve();
    }
  }));
  await page.click(button);
  await Promise.all([all, idle(page)]);
  const files = await Promise.all(arriving.map(async (download) => [download.suggestedFilename(), readFileSync(await download.path())]));
  assert.deepEqual(files.map(([name]) => name).sort(), [...names].sort());
  return Object.fromEntries(files);
}

async function through(page, address, device, what, expected) {
  await page.goto(`${address}?steps=${what.steps}`);
  await page.evaluate(() => {
    globalThis.losses = [];
    document.addEventListener("peft-onnx:step", ({ detail }) => globalThis.losses.push(detail.loss));
  });
  await page.setInputFiles("#files", [...what.files, what.table]);
  await page.click("#open");
  await idle(page);
  assert.match(await page.textContent("#inspection"), /projections/);
  assert.equal(await page.inputValue("#task"), what.task);
  await page.selectOption("#device", device);
  await page.fill("#batch", `${what.batch}`);
  await page.fill("#rate", `${what.rate}`);
  await page.uncheck("#shuffle");
  await page.uncheck("#hold");
  await page.click("#train");
  await idle(page);

  const losses = await page.evaluate(() => globalThis.losses);
  assert.equal(losses.length, expected.losses.length);
  const furthest = Math.max(...losses.map((loss, at) => Math.abs(loss / expected.losses[at] - 1)));
  assert.ok(furthest < TOLERANCE[device], `${what.name} on ${device}: losses ${losses}, native ${expected.losses}`);
  assert.ok((await page.getAttribute("#curve polyline.loss", "points")).split(" ").length === what.steps);

  await page.fill("#input", what.ask);
  await page.click("#try button");
  await idle(page);
  const answers = await page.textContent("#answers");
  assert.match(answers, /before[\s\S]+after/);
  for (const kind of what.kinds ?? []) assert.ok(answers.includes(kind), `${kind} is not in ${answers}`);

  const adapter = await downloads(page, "#adapter", ["adapter_config.json", "adapter_model.safetensors"]);
  const [ours, theirs] = [readSafetensors(adapter["adapter_model.safetensors"]), readSafetensors(readFileSync(join(expected.bundle, "adapter_model.safetensors")))];
  assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
  const initial = readSafetensors(readFileSync(join(expected.bundle, "initial/adapter_model.safetensors")));
  const change = (tensors) => [...initial].flatMap(([name, { data }]) => Array.from(data, (value, at) => tensors.get(name).data[at] - value));
  const [a, b] = [change(ours), change(theirs)];
  const product = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
  const cosine = product(a, b) / Math.sqrt(product(a, a) * product(b, b));
  assert.ok(cosine > 0.999, `the updates' cosine is ${cosine}`);

  const { "model.onnx": merged } = await downloads(page, "#merge", ["model.onnx"]);
  const session = await ort.InferenceSession.create(new Uint8Array(merged));
  assert.ok(session.outputNames.length > 0);
  if (what.task === "seq-cls") {
    const ids = (...of) => new ort.Tensor("int64", BigInt64Array.from(of, BigInt), [1, of.length]);
    const { [session.outputNames[0]]: logits } = await session.run({ input_ids: ids(2, 4, 5, 33, 3), attention_mask: ids(1, 1, 1, 1, 1), token_type_ids: ids(0, 0, 0, 0, 0) });
    const best = what.kinds[logits.data.indexOf(Math.max(...logits.data))];
    const after = answers.slice(answers.indexOf("after") + "after".length);
    assert.ok(after.startsWith(best), `the merged model answers ${best}, the page ${after}`);
  }
  if (device === "wasm") await asPeopleDo(page, what);
  console.log(`works  ${what.name} on ${device}: ${losses.length} steps, losses off by ${furthest.toExponential(1)} at most, adapter's cosine ${cosine.toFixed(6)}`);
}

/** Rows are mixed and some are held back, as the page has it by default, gradients are added up, and the run is stopped. */
async function asPeopleDo(page, what) {
  await page.check("#shuffle");
  await page.check("#hold");
  await page.fill("#accumulation", "2");
  await page.evaluate(() => history.replaceState(null, "", "?steps=1000"));
  const stopped = page.evaluate(() => new Promise((resolve) => document.addEventListener("peft-onnx:evaluation", ({ detail }) => {
    document.getElementById("stop").click();
    resolve(detail);
  }, { once: true })));
  await page.click("#train");
  const { loss, accuracy } = await stopped;
  await idle(page);
  assert.ok(loss > 0 && accuracy >= 0 && accuracy <= 1);
  assert.ok(Number(await page.getAttribute("body", "data-done")) < 1000);
  assert.match(await page.textContent("#held"), /at step \d+: loss .*% right/);
  // What is refused is said, and the page goes on.
  await page.setInputFiles("#files", [{ name: "broken.onnx", mimeType: "application/octet-stream", buffer: Buffer.from("no model") }]);
  await page.click("#open");
  await page.waitForFunction(() => document.body.dataset.busy === undefined && document.getElementById("message").textContent !== "");
  assert.match(await page.textContent("#message"), /not an ONNX model[\s\S]*hint: /);
  await page.setInputFiles("#files", [what.files[0]]);
  await page.click("#open");
  await idle(page);
}

const { server, address } = await serve();
let failures = 0;
try {
  const examples = [classifier(), writer()].map((what) => ({ what, expected: native(what) }));
  for (const device of DEVICES) {
    const browser = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: [...FLAGS, ...(device === "webgpu" ? GPU : [])] });
    const page = await (await browser.newContext({ acceptDownloads: true })).newPage();
    const others = [];
    page.on("request", (request) => {
      if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(address)) others.push(request.url());
    });
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(error.message));
    for (const { what, expected } of examples) {
      try {
        await through(page, address, device, what, expected);
      } catch (error) {
        failures++;
        console.log(`FAILS  ${what.name} on ${device}: ${error.message}\n${said.slice(-8).join("\n")}`);
      }
    }
    if (others.length > 0) {
      failures++;
      console.log(`FAILS  the page asked others: ${others.join(", ")}`);
    }
    await browser.close();
  }
} finally {
  server.close();
  rmSync(work, { recursive: true });
}
process.exit(failures === 0 ? 0 : 1);
