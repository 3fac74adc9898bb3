// The core of peft-onnx as WebAssembly: models are read, adapted and merged in memory. It runs no graph; ONNX Runtime does.

import type { Files } from "./files.js";
import { isNode } from "./files.js";
import { graphOf, type Manifest } from "./manifest.js";
import type { Numbers } from "./runtime.js";
import type * as Wasm from "./wasm/peft_onnx_core.js";

/** What is asked of `inject`: names and defaults are those of the command line's options. */
export interface InjectOptions {
  /** `lora` by default. */
  readonly method?: string;
  readonly target_modules?: string | readonly string[];
  readonly exclude_modules?: string | readonly string[];
  readonly layers_to_transform?: readonly number[];
  readonly modules_to_save?: readonly string[];
  readonly rank?: number;
  readonly alpha?: number;
  readonly dropout?: number;
  readonly use_rslora?: boolean;
  readonly use_dora?: boolean;
  readonly init_lora_weights?: string;
  readonly num_virtual_tokens?: number;
  readonly trainable_token_indices?: readonly number[];
  readonly feedforward_modules?: string | readonly string[];
  /** Any other setting of the method, by PEFT's name. */
  readonly set?: Readonly<Record<string, unknown>>;
  readonly task?: string;
  /** Puts a new head with so many classes on the model. */
  readonly num_labels?: number;
  readonly head_layers?: readonly number[];
  readonly pooling?: "cls" | "mean" | "last" | "none";
  /** Names of the classes, in the order of their numbers. */
  readonly class_names?: readonly string[];
  readonly base_model?: string;
  readonly loss?: string;
  readonly loss_option?: Readonly<Record<string, number>>;
  readonly normalize?: boolean;
  readonly matryoshka_dims?: readonly number[];
  readonly class_weights?: readonly number[];
  readonly label_smoothing?: number;
  readonly recompute?: "none" | "attention" | "layer" | "auto";
  readonly seed?: number;
  readonly weight_decay?: number;
  readonly adam_beta1?: number;
  readonly adam_beta2?: number;
  readonly adam_epsilon?: number;
  readonly max_grad_norm?: number;
}

/** What is known of a model: the part of `peft-onnx inspect --json` that is used here; the rest is there, too. */
export interface Inspection {
  readonly producer: string | null;
  readonly opset: number;
  readonly nodes: number;
  readonly kind: string | null;
  readonly task: string | null;
  readonly task_because: string;
  readonly layers: number;
  readonly max_positions: number | null;
  readonly constants: readonly { readonly dtype: string; readonly tensors: number; readonly numbers: number; readonly bytes: number }[];
  readonly projections: readonly { readonly module: string; readonly in_features: number; readonly out_features: number }[];
  readonly head: { readonly logits: string; readonly module: string | null; readonly classes: number | null } | null;
  readonly sites: { readonly lora_all_linear_rank_8: number; readonly prompt_tokens_20: number | null; readonly prefix_tokens_20: number | null };
  readonly no_gradient: readonly { readonly node: string; readonly operator: string; readonly why: string }[];
  readonly misses: readonly { readonly at: string; readonly wanted: string }[];
  readonly [more: string]: unknown;
}

/** What belongs to a model beside its own file. */
export interface Beside {
  /** The files that its weights lie in, by the locations that it gives them: `model.onnx_data`. */
  readonly data?: Files;
  /** Files that say more of it: `config.json`. */
  readonly files?: Files;
}

/** The core. */
export class Core {
  private constructor(
    private readonly wasm: typeof Wasm,
    private readonly warn: (warning: string) => void,
  ) {}

  /** Loads the WebAssembly, from beside this package or from `wasm`: its bytes, or where they are. What it warns of goes to `warn`. */
  static async load(options: { readonly wasm?: Uint8Array | URL | string; readonly warn?: (warning: string) => void } = {}): Promise<Core> {
    const wasm = (await import("./wasm/peft_onnx_core.js")) as typeof Wasm;
    let place: unknown = options.wasm;
    if (place === undefined && isNode()) {
      const { readFile } = await import("node:fs/promises");
      place = await readFile(new URL("./wasm/peft_onnx_core_bg.wasm", import.meta.url));
    }
    await wasm.default(place === undefined ? undefined : { module_or_path: place });
    return new Core(wasm, options.warn ?? ((warning) => console.warn(`peft-onnx: ${warning}`)));
  }

