"""What training takes of private memory where data or batches are large: many pictures as files, and batches of embeddings that the model runs on in parts.

    python scripts/bench/memory.py [--binary target/release/peft-onnx] [--encoder FOLDER] [--images 10000] [--work FOLDER] [--write docs/PERFORMANCE.md]

A vision transformer of the size of ViT-S with random weights is exported, and pictures of 224 x 224 are drawn into the work folder, where they stay. FOLDER has an exported encoder of sentences
with its tokenizer (all-MiniLM-L6-v2 in the docs). Private memory is the largest RssAnon of the process (/proc/PID/status), of steps on one thread; pages of weights that were read are
not part of it. Needs torch, transformers, optimum and Pillow (scripts/reference-requirements.txt).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import pages
from private_memory import peak

PARTS = [("16", None), ("256", "16"), ("256", "64")]


def vit(folder):
    """A vision transformer of ViT-S's size with ten classes."""
    if (folder / "model.onnx").exists():
        return folder / "model.onnx"
    import torch
    import transformers
    from optimum.exporters.onnx import onnx_export_from_model
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, num_labels=10, hidden_dropout_prob=0.0,
                                    attention_probs_dropout_prob=0.0)
    onnx_export_from_model(transformers.ViTForImageClassification(config).eval(), folder, task="image-classification", device="cpu", do_validation=False)
    transformers.ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(folder)
    return folder / "model.onnx"


def drawn(folder, count):
    """Pictures of noise and shapes as JPEG files, and the rows that name them."""
    import random
    from PIL import Image, ImageDraw
    rows, chance = folder / f"rows_{count}.jsonl", random.Random(0)
    if rows.exists():
        return rows
    (folder / "pictures").mkdir(exist_ok=True)
    colour = lambda: tuple(chance.randrange(256) for _ in range(3))
    lines = []
    for number in range(count):
        path = folder / f"pictures/{number}.jpg"
        if not path.exists():
            image = Image.effect_noise((224, 224), 40).convert("RGB")
            draw = ImageDraw.Draw(image)
            for _ in range(6):
                x, y = chance.randrange(200), chance.randrange(200)
                draw.rectangle((x, y, x + chance.randrange(10, 120), y + chance.randrange(10, 120)), fill=colour())
            image.save(path, quality=85)
        lines.append(json.dumps({"image": f"pictures/{number}.jpg", "label": number % 10}) + "\n")
    rows.write_text("".join(lines))
    return rows


def pictures(opt, work):
    model = vit(work / "vit")
    bundle = work / "vit.lora"
    subprocess.run([opt.binary, "inject", model, "--method", "lora", "-q", "--force", "-o", bundle], check=True)
    table = ["| pictures | batch | steps | private memory, MB |", "|---|---|---|---|"]
    for count, steps in ((100, opt.steps), (opt.images, opt.steps), (opt.images, 4 * opt.steps)):
        data = drawn(work, count)
        taken = peak([opt.binary, "train", bundle, "--data", data, "--batch-size", 1, "--max-steps", steps, "--restart", "--threads", 1, "-q"])
        table.append(f"| {count:,} | 1 | {steps} | {taken / 1e6:.0f} |")
        print(table[-1], flush=True)
    return table


def embeddings(opt, work):
    bundle, data = work / "embedding.lora", work / "pairs.jsonl"
    words = "time year people way day man thing woman life child world school state family student group country problem hand part".split()
    text = lambda row, begin: " ".join(words[(row * 7 + begin + place * (1 + row % 5)) % len(words)] for place in range(30)) + f" {row}"
    data.write_text("".join(json.dumps({"anchor": text(row, 0), "positive": text(row, 3)}) + "\n" for row in range(512)))
    subprocess.run([opt.binary, "inject", opt.encoder, "--task", "embedding", "--method", "lora", "-q", "--force", "-o", bundle], check=True)
    table = ["| batch | rows at a time | private memory, MB |", "|---|---|---|"]
    for batch, part in PARTS:
        parts = ["--micro-batch-size", part] if part else []
        taken = peak([opt.binary, "train", bundle, "--data", data, "--batch-size", batch, *parts, "--max-steps", 2, "--restart", "--threads", 1, "-q"])
        table.append(f"| {batch} | {part or batch} | {taken / 1e6:.0f} |")
        print(table[-1], flush=True)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--encoder", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path, help="the page whose section is replaced")
    opt = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = opt.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        section = ["A vision transformer of ViT-S's size, LoRA of rank 8, pictures of 224 x 224 as JPEG files: they are read when a step needs them, and not kept.", "", *pictures(opt, work)]
        if opt.encoder:
            section += ["", "Pairs of sentences of about 30 words, `mnrl`: the gradient is that of the whole batch.", "", *embeddings(opt, work)]
    if opt.write:
        pages.put(opt.write, "memory.py", "\n".join([f"Made by `scripts/bench/memory.py` on {pages.cpu()}.", "", *section]))


if __name__ == "__main__":
    main()
