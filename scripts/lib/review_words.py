"""Hard prompts of scripts/bench/reviews.py: a masked language model made of all-MiniLM-L6-v2, asked for words as it is and after training.

No package of a few MB has a masked language model with its head, so one is made: the model's body gets the usual head of BERT, whose output layer is its own
table of embeddings (frozen), and is trained for some minutes to fill in words of unlabelled texts.
"""
import collections
import json
import random
import time

import torch
import pathlib
import sys

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from check_methods import run
from review_task import SEED, saved

TEMPLATES = ["{text} It was [MASK].", "{text} All in all, a [MASK] film.", "Just [MASK]! {text}", "{text} I felt [MASK]."]
VERBALIZER = {"negative": ["bad", "terrible", "awful", "boring"], "positive": ["good", "great", "wonderful", "brilliant"]}
HIDDEN_SHARE = 0.15


def hide(ids, tokenizer, chance):
    """A row with 15 % of its tokens hidden as in BERT (80 % as [MASK], 10 % as another token, 10 % as they are), and the hidden tokens by place."""
    places = [at for at, token in enumerate(ids) if token not in tokenizer.all_special_ids]
    hidden = sorted(chance.sample(places, max(1, round(HIDDEN_SHARE * len(places)))))
    shown = list(ids)
    for at in hidden:
        draw = chance.random()
        shown[at] = tokenizer.mask_token_id if draw < 0.8 else chance.randrange(1000, tokenizer.vocab_size) if draw < 0.9 else ids[at]
    return shown, {at: ids[at] for at in hidden}


def batches(texts, tokenizer, rows, steps):
    """Batches of rows of about one length: tokens, mask, and the places and tokens that are hidden."""
    chance, encoded = random.Random(SEED), tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    waiting = []
    for _ in range(steps):
        if len(waiting) < rows:
            waiting = sorted(chance.sample(encoded, min(len(encoded), 50 * rows)), key=len)
        first = chance.randrange(0, len(waiting) - rows + 1)
        chosen, waiting = waiting[first:first + rows], waiting[:first] + waiting[first + rows:]
        pairs = [hide(ids, tokenizer, chance) for ids in chosen]
        longest = max(len(ids) for ids, _ in pairs)
        tokens = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in pairs])
        places = [(row, at) for row, (_, hidden) in enumerate(pairs) for at in hidden]
        wanted = torch.tensor([token for _, hidden in pairs for token in hidden.values()])
        yield tokens, (tokens != tokenizer.pad_token_id).long(), tuple(torch.tensor(axis) for axis in zip(*places)), wanted


def masked_model(source, texts, folder, steps, rows=16, rate=5e-4):
    """Trains the masked language model and saves it; gives the loss at its beginning and end, and the processor's seconds. What was trained already stays."""
    record = folder / "training.json"
    if record.exists():
        return json.loads(record.read_text())
    from transformers import AutoModelForMaskedLM, AutoTokenizer, get_linear_schedule_with_warmup
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32).eval()  # without dropout: no text is read often
    model.get_input_embeddings().weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    losses, start = [], time.process_time()
    for step, (tokens, mask, places, wanted) in enumerate(batches(texts, tokenizer, rows, steps)):
        # Logits of the hidden places alone: the table has 30522 rows.
        hidden = model.bert(input_ids=tokens, attention_mask=mask).last_hidden_state[places]
        loss = torch.nn.functional.cross_entropy(model.cls(hidden), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"masked language model: step {step + 1} of {steps}, loss {sum(losses[-50:]) / 50:.3f}, {time.process_time() - start:.0f} s", flush=True)
    saved(model, source, folder)
    part = max(1, steps // 20)
    made = sum(losses[:part]) / part, sum(losses[-part:]) / part, time.process_time() - start
    record.write_text(json.dumps(made))
    return made


def section(opt, model, data, held_out, work, pretraining):
    """The templates as they are, and the best one trained with LoRA at its defaults."""
    first, last, seconds = pretraining
    words = json.dumps(VERBALIZER)
    templates = [part for template in TEMPLATES for part in ("--template", template)]
    asked = json.loads(run(opt.binary, "eval", model, "--data", data["held_out"], "--verbalizer", words, *templates, "--threads", 1, "--json"))["templates"]
    best = max(asked, key=lambda one: one["accuracy"])["template"]
    bundle = work / "words"
    injected = json.loads(run(opt.binary, "inject", model, "--method", "lora", "--template", best, "--verbalizer", words, "-o", bundle, "--force", "--json"))
    trained = json.loads(run(opt.binary, "train", bundle, "--data", data["train"], "--eval-data", data["held_out"], "--max-steps", opt.steps,
                             "--batch-size", opt.batch_size, "--no-shuffle", "--threads", 1, "--json", "--quiet"))
    counts = collections.Counter(row["label"] for row in held_out)
    often, most = counts.most_common(1)[0]
    share, error = most / len(held_out), 0.5 / len(held_out) ** 0.5
    above = sum(one["accuracy"] > share + 2 * error for one in asked)
    found = f"As it is, it is above chance with {above or 'none'} of the templates" + ("." if above else ": so little pretraining teaches no word for an opinion.")
    return "\n".join([
        "## Hard prompts", "",
        f"A masked language model made by the script: the body of the same model with BERT's head, {opt.mlm_steps} steps of 16 unlabelled texts ({seconds / 60:.0f} minutes of the processor, loss",
        f"{first:.1f} to {last:.1f}), none of them held out. It is a weak one. The words: {'; '.join(f'*{label}*: ' + ', '.join(ours) for label, ours in VERBALIZER.items())}.",
        f"A standard error is {error:.1%}. {found}", "",
        "| | accuracy |", "|---|---|",
        f"| always *{often}* | {share:.1%} |",
        *(f"| as it is, `{one['template']}` | {one['accuracy']:.1%} |" for one in asked),
        f"| LoRA, {opt.steps} steps of {opt.batch_size} reviews ({injected['trainable']:,} numbers), `{best}` | {trained['eval']['accuracy']:.1%} |"])
