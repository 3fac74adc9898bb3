// Builds the package into dist/, and the page into page/dist/ where the core is there (scripts/wasm.sh puts it into dist/wasm).

import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const within = (...parts) => join(here, ...parts);
const require = createRequire(import.meta.url);
const tsc = require.resolve("typescript/bin/tsc");

execFileSync(process.execPath, [tsc, "-p", within()], { stdio: "inherit" });
mkdirSync(within("dist/wasm"), { recursive: true });
copyFileSync(within("src/wasm/peft_onnx_core.d.ts"), within("dist/wasm/peft_onnx_core.d.ts"));

if (!existsSync(within("dist/wasm/peft_onnx_core.js"))) {
  console.log("the page was not built: dist/wasm has no core (web/scripts/wasm.sh builds it)");
  process.exit(0);
}

execFileSync(process.execPath, [tsc, "-p", within("page")], { stdio: "inherit" });
const { build } = await import("esbuild");
await build({
  entryPoints: [within("page/main.ts"), within("page/worker.ts")],
  outdir: within("page/dist"),
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  // ONNX Runtime's WebAssembly lies beside the page.
  conditions: ["onnxruntime-web-use-extern-wasm"],
  external: ["node:*"],
  plugins: [{
    name: "core",
    setup: (build) => build.onResolve({ filter: /peft_onnx_core\.js$/ }, () => ({ path: within("dist/wasm/peft_onnx_core.js") })),
  }],
  logLevel: "warning",
});
for (const folder of ["page/dist/ort", "page/dist/wasm"]) mkdirSync(within(folder), { recursive: true });
for (const file of ["index.html", "style.css"]) copyFileSync(within("page", file), within("page/dist", file));
copyFileSync(within("dist/wasm/peft_onnx_core_bg.wasm"), within("page/dist/wasm/peft_onnx_core_bg.wasm"));
const ort = dirname(require.resolve("onnxruntime-web"));
for (const file of readdirSync(ort).filter((name) => /^ort-wasm-simd-threaded(\.asyncify)?\.(mjs|wasm)$/.test(name))) {
  copyFileSync(join(ort, file), within("page/dist/ort", file));
}
console.log(`the page is in ${within("page/dist")}: node web/scripts/serve.mjs shows it`);
