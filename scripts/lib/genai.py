"""onnxruntime-genai's model builder, run as its users run it: a program of its own, with the folder that Hugging Face saved."""
import pathlib
import shutil
import subprocess
import sys
import tempfile


def build(model, file, precision="fp32", **options):
    """`options` are the builder's own extra options."""
    with tempfile.TemporaryDirectory() as work:
        source, built = pathlib.Path(work) / "hf", pathlib.Path(work) / "built"
        shutil.copytree(model.hf, source)
        write_tokenizer(source, model.settings["vocab_size"])
        extra = ["--extra_options", *(f"{key}={value}" for key, value in options.items())] if options else []
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", built, "-p", precision, "-e", "cpu", "-c", f"{work}/cache"]
        done = subprocess.run([*map(str, command), *extra], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])
        for written in built.glob("model.onnx*"):
            shutil.move(written, file.parent)


def write_tokenizer(to, vocabulary):
    """A word for each number: the builder wants a tokenizer, the model has none."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", bos_token="w1", eos_token="w2", unk_token="w3").save_pretrained(to)
