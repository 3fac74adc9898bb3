"""Trains and merges tiny models that came out of every exporter and converter there is, beside Hugging Face PEFT on the same weights.

    python scripts/checks/check_exports.py [--binary target/release/peft-onnx] [--only WORD] [--write docs/EXPORTS.md]

Each export is made (export_table.py), injected with the adapter that PEFT made of the model, trained for six steps and merged. Losses, the trained adapter and the merged
model's logits are compared with PEFT's. Of a graph with quantised weights, PEFT trains the model that the rounded weights stand for. Where the base computes
otherwise than the model (float16, bfloat16, quantised activations, an approximated gelu), losses are compared loosely, and the merged model must give what the unmerged
one gives.

Needs scripts/reference-requirements.txt, and for the tools of others onnxslim 0.1, onnxsim 0.8, onnxruntime-genai 0.11.2, onnxconverter-common, tf2onnx, tf-keras and
tensorflow-cpu; what is not installed is a row that says so. Results are kept in target/exports/results.json, so that a run with --only replaces its rows alone. Exits with 1 where a row of this run is not as it must be: it differs, fails, or is refused and docs/EXPORTS.md does not say so.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
import families

torch = families.prepare()
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from export_models import SCRATCH  # noqa: E402
from export_table import ROWS  # noqa: E402
from onnx_inputs import feeds, relative_difference  # noqa: E402
from quantized_twin import write_twin  # noqa: E402

onnxruntime.set_default_logger_severity(4)
EXPORTED = 1e-4  # of the largest logit: a file that differs by more from PyTorch is another model
LOSS, WEIGHT, LOGITS = 2e-4, 2e-3, 1e-3  # relative: of the loss, of a tensor's largest weight, of the largest logit
LOOSE = 0.05  # of losses, and of merged logits from unmerged ones, where the base computes otherwise than the model
OPENED = ("Attention", "RotaryEmbedding", "ms:Attention", "ms:EmbedLayerNormalization", "ms:FusedMatMul", "ms:GroupQueryAttention", "ms:MultiHeadAttention",
             "ms:QAttention", "ms:RotaryEmbedding")
RESULTS = SCRATCH / "results.json"
PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/EXPORTS.md"
FLAGS = ("batch_size", "max_steps", "learning_rate", "weight_decay", "lr_scheduler", "warmup_steps", "max_grad_norm", "gradient_accumulation_steps")


class Differs(Exception):
    """What was computed is not what PEFT computed."""


class Refused(Exception):
    """peft-onnx said why it does not."""


def run(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise Refused(f"{arguments[0]}: " + without_paths(" ".join(line.strip() for line in words if "error:" in line or "hint:" in line))[:400])
    return done.stdout


def fused_nodes(file):
    """How often each operator stands in a graph and its branches that is not ONNX's, or that came with opset 20 or later."""
    count = {}

    def visit(graph):
        for node in graph.node:
            if node.domain or node.op_type in ("Gelu", "RMSNormalization", "RotaryEmbedding", "Attention", "Swish", "If"):
                name = node.op_type if not node.domain.startswith("com.microsoft") else f"ms:{node.op_type}"
                count[name] = count.get(name, 0) + 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)
    visit(onnx.load(file, load_external_data=False).graph)
    return count


def logits(file, probe):
    options = onnxruntime.SessionOptions()
    # Weights of 4 bits behind DequantizeLinear are multiplied in float32, not with activations of 8 bits.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs = {key: probe[key] for key in ("input_ids", "attention_mask")}
    wanted = session.get_outputs()[0].name
    return session.run([wanted], feeds(session, inputs))[0].astype(np.float32)


def trained(binary, source, model, work):
    """Injects, trains and merges; the losses, and what merging printed."""
    bundle, merged = work / "bundle", work / "merged.onnx"
    expected = json.loads((source / "expected.json").read_text())["hyperparameters"]
    run(binary, "inject", model, "--adapter", source / "adapter_init", "-o", bundle)
    numbers = [text for flag in FLAGS for text in (f"--{flag.replace('_', '-')}", expected[flag])]
    run(binary, "train", bundle, "--data", source / "train.jsonl", "--no-shuffle", "--quiet", *numbers)
    told = json.loads(run(binary, "merge", bundle, "-o", merged, "--json"))
    lines = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], told


