"""Asks `peft-onnx serve` with the `openai` package: conversations, streams, texts, vectors, errors, an adapter that comes while the server runs, and many
requests for different adapters at once.

    python scripts/checks/check_serve.py [PROGRAM]

Needs the package `openai`. PROGRAM is by default target/debug/peft-onnx.
"""

import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import openai

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/peft-onnx").resolve()
FIXTURES = ROOT / "models/fixtures"
KEY = "a key"


def run(*args):
    return subprocess.run([PROGRAM, *map(str, args)], check=True, capture_output=True, text=True).stdout


class Server:
    """A running server, with a client of it."""

    def __init__(self, *args):
        command = [PROGRAM, "serve", *map(str, args), "--port", "0", "--api-key", KEY, "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        self.address = json.loads("".join(lines))["address"]
        self.client = openai.OpenAI(base_url=self.address + "/v1", api_key=KEY, max_retries=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(60) == 0, "the server ends in good order"


def texts(work):
    """A language model with a tokenizer of this project, and an adapter for it."""
    model = work / "lm"
    shutil.copytree(ROOT / "models/tiny-lm", model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for message in messages %}{{ message.content }} {% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    run("inject", model / "model.onnx", "--method", "lora", "--init-lora-weights", "random", "--alpha", "64", "-o", work / "lora", "-q")
    adapters = work / "adapters"
    adapters.mkdir()
    with Server(model / "model.onnx", "--name", "base", "--adapters", adapters) as server:
        client = server.client
        assert [model.id for model in client.models.list()] == ["base"]
        asked = {"model": "base", "messages": [{"role": "user", "content": "It is a truth"}], "temperature": 0, "max_tokens": 24}
        whole = client.chat.completions.create(**asked)
        text = whole.choices[0].message.content
        assert whole.usage.completion_tokens <= 24 and whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text, text
        assert chunks[-1].usage == whole.usage
        print("conversation:", json.dumps(text))
        expected = json.loads(run("generate", model / "model.onnx", "--prompt", "It is a truth", "--max-new-tokens", "16", "--json"))
        continued = client.completions.create(model="base", prompt="It is a truth", temperature=0)
        assert continued.choices[0].text == expected[0]["completion"], (continued, expected)
        stop = client.completions.create(model="base", prompt="It is a truth", temperature=0, stop=expected[0]["completion"][4:8])
        assert stop.choices[0].finish_reason == "stop" and stop.choices[0].text == expected[0]["completion"][:4], stop
        one, other = (client.completions.create(model="base", prompt="She", seed=3, max_tokens=12).choices[0].text for _ in range(2))
        assert one == other
        for error, more in [
            (openai.BadRequestError, {"n": 2}),
            (openai.BadRequestError, {"logprobs": True}),
            (openai.NotFoundError, {"model": "later"}),
        ]:
            try:
                client.chat.completions.create(**(asked | more))
            except error as refused:
                assert refused.param == next(iter(more)), refused
            else:
                raise AssertionError(f"{more} was not refused")
        try:
            openai.OpenAI(base_url=server.address + "/v1", api_key="another", max_retries=0).models.list()
        except openai.AuthenticationError:
            pass
        else:
            raise AssertionError("another key opened the door")
        shutil.copytree(work / "lora", adapters / "later", ignore=shutil.ignore_patterns("*.onnx*", "runs", "initial"))
        adapted = client.completions.create(model="later", prompt="It is a truth", temperature=0)
        expected = json.loads(run("generate", work / "lora", "--prompt", "It is a truth", "--max-new-tokens", "16", "--json"))
        assert adapted.choices[0].text == expected[0]["completion"], (adapted, expected)
        assert [model.id for model in client.models.list()] == ["base", "later"]
        print("adapter:", json.dumps(adapted.choices[0].text))
        at_once(client, work, adapters, model)


def at_once(client, work, adapters, model):
    """Requests for the base and three adapters at the same time: each answer is the one that `generate` gives."""
    folders = {"base": model / "model.onnx", "later": work / "lora"}
    for name, options in {"narrow": ["--rank", 2, "--use-dora"], "wide": ["--rank", 16, "--use-rslora"]}.items():
        folders[name] = work / name
        run("inject", model / "model.onnx", "--method", "lora", "--init-lora-weights", "random", "--alpha", "32", *options, "-o", folders[name], "-q")
        shutil.copytree(folders[name], adapters / name, ignore=shutil.ignore_patterns("*.onnx*", "runs", "initial"))
    prompts = ["It is a truth", "She", "My dear Mr. Bennet, said his lady to him one day,", "He was"]
    asked = [(name, prompt) for name in folders for prompt in prompts]

    def text(name, prompt):
        return client.completions.create(model=name, prompt=prompt, temperature=0, max_tokens=20).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(len(asked)) as threads:
        found = list(threads.map(lambda one: text(*one), asked))
    for (name, prompt), found in zip(asked, found):
        alone = json.loads(run("generate", folders[name], "--tokenizer", model / "tokenizer.json", "--prompt", prompt, "--max-new-tokens", "20", "--json"))
        assert found == alone[0]["completion"], (name, prompt, found, alone)
    print(len(asked), "texts at once with", len(folders), "adapters are what each is alone")


def vectors(work):
    """An encoder for embeddings."""
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(40))])}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    encoder = work / "encoder"
    encoder.mkdir()
    shutil.copy(FIXTURES / "bert_encoder/dynamo.onnx", encoder / "model.onnx")
    (encoder / "tokenizer.json").write_text(json.dumps(tokenizer))
    run("inject", encoder / "model.onnx", "--method", "lora", "--task", "embedding", "-o", work / "vectors", "-q")
    with Server(work / "vectors", "--name", "vectors") as server:
        found = server.client.embeddings.create(model="vectors", input=["w1 w2", "w3"])
        plain = server.client.embeddings.create(model="vectors", input="w3", encoding_format="float")
        assert len(found.data) == 2 and found.usage.prompt_tokens == 3, found.usage
        assert all(abs(one - other) < 1e-5 for one, other in zip(found.data[1].embedding, plain.data[0].embedding))
        print("vectors of", len(found.data[0].embedding))


with tempfile.TemporaryDirectory() as folder:
    texts(pathlib.Path(folder))
    vectors(pathlib.Path(folder))
print("The openai package is answered.")
