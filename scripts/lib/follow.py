"""Runs peft-onnx on a case that reference.py wrote and compares it with what PEFT and PyTorch did: losses, trained tensors, merged logits."""
import json
import pathlib
import subprocess

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

from onnx_inputs import feeds, relative_difference

onnxruntime.set_default_logger_severity(3)
LOSS = 2e-4      # of PyTorch's loss, at every step
COSINE = 0.999   # of a tensor's change with PyTorch's
TENSOR = 2e-3    # of a tensor's largest element
LOGITS = 1e-3    # of the largest logit
NOISE = 1e-5     # below this a difference is float32's, whatever it is a part of
SECONDS = 120    # for a command
TASKS = {"CAUSAL_LM": "causal-lm", "MASKED_LM": "masked-lm", "SEQ_CLS": "seq-cls", "TOKEN_CLS": "token-cls", "SEQ_2_SEQ_LM": "seq2seq-lm",
         "IMAGE_CLS": "image-cls"}


class Refused(Exception):
    """The program said why it does not do something."""


def run(binary, *arguments):
    """What the program prints; its error where it ends with one."""
    try:
        done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as why:
        raise AssertionError(f"{arguments[0]} took more than {SECONDS} s") from why
    if done.returncode == 1 and done.stderr.startswith("error:"):
        raise Refused(f"{arguments[0]}: {done.stderr.removeprefix('error:').strip()}")
    if done.returncode:
        raise AssertionError(f"{arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def follow(binary, model, case, work):
    """Trains the case's adapter as PyTorch did. Gives how far it is from it, in words; fails where that is too far."""
    told = json.loads((case / "expected.json").read_text())
    given, bundle, merged = told["hyperparameters"], work / "bundle", work / "merged.onnx"
    run(binary, "inject", model, "--adapter", case / "adapter_init", "--task", TASKS[told["task"]], "-o", bundle)
    run(binary, "train", bundle, "--data", case / "train.jsonl", "--no-shuffle", "--quiet", "--batch-size", given["batch_size"], "--max-steps", given["max_steps"],
        "--learning-rate", given["learning_rate"], "--weight-decay", given["weight_decay"], "--lr-scheduler", given["lr_scheduler"],
        "--max-grad-norm", given["max_grad_norm"])
    losses = [json.loads(line)["loss"] for line in (bundle / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    run(binary, "merge", bundle, "-o", merged, "--quiet")
    faults = [*compare_losses(losses, told["losses"]), *compare_tensors(bundle, case), *compare_logits(merged, case)]
    assert not faults, "; ".join(faults[:2])


def compare_losses(found, wanted):
    if len(found) != len(wanted):
        return [f"{len(found)} losses, PyTorch has {len(wanted)}"]
    off = [abs(f - w) / abs(w) for f, w in zip(found, wanted)]
    step = int(np.nanargmax(off)) if np.isfinite(off).any() else 0
    return [] if max(off) <= LOSS else [f"loss of step {step + 1}: {found[step]:.6f}, PyTorch {wanted[step]:.6f}"]


def compare_tensors(bundle, case):
    found, wanted, start = (load_file(pathlib.Path(at) / "adapter_model.safetensors") for at in (bundle, case / "adapter_final", case / "adapter_init"))
    if sorted(found) != sorted(wanted):
        return [f"keys: {len(set(wanted) - set(found))} missing, {len(set(found) - set(wanted))} too many"]
    faults = []
    for key, value in wanted.items():
        ours, theirs = (np.float64(tensor - start[key]).ravel() for tensor in (found[key], value))
        size = np.linalg.norm(ours) * np.linalg.norm(theirs)
        if size > NOISE ** 2 and ours @ theirs / size <= COSINE:
            faults.append(f"{key}: the update's cosine is {ours @ theirs / size:.5f}")
        largest = np.abs(found[key] - value).max()
        if not largest <= TENSOR * np.abs(value).max() + NOISE:
            faults.append(f"{key}: off by {largest:.1e} of {np.abs(value).max():.1e}")
    return faults


def compare_logits(merged, case):
    known = load_file(case / "logits.safetensors")
    inputs = {key: value for key, value in known.items() if key not in ("base", "initial", "final")}
    session = onnxruntime.InferenceSession(str(merged), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], feeds(session, inputs))[0]
    off = relative_difference(found, known["final"], inputs)
    return [] if off <= LOGITS else [f"merged logits: off by {off:.1e} of the largest"]


def names(binary, model, task, wanted, work):
    """Compares the keys of a fresh adapter on all linear modules with PEFT's."""
    run(binary, "inject", model, "--method", "lora", "--target-modules", "all-linear", "--task", TASKS[task], "-o", work / "fresh")
    found = set(load_file(work / "fresh/adapter_model.safetensors"))
    missing, more = (sorted({key.removeprefix("base_model.model.").rsplit(".lora_")[0] for key in keys}) for keys in (wanted - found, found - wanted))
    assert found == wanted, f"all-linear: {len(missing)} modules missing ({', '.join(missing[:2])}), {len(more)} too many ({', '.join(more[:2])})"
