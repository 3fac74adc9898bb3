// The package as npm packs it, installed in an empty folder: README's programs run there as they stand, and compile under TypeScript's strictest settings. Skipped where web/scripts/wasm.sh has not
// built the core, without which there is no whole package.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

const WEB = new URL("../", import.meta.url).pathname;
const ROOT = join(WEB, "..");
const skip = existsSync(join(WEB, "dist/wasm/peft_onnx_core_bg.wasm")) ? false : "the core is not built: web/scripts/wasm.sh";
const [train, swap] = [...readFileSync(join(WEB, "README.md"), "utf8").matchAll(/^```js\n(.*?)^```/gms)].map(([, text]) => text);

const folder = mkdtempSync(join(tmpdir(), "peft-onnx-package-"));
const modules = join(folder, "node_modules");
const run = (program, ...args) => execFileSync(program, args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

before(() => {
  if (skip) return;
  execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: WEB });
  const archive = readdirSync(folder).find((name) => name.endsWith(".tgz"));
  mkdirSync(join(modules, "peft-onnx"), { recursive: true });
  // What npm does with an archive; what the package stands on is what is installed here.
  run("tar", "xzf", archive, "--strip-components", "1", "-C", join(modules, "peft-onnx"));
  for (const name of readdirSync(join(WEB, "node_modules")).filter((name) => !name.startsWith("."))) symlinkSync(join(WEB, "node_modules", name), join(modules, name));
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }));
  // A small encoder, and a tokenizer of README's words.
  copyFileSync(join(ROOT, "models/fixtures/bert_encoder/torchscript.onnx"), join(folder, "model.onnx"));
  const vocabulary = Object.fromEntries(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "it", "rains", "shines"].map((word, number) => [word, number]));
  const tokenizer = {
    version: "1.0", truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: { type: "Whitespace" }, decoder: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "[CLS]", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "[SEP]", type_id: 0 } }],
      pair: [{ SpecialToken: { id: "[CLS]", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "[CLS]": { id: "[CLS]", ids: [2], tokens: ["[CLS]"] }, "[SEP]": { id: "[SEP]", ids: [3], tokens: ["[SEP]"] } },
    },
    model: { type: "WordLevel", vocab: vocabulary, unk_token: "[UNK]" },
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
});
after(() => rmSync(folder, { recursive: true }));

const GIVEN = `
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
const modelBytes = new Uint8Array(readFileSync("model.onnx"));
const tokenizerJson = JSON.parse(readFileSync("tokenizer.json", "utf8"));
const tokenizerConfig = { pad_token: "[PAD]", unk_token: "[UNK]" };
`;

/** A program with what its page leaves to the reader: imports first, as the language wants. */
function program(text, between, behind) {
  const lines = text.split("\n");
  const isImport = (line) => line.startsWith("import ");
  return [...lines.filter(isImport), between, ...lines.filter((line) => !isImport(line)), behind].join("\n");
}

test("README's programs run where the package is installed", { skip }, () => {
  const behind = `
for (const [name, bytes] of Object.entries(adapter)) { mkdirSync("adapters/polite", { recursive: true }); writeFileSync("adapters/polite/" + name, bytes); }
if (trainer.steps !== 3 || tuned.length < modelBytes.length) throw new Error(\`\${trainer.steps} steps, \${tuned.length} bytes\`);
const [config, weights] = [adapter["adapter_config.json"], adapter["adapter_model.safetensors"]];
const ids = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers.map(BigInt)), [1, numbers.length]);
const feeds = { input_ids: ids([2, 4, 5, 3]), attention_mask: ids([1, 1, 1, 1]), token_type_ids: ids([0, 0, 0, 0]) };
${swap.replace(/^import .*$/gm, "")}
const plain = await base.run(feeds, base.initial);
if (!logits.data.some((value, at) => value !== plain.logits.data[at])) throw new Error("the adapter changes nothing");
const again = await base.run(feeds, formal);
if (again.logits.data.some((value, at) => value !== logits.data[at])) throw new Error("files in memory are another adapter");
console.log("swapped");
`;
  writeFileSync(join(folder, "readme.mjs"), program(`${train}\nimport { AdaptedModel } from "peft-onnx";`, GIVEN, behind));
  const said = run(process.execPath, "readme.mjs").trim().split("\n");
  assert.equal(said.length, 4, `${said}`);
  assert.ok(said.slice(0, 3).every((loss) => Number.isFinite(Number(loss))) && said[3] === "swapped", `${said}`);
});

test("README's programs compile under the strictest settings", { skip }, () => {
  const feeds = `declare const feeds: Record<string, ort.Tensor>; declare const config: Uint8Array; declare const weights: Uint8Array; declare const files: Files;\n`;
  writeFileSync(join(folder, "train.ts"), program(train, "declare const modelBytes: Uint8Array; declare const tokenizerJson: object; declare const tokenizerConfig: Record<string, string>;", "const bytes: Uint8Array | undefined = tuned; export { bytes };"));
  writeFileSync(join(folder, "swap.ts"), program(`import * as ort from "onnxruntime-web";\nimport type { Files } from "peft-onnx";\n${swap}`, feeds, "export { logits, formal };"));
  const strict = ["--strict", "--noUncheckedIndexedAccess", "--exactOptionalPropertyTypes", "--noEmit", "--target", "ES2022", "--lib", "ES2022,DOM,DOM.Iterable", "--types", "node", "--skipLibCheck", "false"];
  // As bundlers find modules, and as node does; the types of @huggingface/tokenizers are made for bundlers alone.
  for (const [module, resolution, ...files] of [["ESNext", "Bundler", "train.ts", "swap.ts"], ["NodeNext", "NodeNext", "swap.ts"]]) {
    try {
      run(process.execPath, join(modules, "typescript/bin/tsc"), ...strict, "--module", module, "--moduleResolution", resolution, ...files);
    } catch (error) {
      assert.fail(`${resolution}: ${error.stdout}`);
    }
  }
});
