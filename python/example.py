"""A classifier is trained on arrays, watched by a callback, and merged: python example.py MODEL.onnx [FOLDER]."""

import pathlib
import sys

import numpy as np
import onnxruntime
import peft_onnx

model = peft_onnx.Model.open(sys.argv[1])
print("inputs", model.inputs, "and", len(model.modules), "modules, as", model.modules[0])

bundle = peft_onnx.inject(model, method="lora", rank=8, alpha=16, task="seq-cls")
print(bundle.trainable_count, "numbers are trained; a batch has", bundle.inputs)

# The class is told by the third token.
rng = np.random.default_rng(1)


def batch(rows=8):
    labels = rng.integers(0, 3, rows)
    ids = np.stack([np.array([2, rng.integers(10, 20), 20 + 3 * label, 30, 3]) for label in labels])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids), "labels": labels}


def watch(trainer, step):
    if step.number % 10 == 0:
        print(f"step {step.number}: loss {step.loss:.4f}")
    trainer.learning_rate *= 0.99
    return step.loss > 0.01


trainer = peft_onnx.Trainer(bundle, learning_rate=1e-2, callbacks=[watch], threads=1)
known = set(bundle.inputs)
steps = trainer.train({name: array for name, array in batch().items() if name in known} for _ in range(60))
print(f"loss {steps[0].loss:.4f} -> {steps[-1].loss:.4f}")
assert steps[-1].loss < 0.5 * steps[0].loss

tuned = peft_onnx.merge(trainer.bundle())
session = onnxruntime.InferenceSession(tuned)
names = {port.name for port in session.get_inputs()}
tried = batch(64)
(logits,) = session.run(["logits"], {name: array for name, array in tried.items() if name in names} | {
    name: np.zeros_like(tried["input_ids"]) for name in names - set(tried)
})
accuracy = (logits.argmax(-1) == tried["labels"]).mean()
print(f"the merged model is right in {accuracy:.0%} of new rows")
assert accuracy > 0.9

adapter = trainer.adapter()
print(len(adapter), "tensors, as", next(iter(adapter)), next(iter(adapter.values())).shape)
if len(sys.argv) > 2:
    folder = pathlib.Path(sys.argv[2])
    trainer.save(folder)
    again = peft_onnx.inject(model, adapter=folder, task="seq-cls").adapter()
    assert all(np.array_equal(again[name], adapter[name]) for name in adapter)

for wrong, words in [
    (lambda: peft_onnx.inject(model, method="lorra"), "there is no method"),
    (lambda: trainer.step({"input_idz": np.ones((1, 4), int)}), "no input 'input_idz'"),
    (lambda: trainer.step({"input_ids": np.ones((1, 4))}), "expected an array of int64"),
    (lambda: peft_onnx.Model.open("nowhere.onnx"), "nowhere.onnx"),
]:
    try:
        wrong()
    except (ValueError, peft_onnx.Error) as error:
        assert words.replace("'", '"') in str(error) or words in str(error), error
    else:
        raise AssertionError(words)
