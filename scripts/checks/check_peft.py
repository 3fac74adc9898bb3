"""Checks with Hugging Face PEFT itself that it reads what peft-onnx wrote and computes the same.

    python scripts/checks/check_peft.py --hf DIR --bundle DIR --merged FILE.onnx

`--hf` is the base as Hugging Face saved it, `--bundle` holds adapter_config.json and adapter_model.safetensors, `--merged` is the model that `peft-onnx merge` wrote.
Every tensor of the file must find its place in PEFT's model, and every tensor PEFT wants must be in the file. Exits with 1 where that fails or where the logits
differ by more than 1e-3 of the largest logit. Needs peft 0.21, torch, transformers 4.57, onnxruntime.
"""
import argparse
import json
import pathlib
import sys

import onnxruntime
import peft
import torch
import transformers
from safetensors.torch import load_file

sys.path += map(str, pathlib.Path(__file__).resolve().parents[1].glob("*/"))  # the modules that scripts share
from onnx_inputs import feeds, probe, relative_difference

LARGEST_DIFFERENCE = 1e-3
onnxruntime.set_default_logger_severity(3)
LENGTHS = [(12, 12), (17, 5, 11), (1, 3)]


CLASSIFIERS = {"SEQ_CLS": "AutoModelForSequenceClassification", "TOKEN_CLS": "AutoModelForTokenClassification"}


def base_model(folder, bundle):
    """The model that Hugging Face saved; where the bundle's adapter has a new head, its body in the class for the task."""
    transformers.logging.set_verbosity_error()
    told = json.loads((pathlib.Path(bundle) / "adapter_config.json").read_text())
    head = told.get("new_head")
    name = CLASSIFIERS[told["task_type"]] if head else transformers.AutoConfig.from_pretrained(folder).architectures[0]
    labels = dict(num_labels=head["num_labels"]) if head else {}
    torch.manual_seed(0)
    model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", dtype="float32", **labels).eval()
    model.config.use_cache = False
    return model


def adapted(base, bundle):
    """The base with the bundle's adapter, and what did not fit, in words."""
    model = peft.get_peft_model(base, peft.PeftConfig.from_pretrained(bundle)).eval()
    tensors = load_file(pathlib.Path(bundle) / "adapter_model.safetensors")
    own = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    # A tied head has the rows of its table under a name of its own.
    given = {own[key].data_ptr() for key in tensors if key in own}
    wanted = {key: value.shape for key, value in own.items() if key in tensors or value.data_ptr() not in given}
    # With bias="all", PEFT keeps a saved module's bias under three names.
    wanted = {key: shape for key, shape in wanted.items() if ".original_module." not in key and ".modules_to_save." not in key}
    faults = [f"missing: {key}" for key in sorted(set(wanted) - set(tensors))]
    faults += [f"unexpected: {key}" for key in sorted(set(tensors) - set(wanted))]
    faults += [f"shape of {key}: expected {list(wanted[key])}, found {list(tensors[key].shape)}"
               for key in sorted(set(tensors) & set(wanted)) if wanted[key] != tensors[key].shape]
    if not faults:
        result = peft.set_peft_model_state_dict(model, tensors)
        # PEFT puts a prompt into its place by another way, and then finds its key unexpected.
        faults += [f"not loaded: {key}" for key in result.unexpected_keys if key != "prompt_embeddings"]
    return model, len(tensors), faults


def logits(model, inputs):
    """The logits of a text's own tokens: PEFT gives those of virtual tokens in front as well."""
    found = model(**{k: torch.tensor(v) for k, v in inputs.items()}).logits
    own = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    return (found[:, -own:] if found.dim() == 3 else found).numpy()


def probe_of(base, bundle, lengths):
    """Inputs; a new head on a decoder finds the last token by the mask, Hugging Face's by the tokens that are no padding."""
    has_new_head = "new_head" in json.loads((pathlib.Path(bundle) / "adapter_config.json").read_text())
    return probe(base.config.vocab_size, lengths, decoder=base.config.is_encoder_decoder, padding=base.config.pad_token_id if has_new_head else None)


@torch.no_grad()
def compare(hf, bundle, merged):
    """What does not fit, the largest difference between merged model and PEFT, how far the adapter moves the logits, and the number of tensors."""
    base = base_model(hf, bundle)
    inputs = [probe_of(base, bundle, lengths) for lengths in LENGTHS]
    untouched = [logits(base, x) for x in inputs]
    model, count, faults = adapted(base, bundle)
    if faults:
        return faults, float("nan"), 0.0, count
    wanted = [logits(model, x) for x in inputs]
    session = onnxruntime.InferenceSession(merged, providers=["CPUExecutionProvider"])
    found = [session.run(["logits"], feeds(session, x))[0] for x in inputs]
    difference = max(relative_difference(f, w, x) for f, w, x in zip(found, wanted, inputs))
    moved = max(relative_difference(u, w, x) for u, w, x in zip(untouched, wanted, inputs))
    return [], difference, moved, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("hf", "bundle", "merged"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    faults, difference, moved, count = compare(args.hf, args.bundle, args.merged)
    if faults:
        sys.exit("\n".join(faults))
    print(f"{count} tensors, all matched; the adapter moves the logits by {moved:.2e}; merged model against PEFT: {difference:.2e} (relative)")
    sys.exit(difference > LARGEST_DIFFERENCE or not difference == difference)


if __name__ == "__main__":
    main()
