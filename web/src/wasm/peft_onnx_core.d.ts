// What the WebAssembly of web/core gives; wasm-bindgen writes the JavaScript of this name into dist/wasm.

export class Files {
  constructor();
  put(name: string, bytes: Uint8Array): void;
  names(): string[];
  take(name: string): Uint8Array | undefined;
  free(): void;
}

export class CoreModel {
  constructor(bytes: Uint8Array, data: Files, beside: Files);
  inspect(): string;
  inject(options: string, adapter?: Files): Files;
  merge(manifest: string, adapter: Files, requantize: boolean): Files;
  free(): void;
}

export function filledAdapter(manifest: string, adapter: Files, vector: Float32Array): Files;
export function trainableOf(manifest: string, adapter: Files): Float32Array;
export function adapterInputs(manifest: string, own: Files, adapter: Files): Files;
export function takeWarnings(): string[];
export default function init(options?: { module_or_path?: unknown }): Promise<unknown>;
