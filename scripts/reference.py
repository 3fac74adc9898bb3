"""Writes models/fixtures/<family>/cases/<case>/: what Hugging Face PEFT and PyTorch do when they train an adapter of the fixture models.

    python scripts/reference.py [FAMILY[/CASE]...]        after make_fixtures.py; peft 0.21, torch 2.15, transformers 4.57

    adapter_init/, adapter_final/   as PEFT's save_pretrained wrote them, before and after training (PiSSA and OLoRA: after it alone, converted); where a network computes the prompt, PEFT saves only the
                                    prompt, so prompt_encoder.safetensors beside it has the network
    train.jsonl                     one row a line, in training order: input_ids, attention_mask, and labels (-100 is ignored, with decoder_input_ids for
                                    encoder-decoders) or label; pixel_values and label for images; rows are padded on the right to equal length within each batch
    expected.json                   hyper-parameters, the loss of every optimizer step (before its update), gradient norms and learning rates
    gradients.safetensors           gradients of every trainable tensor at step 1, before clipping, under the adapter file's keys
    logits.safetensors              the inputs of a padded batch, and the logits of the base, of adapter_init and of adapter_final

The loss of a step is the mean over the labels that count in all its batches together, as Hugging Face's Trainer has it.
"""
import functools
import json
import math
import random
import shutil
import sys
import tempfile

import families
from families import FAMILIES, FILLS, FIXTURES, VOCABULARY

torch = families.prepare()
import peft  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

BATCH, STEPS, RANK, ALPHA = 3, 6, 4, 8
FIRST_TOKEN, MASK_TOKEN = 5, 4
TRAINING = dict(learning_rate=1e-2, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, weight_decay=0.01, batch_size=BATCH, max_steps=STEPS,
                lr_scheduler="constant", warmup_steps=0, max_grad_norm=0.0, gradient_accumulation_steps=1)


def walk(chance, length):
    """Tokens that can be learnt: each mostly follows from the one before."""
    span = VOCABULARY - FIRST_TOKEN
    token, tokens = chance.randrange(span), []
    for _ in range(length):
        tokens.append(token + FIRST_TOKEN)
        token = (3 * token + 7) % span if chance.random() < 0.85 else chance.randrange(span)
    return tokens


