// peft-onnx: adapters of ONNX transformers, trained and swapped on onnxruntime-web and onnxruntime-node.

export { AdaptedModel, type Adapter, type AdapterFiles, loadAdapter, readAdapter } from "./adapter.js";
export { type Beside, Core, type InjectOptions, type Inspection, Model } from "./core.js";
export { type Files, type Folder, folderOf, type Source } from "./files.js";
export { type GraphFile, type Manifest, type Port, readManifest, type Slot } from "./manifest.js";
export { batches, batchOf, dataOf, encode, type Example, type Row, shuffled, type Tokenizer, type Vocabulary, vocabulary } from "./rows.js";
export { type Numbers, type Runtime, type SessionOptions } from "./runtime.js";
export { type FloatTensor, readSafetensors, type Tensors, writeSafetensors } from "./safetensors.js";
export { type Decay, rate, type Schedule } from "./schedule.js";
export { type Batch, type Evaluation, type Step, Trainer, type TrainerOptions } from "./trainer.js";