def compare(source, work, losses, told, export):
    """The numbers of a row; Differs where they are too far apart."""
    wanted = json.loads((source / "expected.json").read_text())["losses"]
    if len(losses) != len(wanted):
        raise Differs(f"{len(losses)} steps")
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses, wanted))
    if export.rounds:
        return loosely(losses, wanted, told)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (work / "bundle", source / "adapter_final"))
    if sorted(ours) != sorted(theirs):
        raise Differs(f"tensors {sorted(set(ours) ^ set(theirs))[:4]}")
    weight = max(float(np.abs(ours[key] - theirs[key]).max() / (np.abs(theirs[key]).max() + 1e-5 / WEIGHT)) for key in theirs)
    probe = load_file(source / "logits.safetensors")
    found = logits(work / "merged.onnx", probe)
    far = relative_difference(found, probe["final"], probe)
    numbers = f"{apart:.0e} | {weight:.0e} | {far:.0e}"
    if not (apart <= LOSS and weight <= WEIGHT and far <= LOGITS):
        raise Differs(numbers)
    return numbers


def loosely(losses, wanted, told):
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses, wanted))
    verified = told.get("verified") or {}
    if not (apart <= LOOSE and verified.get("relative", 0.0) <= LOOSE):
        raise Differs(f"losses {apart:.0e}: {losses[0]:.3f} .. {losses[-1]:.3f}, PEFT's {wanted[0]:.3f} .. {wanted[-1]:.3f}; merged against unmerged {verified}")
    return f"{apart:.0e} | - | unmerged: {verified['relative']:.0e}" if verified else f"{apart:.0e} | - | not run"


def kept(model, merged, case):
    """The base's fused operators in the merged graph, in words; Differs where one is gone that the method had no need to write out."""
    before, after = fused_nodes(model), fused_nodes(merged)
    lost = {op for op, count in before.items() if after.get(op, 0) < count}
    # A prefix is put into attention; a prompt in front of the norm of embeddings, and into one branch.
    opened = OPENED if case == "p-tuning v2" or (case == "prompt tuning" and "ms:EmbedLayerNormalization" in before) else ("If",) * (case != "lora")
    apart = after.get("ms:MultiHeadAttention", 0) - before.get("ms:MultiHeadAttention", 0)
    if lost - set(opened) - ({"ms:Attention"} if apart == before.get("ms:Attention") else set()):
        raise Differs("not in the merged graph any more: " + ", ".join(f"{op} {before[op]} to {after.get(op, 0)}" for op in sorted(lost)))
    words = [f"{op} {after.get(op, 0)}" + (f" of {count}" if op in lost else "") for op, count in sorted(before.items())]
    return ", ".join(words + [f"ms:MultiHeadAttention {apart} for ms:Attention"] * (apart > 0))


def exported(export, model):
    """The file of an export, made unless it is there."""
    file = model.folder / "onnx" / export.slug / "model.onnx"
    if not file.exists():
        making = file.parent.parent / f".{export.slug}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        if export.of:
            export.write(model, exported(export.of, model), making / "model.onnx")
        else:
            export.write(model, making / "model.onnx")
        making.rename(file.parent)
    return file


def other_model(file, case, export):
    """Why a file is not worth being trained: it does not run, or computes something else than the model; None if it is."""
    known = load_file(case / "logits.safetensors")
    try:
        apart = relative_difference(logits(file, known), known["base"], known)
    except Exception as why:  # noqa: BLE001: ONNX Runtime's errors have many classes
        return "does not run", first_line(why)
    is_exact = not (export.rounds or export.quantized)
    return ("not the model", f"logits differ by {apart:.0e} from PyTorch's") if is_exact and apart > EXPORTED else None


