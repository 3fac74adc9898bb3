"""tf2onnx on transformers' TensorFlow classes, in a process of its own: TensorFlow and PyTorch do not live together in one.

    python scripts/lib/tensorflow_export.py CLASS HF_FOLDER FILE OPSET
"""
import os
import subprocess
import sys

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write(model, file, opset=17):
    """What `export` writes of a model of export_models.py."""
    kind = model.config.replace("Config", "ForSequenceClassification")
    arguments = [sys.executable, __file__, f"TF{kind}", model.hf, file, opset]
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])


def export(kind, hf, file, opset):
    os.environ |= dict(USE_TF="1", USE_TORCH="0", TF_USE_LEGACY_KERAS="1", TF_CPP_MIN_LOG_LEVEL="3")
    import tensorflow
    import tf2onnx
    import transformers
    from safetensors.numpy import load_file
    from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model
    model = getattr(transformers, kind)(transformers.AutoConfig.from_pretrained(hf))
    model = load_pytorch_state_dict_in_tf2_model(model, load_file(f"{hf}/model.safetensors"))
    signature = [{name: tensorflow.TensorSpec([None, None], tensorflow.int64, name=name) for name in INPUTS}]

    @tensorflow.function(input_signature=signature)
    def call(inputs):
        return {"logits": model(inputs).logits}

    tf2onnx.convert.from_function(call, input_signature=signature, opset=opset, output_path=file)


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
