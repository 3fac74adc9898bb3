"""Trains an adapter with a loss written in numpy: the model's outputs come from one graph, their gradients go back through another.

    python scripts/checks/train_vjp.py FOLDER ROWS.jsonl [STEPS] [LEARNING_RATE]

FOLDER is what `peft-onnx export BUNDLE --format vjp -o FOLDER` wrote, of a classifier with the output `logits`. ROWS.jsonl has `input_ids`, `attention_mask` and `label`.
Prints the loss of every step: the mean cross-entropy.
"""
import json, sys
import numpy as np, onnxruntime

folder, rows = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
given = dict(enumerate(sys.argv))
steps, rate = int(given.get(3, 6)), float(given.get(4, 1e-3))
forward, vjp, update = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("forward", "vjp", "update"))
parts = ["trainable", "adam_m", "adam_v"]
state = dict(zip(parts, onnxruntime.InferenceSession(f"{folder}/initial.onnx").run(parts, {})))
length = max(len(row["input_ids"]) for row in rows)
pad = lambda key: np.array([row[key] + [0] * (length - len(row[key])) for row in rows], np.int64)
data = {"input_ids": pad("input_ids"), "attention_mask": pad("attention_mask"), "token_type_ids": np.zeros((len(rows), length), np.int64)}
data = {name: value for name, value in data.items() if name in {port.name for port in forward.get_inputs()}}
labels = np.eye(forward.get_outputs()[0].shape[-1], dtype=np.float32)[[row["label"] for row in rows]]
for step in range(1, steps + 1):
    feeds = data | {"trainable": state["trainable"]}
    logits, = forward.run(["logits"], feeds)
    # The loss, and its gradient with respect to the logits: any program may compute these.
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    loss, cotangent = -np.log((p * labels).sum(-1)).mean(), ((p - labels) / len(rows)).astype(np.float32)
    gradient, = vjp.run(["gradient"], feeds | {"logits_cotangent": cotangent})
    given = state | {"gradient": gradient, "step": np.array(step), "learning_rate": np.array(rate, np.float32)}
    state = dict(zip(parts, update.run([f"{part}_next" for part in parts], given)))
    print(json.dumps({"step": step, "loss": float(loss)}))
