"""Makes models/tiny-lm: a small Llama-architecture language model pretrained from scratch on Jane Austen's novels.

    python scripts/pretrain.py train --minutes 40 --work DIR    tokenizer and weights, as a Hugging Face folder in DIR
    python scripts/pretrain.py export --work DIR                models/tiny-lm/{model.onnx,tokenizer.json,...}
    python scripts/pretrain.py unpack --work DIR                the Hugging Face folder again, from models/tiny-lm

Needs torch 2.15, transformers 4.57, tokenizers, optimum-onnx 0.1 and the two fetchers of texts.py. Training runs on one CPU thread; its schedule follows
the clock, or the step count where --steps is given.
"""
import argparse
import json
import math
import pathlib
import shutil
import time

import texts

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "models/tiny-lm"
VOCABULARY, CONTEXT, BATCH, SEED = 2048, 256, 8, 20260
MUON_RATE, ADAM_RATE = 0.02, 4e-3
BEGIN, END, PAD = "<s>", "</s>", "<pad>"


def split(chapters):
    """Training chapters and held-out chapters: every 40th is held out."""
    return [c for i, c in enumerate(chapters) if i % 40 != 39], chapters[39::40]


def train_tokenizer(chapters):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(chapters, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BEGIN, END, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return tokenizer


def save_tokenizer(tokenizer, folder):
    from transformers import PreTrainedTokenizerFast
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, model_max_length=2 * CONTEXT,
                            clean_up_tokenization_spaces=False).save_pretrained(folder)


def build_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=448, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=2 * CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2, attn_implementation="sdpa"))


def stream(tokenizer, chapters):
    import torch
    ids = [e.ids + [1] for e in tokenizer.encode_batch(chapters)]
    return torch.tensor([i for chapter in ids for i in chapter])


def evaluate(model, tokens):
    import torch
    model.eval()
    windows = tokens[:len(tokens) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    with torch.no_grad():
        loss = sum(float(model(input_ids=w, labels=w).loss) * len(w) for w in windows.split(BATCH)) / len(windows)
    model.train()
    return loss


def windows(tokens, generator):
    """Batches without end: each epoch cuts the text at another offset and shuffles the pieces."""
    import torch
    while True:
        offset = int(torch.randint(CONTEXT, (), generator=generator))
        pieces = tokens[offset:offset + (len(tokens) - offset) // CONTEXT * CONTEXT].view(-1, CONTEXT)
        yield from pieces[torch.randperm(len(pieces), generator=generator)].split(BATCH)


def orthogonal(matrix):
    """About the nearest matrix with orthonormal rows or columns: five steps of the quintic Newton-Schulz iteration of Muon (Jordan, 2024)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide is matrix else x.T


class Muon:
    """Momentum whose step is made orthogonal, in float32: torch's own works in bfloat16, which is slow on CPUs without it."""

    def __init__(self, parameters, rate):
        import torch
        self.parameters, self.rate = parameters, rate
        self.momentum = [torch.zeros_like(p) for p in parameters]

    def step(self):
        import torch
        with torch.no_grad():
            for p, momentum in zip(self.parameters, self.momentum):
                momentum.lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(momentum, 0.95))
                p.mul_(1 - 0.01 * self.rate).add_(update, alpha=-self.rate * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def train(args):
    import torch
    torch.set_num_threads(args.threads)
    training, held_out = split(texts.austen())
    tokenizer = train_tokenizer(training)
    tokens, held_out = stream(tokenizer, training), stream(tokenizer, held_out)
    model = build_model().train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon, adam = Muon(matrices, MUON_RATE), torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokens)} training tokens, {len(held_out)} held out", flush=True)
    start, log = time.time(), []
    for step, batch in enumerate(windows(tokens, torch.Generator().manual_seed(SEED))):
        seconds = time.time() - start
        progress = step / args.steps if args.steps else seconds / 60 / args.minutes
        if progress >= 1:
            break
        scale = min(1, (step + 1) / 50, (1 - progress) / 0.6)
        muon.rate, adam.param_groups[0]["lr"] = MUON_RATE * scale, ADAM_RATE * scale
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        model.zero_grad()
        log.append(loss.item())
        if step % 50 == 49:
            print(f"step {step + 1} seconds {seconds:.0f} loss {sum(log[-50:]) / 50:.4f}", flush=True)
        if step % 500 == 499:
            print(f"step {step + 1} held-out loss {evaluate(model, held_out):.4f}", flush=True)
            save(model, tokenizer, args.work)
    save(model, tokenizer, args.work)
    held_out_loss = evaluate(model, held_out)
    record = dict(steps=step, tokens=step * BATCH * CONTEXT, epochs=step * BATCH * CONTEXT / len(tokens), seconds=round(time.time() - start),
                  training_loss=sum(log[-200:]) / 200, held_out_loss=held_out_loss, held_out_perplexity=math.exp(held_out_loss),
                  parameters=sum(p.numel() for p in model.parameters()), training_tokens=len(tokens), threads=args.threads)
    print(json.dumps(record, indent=1))
    (args.work / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def export(args):
    """Writes the ONNX form with a KV cache, as optimum exports it: inputs input_ids, attention_mask, position_ids, past_key_values.N.{key,value}."""
    from optimum.exporters.onnx import main_export
    folder = args.work / "onnx"
    shutil.rmtree(folder, ignore_errors=True)
    main_export(str(args.work), folder, task="text-generation-with-past", device="cpu", do_validation=True, library_name="transformers", framework="pt")
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("model.onnx", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / name, OUT)
    shutil.copy(args.work / "training.json", OUT)


def unpack(args):
    """Writes the Hugging Face form of models/tiny-lm/model.onnx: matrices are found by the module path in their node's name."""
    import onnx
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    graph = onnx.load(OUT / "model.onnx").graph
    tensors = {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
    weights = {name: value for name, value in tensors.items() if name.endswith(".weight")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::MatMul"):
            weights[node.name.removesuffix("/MatMul")[1:].replace("/", ".") + ".weight"] = tensors[node.input[1]].T.contiguous()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(OUT))
    result = model.load_state_dict(weights, strict=False)
    assert result.missing_keys == ["lm_head.weight"] and not result.unexpected_keys, result  # tied: the embedding's own tensor
    model.save_pretrained(args.work)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(OUT / name, args.work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (train, export, unpack):
        sub = commands.add_parser(command.__name__)
        sub.add_argument("--work", type=pathlib.Path, default=ROOT / "out/tiny-lm")
        sub.set_defaults(run=command)
        if command is train:
            sub.add_argument("--minutes", type=float, default=40)
            sub.add_argument("--steps", type=int)
            sub.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