def row(task, config, chance, length):
    """A row of the task's columns; an image does not depend on the length."""
    if task == "IMAGE_CLS":
        return image(config, chance)
    tokens, classes, start = walk(chance, length), config.num_labels, config.decoder_start_token_id
    made = {"input_ids": tokens, "attention_mask": [1] * length}
    if task == "SEQ_CLS":
        return made | {"label": sum(tokens) % classes}
    if task == "TOKEN_CLS":
        return made | {"labels": [(before + token) % classes for before, token in zip([0, *tokens], tokens)]}
    if task == "SEQ_2_SEQ_LM":
        answer = walk(chance, chance.randint(length // 2, length))
        return made | {"labels": answer, "decoder_input_ids": [start, *answer[:-1]]}
    if task == "CAUSAL_LM":
        prompt = chance.randint(1, length // 2)
        return made | {"labels": [-100] * prompt + tokens[prompt:]}
    hidden = {length // 2} | {i for i in range(length) if chance.random() < 0.25}
    return {"input_ids": [MASK_TOKEN if i in hidden else t for i, t in enumerate(tokens)], "attention_mask": [1] * length,
            "labels": [t if i in hidden else -100 for i, t in enumerate(tokens)]}


def image(config, chance):
    """Stripes whose width tells the class, behind noise."""
    channels, side = families.image_form(config)
    label = chance.randrange(config.num_labels)
    pixels = [[[round(chance.gauss(0.5 * math.sin(label * (channel + 1) + y), 0.8), 2) for _ in range(side)] for y in range(side)] for channel in range(channels)]
    return {"pixel_values": pixels, "label": label}


def training_rows(task, config, chance, batches):
    rows = []
    for i in range(batches):
        longest = 8 + (i * 5) % 7
        lengths = [longest if j == i % BATCH else chance.randint(4, longest) for j in range(BATCH)]
        rows += families.padded([row(task, config, chance, length) for length in lengths], FILLS)
    return rows


def tensors(rows):
    return {"labels" if key == "label" else key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


def counted(task, batch):
    """Labels that enter the mean; a causal model's first label has nothing before it to be predicted from."""
    labels = batch["labels"][:, 1:] if task == "CAUSAL_LM" else batch["labels"]
    return int((labels != -100).sum())


def adapted(base, task, case, number):
    """The base with the case's adapter, which changes the model so that every gradient is other than zero from the first step."""
    settings = {k: v for k, v in case.items() if k not in ("training", "method", "task")}
    method = case.get("method", "LoraConfig")
    if method == "LoraConfig":
        settings = dict(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0) | settings
    torch.manual_seed(number)
    config = getattr(peft, method)(task_type=None if task in ("MASKED_LM", "IMAGE_CLS") else task, **settings)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if starts_from_weights(settings):
                break
            if ".lora_B." in key or ".ia3_l" in key:
                p.add_(0.05 * torch.randn(p.shape))
            if key.startswith("prompt_encoder.") and "embedding" in key:
                p.mul_(0.4)
    return model


def starts_from_weights(settings):
    """Whether PEFT takes the factors out of the base's weights: such an adapter is saved as an ordinary one, of twice the rank."""
    return settings.get("init_lora_weights") in ("pissa", "olora")


def prompt_encoder(model):
    """What computes the prompt, which PEFT does not save: its parameters without the adapter's name."""
    return {key.replace("prompt_encoder.default.", "prompt_encoder."): p for key, p in model.named_parameters() if key.startswith("prompt_encoder.")}


def is_computed(model):
    """Whether a network computes the prompt, so that the prompt in the file is not what is trained."""
    return len(prompt_encoder(model)) > 1


def save_adapter(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if is_computed(model):
        save_file({k: p.detach().contiguous() for k, p in sorted(prompt_encoder(model).items())}, folder / "prompt_encoder.safetensors")


def gradients(model):
    """Gradients under the keys that the tensors are saved with."""
    found = {key: p.grad.clone() for key, p in model.named_parameters() if p.requires_grad}
    if not prompt_encoder(model):
        return peft.get_peft_model_state_dict(model, state_dict=found)
    of_prompt = {key: p.grad.clone() for key, p in prompt_encoder(model).items()}
    if not is_computed(model):
        of_prompt = {"prompt_embeddings": of_prompt.pop("prompt_encoder.embedding.weight")}
    return of_prompt | {key.replace("modules_to_save.default.", ""): g for key, g in found.items() if not key.startswith("prompt_encoder.")}


def train(model, task, rows, settings):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings["learning_rate"], betas=(settings["adam_beta1"], settings["adam_beta2"]),
                                  eps=settings["adam_epsilon"], weight_decay=settings["weight_decay"])
    schedule = transformers.get_scheduler(settings["lr_scheduler"], optimizer, settings["warmup_steps"], settings["max_steps"])
    seen = dict(losses=[], gradient_norms=[], learning_rates=[])
    batches = [tensors(rows[i:i + BATCH]) for i in range(0, len(rows), BATCH)]
    first = None
    for step in range(STEPS):
        share = settings["gradient_accumulation_steps"]
        micro = batches[step * share:(step + 1) * share]
        total, loss = sum(counted(task, b) for b in micro), 0.0
        optimizer.zero_grad()
        for batch in micro:
            part = model(**batch).loss * (counted(task, batch) / total)
            part.backward()
            loss += part.item()
        first = first or gradients(model)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"] or float("inf"))
        for key, value in zip(seen, (loss, norm.item(), optimizer.param_groups[0]["lr"])):
            seen[key].append(value)
        optimizer.step()
        schedule.step()
    return seen, first


@torch.no_grad()
def logits(model, probe):
    """Logits of the tokens, without those of virtual tokens in front."""
    found = model(**probe).logits
    own = probe.get("decoder_input_ids", probe.get("input_ids"))
    return (found[:, -own.shape[1]:] if found.dim() == 3 else found).contiguous()


def write_case(folder, load, task, case, number):
    """What PEFT and PyTorch do with one case, in files; in one line, what they do."""
    chance = random.Random(number)
    settings = TRAINING | case.get("training", {})
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = load()
    rows = training_rows(task, base.config, chance, STEPS * settings["gradient_accumulation_steps"])
    probe_rows = families.padded([row(task, base.config, chance, length) for length in (11, 4, 7)], FILLS)
    probe = {k: v for k, v in tensors(probe_rows).items() if k != "labels"}
    model = adapted(load(), task, case, number)
    converted = starts_from_weights(case)
    start = tempfile.mkdtemp()
    if converted:
        # PEFT wants the adapter as it was, under a name that makes no mutation of the base.
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(start)
    else:
        save_adapter(model, folder / "adapter_init")
    untrained = logits(model, probe)
    seen, first = train(model, task, rows, settings)
    if converted:
        model.save_pretrained(folder / "adapter_final", path_initial_model_for_weight_conversion=start)
        (folder / "adapter_final/README.md").unlink(missing_ok=True)
    else:
        save_adapter(model, folder / "adapter_final")
    shutil.rmtree(start)
    saved = load_file(folder / "adapter_final/adapter_model.safetensors")
    if not is_computed(model) and sorted(saved) != sorted(first):
        raise RuntimeError(f"{folder}: gradients of {sorted(first)}, but the adapter has {sorted(saved)}")
    save_file({k: v.contiguous() for k, v in sorted(first.items())}, folder / "gradients.safetensors")
    save_file(probe | {"base": logits(base, probe), "initial": untrained, "final": logits(model, probe)}, folder / "logits.safetensors")
    (folder / "train.jsonl").write_text("".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows))
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    (folder / "expected.json").write_text(json.dumps(dict(
        method=case.get("method", "LoraConfig"), task=task, rank=RANK, alpha=ALPHA, hyperparameters=settings, **seen,
        trainable={k: list(v.shape) for k, v in sorted(saved.items())}, versions=versions), indent=1) + "\n")
    return f"loss {seen['losses'][0]:.4f} -> {seen['losses'][-1]:.4f}, norms {seen['gradient_norms'][0]:.2f}, {len(saved)} tensors"


def main():
    for asked in sys.argv[1:] or FAMILIES:
        name, _, only = asked.partition("/")
        family = FAMILIES[name]
        for case in [only] if only else family.cases:
            task = family.cases[case].get("task")
            told = write_case(FIXTURES / name / "cases" / case, functools.partial(families.load, name, task=task), task or family.task, family.cases[case],
                              families.seed(name, case))
            print(f"{name}/{case}: {told}", flush=True)


if __name__ == "__main__":
    main()
