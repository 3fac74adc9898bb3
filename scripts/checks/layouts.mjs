// node layouts.mjs TASK MODELS FOLDER TEXTS: runs a pipeline of transformers.js on a local folder, and prints what it gives as JSON.
import { env, pipeline } from '@huggingface/transformers';

const [task, models, folder, texts] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const run = await pipeline(task, folder);
const options = task === 'feature-extraction' ? { pooling: 'mean', normalize: true } : {};
const found = await run(JSON.parse(texts), options);
console.log(JSON.stringify(found.tolist ? found.tolist() : found));
