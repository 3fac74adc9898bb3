// node layouts_page.mjs TASK MODELS FOLDER TEXTS: as layouts.mjs, in a page in a headless Chromium (CHROMIUM=..): what a browser asks for on such a folder.
// Needs playwright-core beside @huggingface/transformers and onnxruntime-web. No other machine is asked for anything.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { chromium } from 'playwright-core';

const [task, models, folder, texts] = process.argv.slice(2);
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };
const ROOTS = { models, transformers: 'node_modules/@huggingface/transformers/dist', ort: 'node_modules/onnxruntime-web/dist' };
const PAGE = `<!doctype html><meta charset="utf-8"><script type="module">
import { env, pipeline } from '/transformers/transformers.min.js';
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = '/models/';
env.backends.onnx.wasm.wasmPaths = '/ort/';
window.answer = async (task, folder, texts) => {
  const run = await pipeline(task, folder);
  const found = await run(texts, task === 'feature-extraction' ? { pooling: 'mean', normalize: true } : {});
  return found.tolist ? found.tolist() : found;
};
</script>`;

const missing = [];
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
  const [, root, ...rest] = path.split('/');
  try {
    const bytes = path === '/' ? PAGE : await readFile(join(ROOTS[root], ...rest));
    response.writeHead(200, { 'Content-Type': path === '/' ? TYPES['.html'] : TYPES[extname(path)] ?? 'application/octet-stream' });
    response.end(bytes);
  } catch {
    missing.push(path);
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const address = `http://127.0.0.1:${server.address().port}/`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox'] });
let code = 1;
try {
  const page = await browser.newPage();
  const others = [];
  page.on('request', (request) => {
    const url = request.url();
    if (!/^(blob|data):/.test(url) && !url.startsWith(address)) others.push(url);
  });
  page.on('pageerror', (error) => console.error(error.message));
  await page.goto(address, { timeout: 120_000 });
  await page.waitForFunction(() => window.answer !== undefined);
  const found = await page.evaluate(([task, folder, texts]) => window.answer(task, folder, texts), [task, folder, JSON.parse(texts)]);
  if (others.length > 0) throw new Error(`the page asked others: ${others.join(', ')}`);
  console.log(JSON.stringify(found));
  code = 0;
} catch (error) {
  console.error(`${error.message}\nnot there: ${missing.join(', ')}`);
} finally {
  await browser.close();
  server.close();
}
process.exit(code);