  /** Reads and recognises a model. */
  model(bytes: Uint8Array, beside: Beside = {}): Model {
    return this.told(() => {
      const [data, files] = [this.given(beside.data ?? {}), this.given(beside.files ?? {})];
      try {
        return new Model(new this.wasm.CoreModel(bytes, data, files), this);
      } finally {
        data.free();
        files.free();
      }
    });
  }

  /** The files of an adapter with a trainable vector. */
  filledAdapter(manifest: Manifest, adapter: Files, vector: Float32Array): Files {
    return this.told(() => this.lent(adapter, (own) => this.taken(this.wasm.filledAdapter(JSON.stringify(manifest), own, vector))));
  }

  /** The trainable vector of an adapter. */
  trainableOf(manifest: Manifest, adapter: Files): Float32Array {
    return this.told(() => this.lent(adapter, (own) => this.wasm.trainableOf(JSON.stringify(manifest), own)));
  }

  /** What the inference graph that was made for the adapter `own` is fed for another one. */
  adapterInputs(manifest: Manifest, own: Files, adapter: Files): Record<string, Numbers> {
    const shapes = new Map(graphOf(manifest, "inference").inputs.map((port) => [port.name, port.shape.map(Number)]));
    const bytes = this.told(() =>
      this.lent(own, (own) => this.lent(adapter, (adapter) => this.taken(this.wasm.adapterInputs(JSON.stringify(manifest), own, adapter)))));
    const numbers = Object.entries(bytes).map(([name, bytes]) => {
      // Their own memory begins where four bytes make a number.
      const data = new Float32Array(bytes.slice().buffer);
      return [name, { type: "float32", data, dims: shapes.get(name) ?? [data.length] } satisfies Numbers] as const;
    });
    return Object.fromEntries(numbers);
  }

  /** @internal Calls the WebAssembly, and says what it warned of. */
  told<T>(call: () => T): T {
    try {
      return call();
    } finally {
      for (const warning of this.wasm.takeWarnings()) this.warn(warning);
    }
  }

  /** @internal Files as the WebAssembly has them. */
  given(files: Files): Wasm.Files {
    const given = new this.wasm.Files();
    for (const [name, bytes] of Object.entries(files)) given.put(name, bytes);
    return given;
  }

  /** @internal Files from the WebAssembly, which has them no more. */
  taken(files: Wasm.Files): Files {
    const taken = Object.fromEntries(files.names().map((name) => [name, files.take(name) ?? new Uint8Array()]));
    files.free();
    return taken;
  }

  private lent<T>(files: Files, use: (files: Wasm.Files) => T): T {
    const lent = this.given(files);
    try {
      return use(lent);
    } finally {
      lent.free();
    }
  }
}

/** A model in the core's memory. */
export class Model {
  /** @internal */
  constructor(
    private readonly model: Wasm.CoreModel,
    private readonly core: Core,
  ) {}

  /** What is known of it. */
  inspect(): Inspection {
    return this.core.told(() => JSON.parse(this.model.inspect()) as Inspection);
  }

  /** The files that `Trainer` and `AdaptedModel` open: the model with a fresh adapter, or with one that is there. */
  inject(options: InjectOptions = {}, adapter?: Files): Files {
    return this.core.told(() =>
      // An adapter that is given goes over to the core.
      this.core.taken(this.model.inject(JSON.stringify(options), adapter === undefined ? undefined : this.core.given(adapter))));
  }

  /** The model with an adapter folded in: `model.onnx`, and `model.onnx.data` if the model had its weights in another file. */
  merge(manifest: Manifest, adapter: Files, { requantize = false }: { readonly requantize?: boolean } = {}): Files {
    return this.core.told(() => {
      const given = this.core.given(adapter);
      try {
        return this.core.taken(this.model.merge(JSON.stringify(manifest), given, requantize));
      } finally {
        given.free();
      }
    });
  }

  /** Lets its memory go. */
  free(): void {
    this.model.free();
  }
}
