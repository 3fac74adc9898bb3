"""Checks every method with Hugging Face PEFT, both ways, on the fixture models: inject, train, merge with our binary, then let PEFT read the bundle.

    python scripts/checks/check_methods.py [--binary target/release/peft-onnx] [--only WORD]

Each row but the last ones is a fresh adapter, trained for some steps. PEFT must find a place for every tensor and compute the merged model's logits; the folder that PEFT writes of it
must go into the base again and give the same logits. Causal language models with virtual tokens also write: the merged model with its cache, without, and PEFT's own
`generate` must choose the same tokens. The last rows are adapters that PEFT made for classifiers, on exports of their bodies. Exits with 1 where that fails. Needs peft 0.21, torch, transformers 4.57, onnxruntime.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import peft
import torch
import transformers

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import check_peft
from onnx_inputs import feeds, probe, relative_difference

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "models/fixtures"
PROMPTS = ("--num-virtual-tokens", "5")
NETWORK = (*PROMPTS, "--encoder-hidden-size", "12")
TOKENS = ("--trainable-token-indices", "5,7,9,12,20,26,33,41,48,56")
# family, export, rows to train on
LLAMA, CACHED, GPT2, QWEN2, BERT, DISTILBERT, MASKED, CLASSIFIER, TAGGER, T5, BART = [(family, export, f"{family}/cases/{case}") for family, export, case in (
    ("llama", "torchscript", "lora_qv"), ("llama", "optimum_cache", "lora_qv"), ("gpt2", "torchscript", "lora_c_attn"), ("qwen2", "torchscript", "lora_bias"),
    ("bert_classifier", "dynamo", "lora_classifier"), ("distilbert_classifier", "dynamo", "lora_classifier"), ("bert_masked", "torchscript", "lora_qv"),
    ("llama_classifier", "dynamo", "prefix"), ("bert_tokens", "dynamo", "lora"), ("t5", "dynamo", "lora"), ("bart", "torchscript", "lora"))]
METHODS = [
    ("lora",), ("lora", "--use-dora"), ("lora", "--init-lora-weights", "pissa"), ("ia3",), ("ln_tuning",), ("vera", "--rank", "8"), ("loha", "--rank", "3"),
    ("lokr", "--rank", "3"), ("adalora", "--rank", "3"), ("oft", "--set", "oft_block_size=4"), ("miss", "--rank", "4"), ("fourierft", "--set", "n_frequency=20"),
    ("hira", "--rank", "3"), ("road", "--set", "group_size=4"), ("trainable_tokens", *TOKENS), ("head",), ("prompt_tuning", *PROMPTS), ("p_tuning", *NETWORK),
    ("p_tuning", *NETWORK, "--encoder-reparameterization-type", "lstm"), ("prefix_tuning", *NETWORK), ("p_tuning_v2", *PROMPTS)]
# Each method with each task that it can serve: a causal language model, a masked one, classifiers behind an encoder and a decoder, a tagger, encoder-decoders.
TASKS = [CACHED, MASKED, BERT, CLASSIFIER, TAGGER, T5, BART]
NOT_IN_PEFT = {
    (MASKED, "prefix_tuning"): "BertForMaskedLM takes no past", (MASKED, "p_tuning_v2"): "BertForMaskedLM takes no past",
    (MASKED, "trainable_tokens"): "PEFT leaves the bias of a tied head out",
}
ALLOCATED = ("adalora", "--rank", "4", "--allocate-ranks", "--set", "total_step=8", "--set", "target_r=2")
# What else there is: options of methods, other architectures.
OTHERS = [
    (LLAMA, "lora", "--use-rslora", "--rank-pattern", "q_proj=2"), (LLAMA, "lora", "--init-lora-weights", "gaussian"),
    (LLAMA, "lora", "--target-modules", "q_proj,embed_tokens"), (LLAMA, "lora", "--target-modules", "q_proj", "--modules-to-save", "lm_head"),
    (LLAMA, "lora", "--target-modules", "q_proj", *TOKENS), (LLAMA, "ia3", "--target-modules", "k_proj,down_proj", "--feedforward-modules", "down_proj"),
    (LLAMA, "miss", "--rank", "4", "--set", "init_weights=bat"), (LLAMA, "miss", "--rank", "5", "--set", "init_weights=mini", "--set", "mini_r=4"),
    (LLAMA, "oft", "--rank", "4", "--set", "block_share=true"), (GPT2, "adalora", "--rank", "3"), (LLAMA, *ALLOCATED), (GPT2, *ALLOCATED, "--bias", "lora_only"), (T5, *ALLOCATED), (LLAMA, *ALLOCATED, *TOKENS),
    (LLAMA, "oft", "--set", "oft_block_size=4", "--set", "use_cayley_neumann=false"), (LLAMA, "oft", "--set", "oft_block_size=4", "--set", "coft=true", "--set", "eps=0.05"), (GPT2, "fourierft", "--set", "n_frequency=20"), (GPT2, "hira", "--rank", "3"), (LLAMA, "road", "--set", "variant=road_4", "--set", "group_size=8"),
    (LLAMA, "lora", "--init-lora-weights", "pissa_niter_4"), (LLAMA, "lora", "--init-lora-weights", "olora"),
    (GPT2, "lora"), (GPT2, "lora", "--target-modules", "c_attn,wte"), (GPT2, "ia3"), (GPT2, "prompt_tuning", *PROMPTS), (GPT2, "prefix_tuning", *NETWORK),
    (GPT2, "p_tuning_v2", *PROMPTS), (GPT2, "p_tuning", *NETWORK), (GPT2, "ln_tuning"), (GPT2, "trainable_tokens", *TOKENS),
    (GPT2, "lora", "--init-lora-weights", "pissa"),
    (QWEN2, "lora", "--bias", "all"), (QWEN2, "lora", "--bias", "lora_only"), (QWEN2, "p_tuning_v2", *PROMPTS), (QWEN2, "trainable_tokens", *TOKENS),
    (BERT, "lora", "--bias", "all"), (DISTILBERT, "lora"), (DISTILBERT, "prompt_tuning", *PROMPTS), (DISTILBERT, "ia3"),
]
# New heads, as Hugging Face's classes for the task have them; what PEFT saves of those has its place on the same body.
TEXTS, WORDS = "bert_classifier/cases/lora_classifier", "bert_tokens/cases/lora"
HEADS = [
    ((*LLAMA[:2], TEXTS), "lora", "--num-labels", "3"), ((*LLAMA[:2], TEXTS), "head", "--num-labels", "3"), ((*GPT2[:2], TEXTS), "p_tuning_v2", *PROMPTS, "--num-labels", "3"),
    ((*LLAMA[:2], WORDS), "ia3", "--num-labels", "5", "--task", "token-cls"), ((*MASKED[:2], WORDS), "lora", "--num-labels", "5", "--task", "token-cls"),
]
ROWS = [(model, *method) for model in TASKS for method in METHODS if (model, method[0]) not in NOT_IN_PEFT] + OTHERS + HEADS
# What PEFT made for a classifier, put on an export of the classifier's body: exporter, task, configuration.
QUERIES = dict(target_modules=["query", "value"])
BODIES = [("dynamo", "SEQ_CLS", peft.LoraConfig, QUERIES), ("dynamo", "SEQ_CLS", peft.PromptTuningConfig, dict(num_virtual_tokens=3)),
          ("torchscript", "TOKEN_CLS", peft.LoraConfig, QUERIES), ("dynamo", "TOKEN_CLS", peft.PrefixTuningConfig, dict(num_virtual_tokens=3))]
TRAINING = ("--batch-size", "3", "--max-steps", "8", "--learning-rate", "0.02", "--quiet")
WRITTEN = 10


def run(binary, *args):
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"peft-onnx {args[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout


def written(session, tokens, cached):
    """Greedy tokens behind a prompt: with the cache one token a run, else everything again."""
    tokens, past, known = list(tokens), {}, 0
    caches = [o.name for o in session.get_outputs() if o.name.startswith("present")]
    for _ in range(WRITTEN):
        row = np.array([tokens[known:]])
        given = feeds(session, {"input_ids": row, "attention_mask": np.ones((1, len(tokens)), np.int64)})
        if "position_ids" in given:
            given["position_ids"] = np.arange(known, len(tokens))[None]
        logits, *present = session.run(["logits", *caches], given | past)
        if cached:
            past = {name.replace("present", "past_key_values"): value for name, value in zip(caches, present)}
            known = len(tokens)
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@torch.no_grad()
def writes_as_peft(hf, bundle, merged):
    """Whether the merged model writes PEFT's tokens, with its cache and without."""
    base = check_peft.base_model(hf, bundle)
    base.generation_config.eos_token_id = None
    base.config.use_cache = True
    model, _, _ = check_peft.adapted(base, bundle)
    session = onnxruntime.InferenceSession(merged, providers=["CPUExecutionProvider"])
    for prompt in ([5], [7, 30, 12, 9], [40, 8, 21, 33, 6, 18, 50]):
        x = torch.tensor([prompt])
        wanted = model.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=WRITTEN, do_sample=False)[0].tolist()
        for cached in (False, True):
            found = written(session, prompt, cached)
            assert found == wanted, f"writes {found} {'with' if cached else 'without'} its cache, PEFT {wanted}"


