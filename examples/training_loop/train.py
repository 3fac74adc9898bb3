"""Trains an exported training.onnx with nothing but onnxruntime and numpy: what a loop in any language does.

    python examples/training_loop/train.py FOLDER ROWS.jsonl [STEPS] [BATCH_SIZE] [LEARNING_RATE]

FOLDER is what `peft-onnx export BUNDLE --format training -o FOLDER` wrote. ROWS.jsonl has `input_ids`, `attention_mask` and `labels` of equal lengths within each batch. Prints the loss of every step.
"""
import json, sys
import numpy as np, onnxruntime

folder, rows = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
given = dict(enumerate(sys.argv))
steps, size, rate = int(given.get(3, 6)), int(given.get(4, 3)), float(given.get(5, 1e-3))
session = onnxruntime.InferenceSession(f"{folder}/training.onnx")
names, parts = {i.name for i in session.get_inputs()}, ["trainable", "adam_m", "adam_v"]
state = dict(zip(parts, onnxruntime.InferenceSession(f"{folder}/initial.onnx").run(parts, {})))
for step in range(1, steps + 1):
    batch = [rows[((step - 1) * size + i) % len(rows)] for i in range(size)]
    feeds = {key: np.array([row[key] for row in batch], np.int64) for key in ("input_ids", "attention_mask", "labels")}
    feeds["position_ids"] = np.maximum(feeds["attention_mask"].cumsum(1) - 1, 0)
    feeds = {key: value for key, value in feeds.items() if key in names} | state
    feeds |= {"step": np.array(step), "learning_rate": np.array(rate, np.float32)}
    loss, *state = session.run(["loss", "trainable_next", "adam_m_next", "adam_v_next"], feeds)
    state = dict(zip(parts, state))
    print(json.dumps({"step": step, "loss": float(loss)}))
