"""Writes tests/fixtures/combine.safetensors: what PEFT's add_weighted_adapter makes of adapters in models/fixtures/llama/cases.

    python scripts/make_combine_fixture.py        peft 0.21, torch 2.15, transformers 4.57

Each case has the tensors of the combination under `CASE/KEY`; where singular vectors decide, whose signs are free, only the updates `B.A` under `CASE/MODULE`.
What is left out by chance cannot be compared with another program's chance, so `dare` runs with a density of 1 here.
"""
import json

import families

torch = families.prepare()
import peft  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

# name: adapters, weights, settings; tests/it/combine.rs has the same table.
CASES = {
    "linear": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="linear")),
    "linear_negative": (("lora_qv", "lora_schedule"), (1.0, -0.4), dict(combination_type="linear")),
    "cat": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="cat")),
    "cat_other_targets": (("lora_qv", "lora_all_linear_rslora"), (0.5, 0.25), dict(combination_type="cat")),
    "svd": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="svd", svd_rank=3)),
    "svd_other_targets": (("lora_qv", "lora_all_linear_rslora"), (0.5, 0.25), dict(combination_type="svd")),
    "ties": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="ties", density=0.3)),
    "ties_frequency": (("lora_qv", "lora_schedule", "lora_all_linear_rslora"), (0.7, 0.5, -0.3),
                       dict(combination_type="ties", density=0.6, majority_sign_method="frequency")),
    "ties_svd": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="ties_svd", density=0.4, svd_rank=5)),
    "dare_linear": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="dare_linear", density=1.0)),
    "dare_ties": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="dare_ties", density=1.0)),
    "dare_linear_svd": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="dare_linear_svd", density=1.0)),
    "magnitude_prune": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="magnitude_prune", density=0.45)),
    "magnitude_prune_svd": (("lora_qv", "lora_schedule"), (0.7, 0.5), dict(combination_type="magnitude_prune_svd", density=0.45)),
}


def combined(adapters, weights, settings):
    """The tensors of the combination, under the keys of an adapter's file."""
    base = families.load("llama")
    model = None
    for name in adapters:
        folder = f"models/fixtures/llama/cases/{name}/adapter_final"
        if model is None:
            model = peft.PeftModel.from_pretrained(base, folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
    model.add_weighted_adapter(list(adapters), list(weights), "both", **settings)
    return peft.get_peft_model_state_dict(model, adapter_name="both")


def updates(tensors):
    modules = sorted(key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight"))
    return {module: tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"] for module in modules}


found = {}
for case, (adapters, weights, settings) in CASES.items():
    tensors = combined(adapters, weights, settings)
    tensors = updates(tensors) if settings["combination_type"].endswith("svd") else tensors
    found |= {f"{case}/{key}": value.contiguous() for key, value in tensors.items()}
save_file(dict(sorted(found.items())), "tests/fixtures/combine.safetensors", metadata={"peft": json.dumps(peft.__version__)})
print(f"{len(found)} tensors")
