"""Fine-tunes models/tiny-lm with Hugging Face PEFT on models/finetune: the figures that ours are to be compared with.

    python scripts/fixtures/pretrain.py unpack --work DIR        the model as a Hugging Face folder, from the ONNX file
    python scripts/bench/finetune_with_peft.py --hf DIR [--steps 300] [--learning-rate 4e-3] [--rank 16] [--batch-size 8]

LoRA on every linear layer, alpha twice the rank; AdamW, 10 warm-up steps, then linear decay; the prompt masked, the completion closed by the end token.
Prints the held-out loss (mean over completion tokens) before and after, and what the model writes, greedily and sampled.
"""
import argparse
import json
import math
import pathlib
import random
import time

import peft
import torch
import transformers
import sys

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from families import FILLS, padded

DATA = pathlib.Path(__file__).resolve().parents[2] / "models/finetune"
PROMPTS = ["Orlando: Good day, fair maid.\nRosalind:", "Celia: Why do you weep, my dear cousin?\nRosalind:", "Duke Senior: What is your name, young man?\nTouchstone:"]


def rows(name, tokenizer):
    made = []
    for line in (DATA / f"{name}.jsonl").read_text().splitlines():
        pair = json.loads(line)
        prompt = tokenizer(pair["prompt"])["input_ids"]
        completion = tokenizer(pair["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        made.append({"input_ids": prompt + completion, "attention_mask": [1] * len(prompt + completion), "labels": [-100] * len(prompt) + completion})
    return made


def batch_of(chosen, tokenizer):
    full = padded(chosen, FILLS | {"input_ids": tokenizer.pad_token_id})
    return {key: torch.tensor([row[key] for row in full]) for key in full[0]}


@torch.no_grad()
def held_out_loss(model, chosen, tokenizer):
    model.eval()
    total = count = 0
    for i in range(0, len(chosen), 16):
        batch = batch_of(chosen[i:i + 16], tokenizer)
        labels = int((batch["labels"][:, 1:] != -100).sum())
        total, count = total + model(**batch).loss.item() * labels, count + labels
    return total / count


def write(model, tokenizer):
    model.eval()
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        for sampled in (False, True):
            torch.manual_seed(1)
            kind = dict(do_sample=True, temperature=0.7, top_p=0.9) if sampled else dict(do_sample=False)
            text = model.generate(**inputs, max_new_tokens=48, pad_token_id=tokenizer.pad_token_id, **kind)[0, inputs["input_ids"].shape[1]:]
            print(f"  {prompt!r} {'sampled' if sampled else 'greedy'}: {tokenizer.decode(text)!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hf", required=True)
    for name, default in dict(steps=300, rank=16, batch_size=8).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.hf)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.hf, dtype="float32")
    training, evaluation = rows("train", tokenizer), rows("eval", tokenizer)
    before = held_out_loss(model, evaluation, tokenizer)
    print(f"before: held-out loss {before:.4f}, perplexity {math.exp(before):.1f}")
    write(model, tokenizer)
    model = peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.print_trainable_parameters()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 10, args.steps)
    chance, order, start = random.Random(0), [], time.time()
    for step in range(args.steps):
        if len(order) < args.batch_size:
            order = chance.sample(training, len(training))
        chosen, order = order[:args.batch_size], order[args.batch_size:]
        model.train()
        loss = model(**batch_of(chosen, tokenizer)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}, held out {held_out_loss(model, evaluation, tokenizer):.4f}, {time.time() - start:.0f} s", flush=True)
    write(model, tokenizer)


if __name__ == "__main__":
    main()
