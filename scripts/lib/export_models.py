"""The tiny random models that check_exports.py exports: heads of 16, so that ONNX Runtime's fused operators take them. Made anew for each check, and not kept."""
import dataclasses
import functools
import pathlib

import families
from families import BERT, DECODER, FAMILIES

SCRATCH = pathlib.Path("target/exports")
WIDE = dict(hidden_size=64, intermediate_size=96)
PROMPT = dict(method="PromptTuningConfig", num_virtual_tokens=4)
LINEAR = {"lora": dict(target_modules="all-linear"), "prompt tuning": PROMPT}
CONV1D = {"lora": dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)}


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    config: str           # class in transformers
    settings: dict
    cases: dict           # as in families.py
    task: str = "CAUSAL_LM"

    @property
    def folder(self):
        return SCRATCH / self.name

    @property
    def hf(self):
        return self.folder / "hf"

    def load(self, attention="eager"):
        model = self.model_class.from_pretrained(str(self.hf), attn_implementation=attention, dtype="float32")
        model.config.use_cache = False
        return model.eval()

    @property
    def model_class(self):
        import transformers
        return transformers.AutoModelForCausalLM if self.task == "CAUSAL_LM" else transformers.AutoModelForSequenceClassification

    def ready(self):
        """Makes the weights, and what PEFT does with them, unless they are there."""
        import reference
        import transformers
        if not (self.hf / "config.json").exists():
            config = getattr(transformers, self.config)(**self.settings)
            families.filled(self.model_class.from_config(config).eval(), families.seed(self.name)).save_pretrained(self.hf)
        for case, settings in self.cases.items():
            if not (self.case(case) / "expected.json").exists():
                reference.write_case(self.case(case), self.load, self.task, settings, families.seed(self.name, case))

    def case(self, name):
        return self.folder / "cases" / name.replace(" ", "_")

    def twin(self, name):
        """The same model with other weights, which somebody else writes."""
        return dataclasses.replace(self, name=f"{self.name}.{name}")

    @functools.cached_property
    def heads(self):
        return self.settings.get("num_attention_heads", self.settings.get("n_head"))

    @functools.cached_property
    def hidden(self):
        return self.settings.get("hidden_size", self.settings.get("n_embd"))


LLAMA_LIKE = dict(DECODER, **WIDE, tie_word_embeddings=False)
GPT2_LIKE = dict(FAMILIES["gpt2"].settings, n_embd=64, n_inner=96)
LLAMA = Model("llama", "LlamaConfig", LLAMA_LIKE, LINEAR)
GPT2 = Model("gpt2", "GPT2Config", GPT2_LIKE, CONV1D | {"prompt tuning": PROMPT})
QUICK_GELU = Model("gpt2, quick_gelu", "GPT2Config", dict(GPT2_LIKE, activation_function="quick_gelu"), CONV1D)
# onnxruntime-genai's builder takes a projection that is as wide as the vocabulary for the head.
GENAI_LIKE = dict(LLAMA_LIKE, vocab_size=80)
GENAI = Model("llama, 80 tokens", "LlamaConfig", GENAI_LIKE, LINEAR)
WINDOW = Model("mistral, window of 5", "MistralConfig", dict(GENAI_LIKE, sliding_window=5), LINEAR)
PHI3 = Model("phi3", "Phi3Config", GENAI_LIKE, LINEAR)
GEMMA2 = Model("gemma2", "Gemma2Config", dict(GENAI_LIKE, head_dim=16, sliding_window=5, query_pre_attn_scalar=16, tie_word_embeddings=True), LINEAR)
ON_ENCODERS = {
    "lora": dict(target_modules=["query", "key", "value", "dense"], modules_to_save=["classifier"]),
    "p-tuning v2": dict(method="PrefixTuningConfig", num_virtual_tokens=3),
    "prompt tuning": PROMPT}
ENCODER_LIKE = dict(BERT, **WIDE, num_labels=3)
ENCODER = Model("bert", "BertConfig", ENCODER_LIKE, ON_ENCODERS, "SEQ_CLS")
# tf2onnx has no operator for TensorFlow's exact gelu.
TANH_ENCODER = Model("bert, gelu_new", "BertConfig", dict(ENCODER_LIKE, hidden_act="gelu_new"), ON_ENCODERS, "SEQ_CLS")
