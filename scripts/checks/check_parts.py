#!/usr/bin/env python3
"""Trains encoder-decoders in several files, merges the adapter into each, and opens the folder with optimum: texts must be those of peft-onnx and of PyTorch.

    python scripts/checks/check_parts.py PEFT_ONNX [FAMILY..]

FAMILY is a folder of tests/fixtures/split, which scripts/fixtures/make_split_fixtures.py makes. Needs optimum-onnx, onnxruntime and torch. Each folder is opened as optimum finds it: the merged
decoder, the decoder with a cache in a file of its own, and the decoder that reads everything again.
"""
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import wave

SPLITS = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/split"
FILES = ["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"]
# What optimum is to open, and the files that it finds.
WAYS = {"merged decoder": dict(use_merged=True), "decoder with past": dict(use_merged=False), "decoder without a cache": dict(use_merged=False, use_cache=False)}


def peft_onnx(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"peft-onnx {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def merged(source, work, is_heard):
    """The folder with every file merged, and what peft-onnx writes with it for each row."""
    expected = json.loads((source / "expected.json").read_text())
    asked = expected["hyperparameters"]
    peft_onnx("inject", source / FILES[1], "--part", source / FILES[0], "--adapter", source / "adapter_init", "--task", "speech-seq2seq" if is_heard else "seq2seq-lm", "-o", work / "bundle")
    peft_onnx("train", work / "bundle", "--data", source / "train.jsonl", "--no-shuffle", "--lr-scheduler", "constant", "--max-grad-norm", 0,
              *[part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", value)])
    folder = work / "merged"
    peft_onnx("merge", work / "bundle", "-o", folder, "--into", *[source / file for file in FILES])
    rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()]
    given = [part for row in rows for part in (["--audio", source / row["audio"]] if is_heard else ["--prompt", row["prompt"]])]
    answers = json.loads(peft_onnx("generate", folder, *given, "--max-new-tokens", expected["max_new_tokens"], "--json"))
    return folder, rows, [answer["tokens"] for answer in answers], expected


def samples(path):
    import numpy as np
    with contextlib.closing(wave.open(str(path))) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def written(model, inputs, expected):
    """What optimum writes, without what a text begins and ends with."""
    tokens = model.generate(**inputs, max_new_tokens=expected["max_new_tokens"], do_sample=False, num_beams=1)[0].tolist()
    own = tokens[1:] if tokens and tokens[0] == model.config.decoder_start_token_id else tokens
    return own[:own.index(model.config.eos_token_id) if model.config.eos_token_id in own else len(own)]


def main():
    global BINARY
    BINARY = str(pathlib.Path(sys.argv[1]).resolve())
    from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq
    from transformers import AutoFeatureExtractor, AutoTokenizer
    failed = 0
    for name in sys.argv[2:] or sorted(folder.name for folder in SPLITS.iterdir()):
        source, is_heard = SPLITS / name, (SPLITS / name / "preprocessor_config.json").exists()
        with tempfile.TemporaryDirectory() as work:
            folder, rows, ours, expected = merged(source, pathlib.Path(work), is_heard)
            wrong = [] if ours == expected["written"] else [f"peft-onnx writes {ours}, PyTorch {expected['written']}"]
            for way, options in WAYS.items():
                kind = ORTModelForSpeechSeq2Seq if is_heard else ORTModelForSeq2SeqLM
                model = kind.from_pretrained(folder, provider="CPUExecutionProvider", **options)
                words = AutoTokenizer.from_pretrained(folder)
                hearing = AutoFeatureExtractor.from_pretrained(folder) if is_heard else None
                inputs = lambda row: hearing(samples(source / row["audio"]), sampling_rate=16000, return_tensors="pt") if is_heard else words(row["prompt"], return_tensors="pt")
                theirs = [written(model, {key: value for key, value in inputs(row).items() if key != "token_type_ids"}, expected) for row in rows]
                wrong += [] if theirs == ours else [f"{way}: optimum writes {theirs}, peft-onnx {ours}"]
        print(f"{name}: {'; '.join(wrong) if wrong else f'texts of peft-onnx, PyTorch and optimum ({len(WAYS)} ways) are the same'}", flush=True)
        failed += bool(wrong)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
