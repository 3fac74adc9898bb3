// Serves the built page to this machine: node web/scripts/serve.mjs [PORT]. The two headers let WebAssembly use several threads.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const ROOT = join(dirname(dirname(fileURLToPath(import.meta.url))), "page/dist");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

/** A server of the page on a port of this machine; 0: any that is free. */
export async function serve(port = 0) {
  const server = createServer(async (request, answer) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname));
    const file = join(ROOT, path === "/" ? "index.html" : path);
    try {
      if (!file.startsWith(ROOT)) throw new Error("outside of the page");
      const bytes = await readFile(file);
      answer.writeHead(200, {
        "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
      });
      answer.end(bytes);
    } catch {
      answer.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { server, address: `http://127.0.0.1:${server.address().port}/` };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { address } = await serve(Number(process.argv[2] ?? 8080));
  console.log(`the page is at ${address}`);
}
