"""Writes cases like those of reference.py for new heads on bodies: pooling, linear layers with rectifiers between them, cross-entropy.

    python scripts/reference_heads.py [FAMILY/CASE...]        after make_fixtures.py; peft 0.21, torch 2.15, transformers 4.57

The head is a child `classifier` of the body, so that its tensors are called as in Hugging Face's classifiers. With LoRA it is one of PEFT's
`modules_to_save`; alone the body is frozen, and PEFT's file is that of a LoRA without targets.
"""
import json
import random
import shutil
import sys
import types

import families
import reference
from families import FILLS, FIXTURES
from reference import BATCH, STEPS, TRAINING, tensors

torch = families.prepare()
import peft  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

TASK, CLASSES = "SEQ_CLS", 3
CONFIG = types.SimpleNamespace(num_labels=CLASSES, decoder_start_token_id=None)
CASES = {  # layers and pooling of the head; settings of LoRA, or none for the head alone
    "bert_encoder/head_mean": ([24], "mean", None),
    "bert_encoder/lora_mean": ([], "mean", dict(target_modules=["query", "value"])),
    "bert_encoder/lora_cls": ([16, 12], "cls", dict(target_modules=["query", "value"])),
    "llama/head_last": ([20], "last", None),
}


class Classifier(torch.nn.Module):
    """A body with its head, as a model whose forward pass gives loss and logits."""

    def __init__(self, name, layers, pooling, lora):
        super().__init__()
        model = families.load(name)
        body = getattr(model, "model", model)
        widths = [body.config.hidden_size, *layers, CLASSES]
        linears = [torch.nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
        for linear in linears:
            linear.bias.data.normal_(0, 0.1)
        between = [part for linear in linears for part in (linear, torch.nn.ReLU())][:-1]
        model.classifier = torch.nn.Sequential(*between) if layers else linears[0]
        model.requires_grad_(False)
        model.classifier.requires_grad_(True)
        self.pooling, self.lora = pooling, lora
        self.model = model
        if lora:
            config = peft.LoraConfig(r=reference.RANK, lora_alpha=reference.ALPHA, lora_dropout=0.0, modules_to_save=["classifier"], **lora)
            self.model = peft.get_peft_model(model, config)
            for key, p in self.model.named_parameters():
                if ".lora_B." in key:
                    p.data.add_(0.05 * torch.randn(p.shape))

    def base(self):
        return self.model.base_model.model if self.lora else self.model

    def forward(self, input_ids, attention_mask, labels=None):
        base = self.base()
        states = getattr(base, "model", base)(input_ids=input_ids, attention_mask=attention_mask)[0]
        if self.pooling == "cls":
            pooled = states[:, 0]
        elif self.pooling == "mean":
            mask = attention_mask[:, :, None].float()
            pooled = (states * mask).sum(1) / mask.sum(1)
        else:
            pooled = states[torch.arange(len(states)), attention_mask.sum(1) - 1]
        logits = base.classifier(pooled)
        return types.SimpleNamespace(logits=logits, loss=None if labels is None else torch.nn.functional.cross_entropy(logits, labels))

    def own_state(self, found):
        """Tensors by the keys that they are saved with; `found` has them by the names of this module's parameters."""
        inner = {key.removeprefix("model."): value for key, value in found.items()}
        if self.lora:
            return peft.get_peft_model_state_dict(self.model, state_dict=inner)
        return {f"base_model.model.{key}": value for key, value in inner.items() if key.startswith("classifier.")}

    def save(self, folder, layers):
        head = dict(layers=layers, num_labels=CLASSES, pooling=self.pooling)
        if self.lora:
            self.model.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
        else:
            peft.LoraConfig(target_modules="dummy-target-modules", modules_to_save=["classifier"], inference_mode=True).save_pretrained(folder)
            save_file({k: v.contiguous() for k, v in sorted(self.own_state(self.state_dict()).items())}, folder / "adapter_model.safetensors")
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | dict(task_type=TASK, new_head=head), indent=2, sort_keys=True) + "\n")


def train(model, rows):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=TRAINING["learning_rate"], weight_decay=TRAINING["weight_decay"])
    seen, first = dict(losses=[], gradient_norms=[], learning_rates=[]), None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**tensors(rows[step * BATCH:(step + 1) * BATCH])).loss
        loss.backward()
        first = first or model.own_state({key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad})
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf"))
        for key, value in zip(seen, (loss.item(), norm.item(), TRAINING["learning_rate"])):
            seen[key].append(value)
        optimizer.step()
    return seen, first


@torch.no_grad()
def write_case(label):
    name, case = label.split("/")
    layers, pooling, lora = CASES[label]
    chance = random.Random(families.seed(name, case))
    folder = FIXTURES / name / "cases" / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = reference.training_rows(TASK, CONFIG, chance, STEPS)
    probe_rows = families.padded([reference.row(TASK, CONFIG, chance, length) for length in (11, 4, 7)], FILLS)
    probe = {k: v for k, v in tensors(probe_rows).items() if k != "labels"}
    torch.manual_seed(families.seed(name, case))
    model = Classifier(name, layers, pooling, lora).eval()
    model.save(folder / "adapter_init", layers)
    untrained = model(**probe).logits.contiguous()
    with torch.enable_grad():
        seen, first = train(model, rows)
    model.save(folder / "adapter_final", layers)
    saved = load_file(folder / "adapter_final/adapter_model.safetensors")
    if sorted(saved) != sorted(first):
        sys.exit(f"{folder}: gradients of {sorted(first)}, but the adapter has {sorted(saved)}")
    save_file({k: v.contiguous() for k, v in sorted(first.items())}, folder / "gradients.safetensors")
    save_file(probe | {"initial": untrained, "final": model(**probe).logits.contiguous()}, folder / "logits.safetensors")
    (folder / "train.jsonl").write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows))
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    (folder / "expected.json").write_text(json.dumps(dict(
        method="LoraConfig" if lora else "HEAD", task=TASK, rank=reference.RANK, alpha=reference.ALPHA, hyperparameters=TRAINING, **seen,
        trainable={k: list(v.shape) for k, v in sorted(saved.items())}, versions=versions), indent=1) + "\n")
    print(f"{label}: loss {seen['losses'][0]:.4f} -> {seen['losses'][-1]:.4f}, {len(saved)} tensors", flush=True)


if __name__ == "__main__":
    for each in sys.argv[1:] or CASES:
        write_case(each)