def both_ways(binary, row, work):
    (family, export, case), method, *options = row
    model, data, hf = FIXTURES / family / f"{export}.onnx", FIXTURES / case / "train.jsonl", FIXTURES / family / "hf"
    bundle, merged = work / "bundle", work / "merged.onnx"
    task = ("--task", "masked-lm") if family == "bert_masked" and "--task" not in options else ()
    run(binary, "inject", model, "--method", method, *options, *task, "-o", bundle)
    run(binary, "train", bundle, "--data", data, *TRAINING)
    run(binary, "merge", bundle, "-o", merged, "--quiet")
    faults, difference, moved, count = check_peft.compare(hf, bundle, merged)
    assert not faults, faults[:3]
    assert difference < check_peft.LARGEST_DIFFERENCE, f"merged model against PEFT: {difference:.1e}"
    assert moved > 1e-4, "the adapter does nothing"
    base = check_peft.base_model(hf, bundle)
    check_peft.adapted(base, bundle)[0].save_pretrained(work / "peft")
    run(binary, "inject", model, "--adapter", work / "peft", *task, "-o", work / "again")
    run(binary, "merge", work / "again", "-o", work / "again.onnx", "--quiet")
    x = check_peft.probe_of(base, bundle, (9, 4))
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (merged, work / "again.onnx")]
    first, second = [s.run(["logits"], feeds(s, x))[0] for s in sessions]
    back = relative_difference(second, first, x)
    assert back < 1e-5, f"what PEFT saved gives other logits: {back:.1e}"
    if export == "optimum_cache":
        writes_as_peft(hf, bundle, merged)
    return f"{count} tensors, moves the logits by {moved:.1e}, against PEFT {difference:.1e}, back again {back:.1e}"


