"""Trains a bundle's training.onnx with nothing but onnxruntime and numpy: what a loop in any language does.

    python scripts/train_loop.py BUNDLE ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]

BUNDLE is what `peft-onnx inject` wrote, or what `peft-onnx export --format training` made of it. ROWS.jsonl has `input_ids`, `attention_mask` and `labels` of equal lengths within each batch. Prints the loss of every step.
"""
import json, os, sys
import numpy as np, onnxruntime

bundle, rows = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
given = dict(enumerate(sys.argv))
steps, size, rate = int(given.get(3, 6)), int(given.get(4, 3)), float(given.get(5, 1e-3))
session = onnxruntime.InferenceSession(f"{bundle}/training.onnx")
names, state = {i.name for i in session.get_inputs()}, {}  # an empty state: the graph has values of the same names
if os.path.exists(initial := f"{bundle}/initial.onnx"):
    state = dict(zip(["trainable", "adam_m", "adam_v"], onnxruntime.InferenceSession(initial).run(["trainable", "adam_m", "adam_v"], {})))
for step in range(1, steps + 1):
    batch = [rows[((step - 1) * size + i) % len(rows)] for i in range(size)]
    feeds = {key: np.array([row[key] for row in batch], np.int64) for key in ("input_ids", "attention_mask", "labels")}
    feeds["position_ids"] = np.maximum(feeds["attention_mask"].cumsum(1) - 1, 0)
    feeds = {key: value for key, value in feeds.items() if key in names} | state
    feeds |= {"step": np.array(step), "learning_rate": np.array(rate, np.float32)}
    loss, *state = session.run(["loss", "trainable_next", "adam_m_next", "adam_v_next"], feeds)
    state = dict(zip(["trainable", "adam_m", "adam_v"], state))
    print(json.dumps({"step": step, "loss": float(loss)}))
