"""Draws what the step of a bundle is made of: the parts of its training graph, counted, and what flows between them.

    python scripts/draw_training_graph.py BUNDLE docs/pictures/training-graph.svg

Needs the package onnx. The picture in docs is of `peft-onnx inject models/fixtures/bert_encoder/dynamo.onnx --task seq-cls --num-labels 3 --method lora`.
"""

import collections
import html
import pathlib
import sys

import onnx

WIDTH, BOX, HEIGHT = 980, 270, 108
PARTS = {
    "base": "the base, as it was",
    "adapter": "the adapter's branches",
    "loss": "the loss",
    "backward": "the backward pass",
    "update": "clipping and AdamW",
}
COLOURS = {"base": "#e8eef7", "adapter": "#fde9d4", "loss": "#e7f4e4", "backward": "#f6e3ef", "update": "#efe9fb"}


def part(node, base):
    """Which part of the step a node is."""
    if node.name.startswith("grad/"):
        return "backward"
    if node.name.startswith(("lora/", "trainable/", "trained/")):
        return "adapter"
    return "base" if node.name in base else None


def counted(folder):
    """Operators of each part, of the bundle's training graph. The loss stands before the first gradient, the update behind the last."""
    training = onnx.load(folder / "training.onnx", load_external_data=False).graph
    base = {node.name for node in onnx.load(folder / "inference.onnx", load_external_data=False).graph.node}
    found = {name: collections.Counter() for name in PARTS}
    update = {node.name for node in onnx.load(folder / "update.onnx", load_external_data=False).graph.node}
    for node in training.node:
        name = part(node, base) or ("update" if node.name in update else "loss")
        found[name][node.op_type] += 1
    return training, found


def box(name, x, y, operators):
    most = ", ".join(f"{count} {kind}" for kind, count in operators.most_common(3))
    lines = [PARTS[name], f"{sum(operators.values())} nodes", most]
    text = "".join(
        f'<text x="{x + 14}" y="{y + 28 + 26 * at}" class="{"title" if at == 0 else "words"}">{html.escape(line)}</text>' for at, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="10" fill="{COLOURS[name]}" stroke="#555"/>{text}'


def arrow(from_x, from_y, to_x, to_y, words="", above=True):
    middle = (from_x + to_x) / 2, (from_y + to_y) / 2 + (-8 if above else 18)
    label = f'<text x="{middle[0]}" y="{middle[1]}" class="words" text-anchor="middle">{html.escape(words)}</text>' if words else ""
    return f'<line x1="{from_x}" y1="{from_y}" x2="{to_x}" y2="{to_y}" stroke="#333" stroke-width="1.6" marker-end="url(#end)"/>{label}'


def main():
    folder, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    graph, found = counted(folder)
    data = ", ".join(port.name for port in graph.input if port.name in ("input_ids", "attention_mask", "labels"))
    left, middle, right = 20, 355, 690
    top, bottom = 90, 300
    shapes = [
        box("base", left, top, found["base"]),
        box("adapter", middle, top, found["adapter"]),
        box("loss", right, top, found["loss"]),
        box("backward", right, bottom, found["backward"]),
        box("update", middle, bottom, found["update"]),
        arrow(left + BOX / 2, 40, left + BOX / 2, top),
        arrow(left + BOX, top + 40, middle, top + 40, "x"),
        arrow(middle, top + 76, left + BOX, top + 76, "B·A·x", above=False),
        arrow(middle + BOX, top + 54, right, top + 54, "logits"),
        arrow(right + BOX / 2, top + HEIGHT, right + BOX / 2, bottom, ""),
        arrow(right, bottom + 54, middle + BOX, bottom + 54, "gradient"),
        arrow(middle + BOX / 2, bottom, middle + BOX / 2, top + HEIGHT, ""),
        arrow(middle, bottom + 54, left + BOX - 60, bottom + 54, "state"),
    ]
    words = [
        f'<text x="{left + BOX / 2 + 10}" y="64" class="words">{html.escape(data)}</text>',
        f'<text x="{middle + BOX / 2 + 10}" y="{(top + HEIGHT + bottom) / 2 + 4}" class="words">trainable, next step</text>',
        f'<text x="{right + BOX / 2 + 10}" y="{(top + HEIGHT + bottom) / 2 + 4}" class="words">d loss</text>',
        f'<text x="{left}" y="{bottom + 50}" class="words">trainable_next,</text>',
        f'<text x="{left}" y="{bottom + 70}" class="words">adam_m_next, adam_v_next</text>',
    ]
    style = "text{font-family:system-ui,sans-serif;fill:#222}.title{font-size:16px;font-weight:600}.words{font-size:13px}"
    end = '<marker id="end" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0 10 5 0 10z" fill="#333"/></marker>'
    title = f"One training step: {len(graph.node)} standard ONNX nodes"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 430" role="img" aria-label="{title}"><style>{style}</style><defs>{end}</defs>'
        f'<rect width="{WIDTH}" height="430" fill="#fff"/>{"".join(shapes + words)}<text x="{left}" y="24" class="title">{title}</text></svg>\n'
    )


if __name__ == "__main__":
    main()