@torch.no_grad()
def on_body(binary, row, work):
    export, task, config, settings = row
    hf, model = FIXTURES / "bert_encoder/hf", FIXTURES / "bert_encoder" / f"{export}.onnx"
    torch.manual_seed(0)
    base = getattr(transformers, check_peft.CLASSIFIERS[task]).from_pretrained(hf, num_labels=4, attn_implementation="eager")
    adapted = peft.get_peft_model(base, config(task_type=task, **settings)).eval()
    for p in adapted.parameters():
        if p.requires_grad:
            p.add_(0.1 * torch.randn(p.shape))
    adapted.save_pretrained(work / "peft")
    run(binary, "inject", model, "--adapter", work / "peft", "-o", work / "bundle")
    run(binary, "merge", work / "bundle", "-o", work / "merged.onnx", "--quiet")
    x = probe(base.config.vocab_size, (9, 4))
    session = onnxruntime.InferenceSession(work / "merged.onnx", providers=["CPUExecutionProvider"])
    difference = relative_difference(session.run(["logits"], feeds(session, x))[0], check_peft.logits(adapted, x), x)
    assert difference < check_peft.LARGEST_DIFFERENCE, f"merged model against PEFT: {difference:.1e}"
    return f"against PEFT {difference:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = [(" ".join([row[0][0], row[0][1], *row[1:]]), both_ways, row) for row in ROWS]
    rows += [(f"bert_encoder {row[0]} {row[2].__name__} of {row[1]}", on_body, row) for row in BODIES]
    rows = [(label, check, row) for label, check, row in rows if args.only in label]
    failed = 0
    for label, check, row in rows:
        with tempfile.TemporaryDirectory() as work:
            try:
                print(f"ok    {label}: {check(args.binary, row, pathlib.Path(work))}", flush=True)
            except (AssertionError, RuntimeError, ValueError, TypeError, KeyError) as why:
                failed += 1
                print(f"FAIL  {label}: {why}", flush=True)
    print(f"{len(rows) - failed} of {len(rows)} rows passed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
