"""Trains an exported step whose batches do not fit into memory at once: gradient.onnx adds up the gradients of their parts, update.onnx makes the step.

    python examples/training_loop/accumulate.py FOLDER STEPS.json [LEARNING_RATE]

FOLDER is what `peft-onnx export BUNDLE --format training -o FOLDER` wrote. STEPS.json is a list of steps; a step is {"parts": [{"input_ids": .., "labels": .., ..}, ..], "label_count": .., "second_count": ..}.
The counts are those of the whole step, since the loss is the mean over it: how many labels count (each times its weight), and of a loss of two terms (orpo; class weights beside a teacher) what the
second one is divided by: the labels of the chosen answers, or the rows. Prints the loss of every step.
"""
import json, sys
import numpy as np, onnxruntime

folder, steps, rate = sys.argv[1], json.load(open(sys.argv[2])), np.array(sys.argv[3] if len(sys.argv) > 3 else 1e-3, np.float32)
initial, gradients, update = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("initial", "gradient", "update"))
parts = ["trainable", "adam_m", "adam_v"]
state = dict(zip(parts, initial.run(parts, {})))
types = {port.name: np.int64 if port.type == "tensor(int64)" else np.int32 if port.type == "tensor(int32)" else np.float32 for port in gradients.get_inputs()}
for number, step in enumerate(steps, 1):
    total, gradient = 0.0, np.zeros_like(state["trainable"])
    counts = {name: np.array(step[name], np.float32) for name in ("label_count", "second_count") if name in types}
    for part in step["parts"]:
        feeds = {name: np.array(value, types[name]) for name, value in part.items()} | counts | {"trainable": state["trainable"], "gradient": gradient}
        if "dropout_seed" in types:
            feeds["dropout_seed"] = np.array(number * len(step["parts"]), types["dropout_seed"])
        loss, gradient = gradients.run(["loss", "gradient_next"], feeds)
        total += float(loss)
    feeds = state | {"gradient": gradient, "step": np.array(number), "learning_rate": rate}
    state = dict(zip(parts, update.run([f"{name}_next" for name in parts], feeds)))
    print(json.dumps({"step": number, "loss": total}))