def check(binary, export, model, case, work):
    """One row: what became of it, the numbers, the fused operators that stayed."""
    try:
        file = exported(export, model)
    except Exception as why:  # noqa: BLE001: exporters fail with anything
        return "not exported", first_line(why), ""
    wrong = export.runs and other_model(file, model.case(case), export)
    if wrong:
        return *wrong, ""
    if export.quantized:
        model = write_twin(model, export.slug, file)
        model.ready()
    source = model.case(case)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        losses, told = trained(binary, source, file, work)
        numbers = compare(source, work, losses, told, export)
        return "ok", numbers, kept(file, work / "merged.onnx", case)
    except Refused as why:
        return "refused", str(why), ""
    except Differs as why:
        return "differs", str(why), ""
    except Exception as why:  # noqa: BLE001: a merged model that ONNX Runtime does not take
        return "fails", first_line(why), ""


def first_line(why):
    """An error in a line."""
    return f"{type(why).__name__}: {without_paths((str(why).strip() or '?').splitlines()[0])[:200]}"


def without_paths(text):
    """Without the folders of this machine, and without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", re.sub(r"[\w.+-]*/[\w./+-]*/", "", text))


def table(results):
    lines = ["| export | model | adapter | result | losses | adapter | merged logits | fused operators that stayed |", "|" + "---|" * 8]
    for row in results:
        numbers = row["numbers"] if row["result"] == "ok" else f"{row['numbers'].replace('|', '/')} | | "
        lines.append(f"| {row['export']} | {row['model']} | {row['case']} | {row['result']} | {numbers} | {row['fused']} |")
    return "\n".join(lines)


def page(results):
    import peft
    import transformers
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, peft, onnx, onnxruntime))
    counts = {}
    for row in results:
        counts[row["result"]] = counts.get(row["result"], 0) + 1
    return f"""# Exports

<!-- Made by scripts/checks/check_exports.py --write docs/EXPORTS.md -->

Tiny random models of two layers as every exporter and converter writes them, trained and merged beside Hugging Face PEFT ({versions}).
{"; ".join(f"{count} {result}" for result, count in sorted(counts.items()))}.

Columns: the largest difference of a loss in six steps (relative), of the trained adapter (of each tensor's largest weight) and of the merged model's logits (of the
largest). "not exported": the tool itself failed; "does not run": ONNX Runtime does not run what it
wrote on three rows. Where the base computes otherwise than the model (float16, bfloat16, quantised activations,
an approximated gelu), losses may differ by {LOOSE}, and merged logits are compared with the unmerged graph's.
`ms:` is the domain `com.microsoft`.

{table(results)}
"""


def documented():
    """The result of each row on the page."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {tuple(cell.strip() for cell in row[:3]): row[3].strip() for row in cells if len(row) > 3}


def key(row):
    return (row["export"], row["model"], row["case"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/peft-onnx")
    parser.add_argument("--only", default="", help="rows whose label matches this regular expression")
    parser.add_argument("--missing", action="store_true", help="rows that have no result yet")
    parser.add_argument("--keep", action="store_true", help="keep the bundles and merged models")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    before = {key(row): row for row in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    results, bad, listed = [], 0, documented()
    for export in ROWS:
        for model in export.models:
            for case in model.cases:
                row = dict(export=export.name, model=model.name, case=case)
                label = " / ".join(key(row))
                if not re.search(options.only, label) or (options.missing and key(row) in before):
                    results += [before[key(row)]] if key(row) in before else []
                    continue
                model.ready()
                work = SCRATCH / "work" / re.sub(r"\W+", "_", label)
                row["result"], row["numbers"], row["fused"] = check(options.binary, export, model, case, work)
                if not options.keep:
                    shutil.rmtree(work, ignore_errors=True)
                is_known = row["result"] == "refused" and listed.get(key(row)) == "refused"
                bad += row["result"] in ("differs", "fails", "refused") and not is_known
                results.append(row)
                print(f"{row['result']:12} {label}: {row['numbers']}  {row['fused']}", flush=True)
                others = [r for k, r in before.items() if k not in {key(r) for r in results}]
                RESULTS.write_text(json.dumps(results + others, indent=1))
    if options.write:
        options.write.write_text(page(results))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
