"""The table of tiny random models behind models/fixtures, shared by make_fixtures.py and reference.py."""
import dataclasses
import os
import pathlib
import sys
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = pathlib.Path("models/fixtures")
VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 64, 32, 48, 2, 4, 64
FILLS = {"input_ids": 0, "attention_mask": 0, "labels": -100, "decoder_input_ids": 0}  # what rows are padded with
SPECIAL = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
DECODER = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               num_key_value_heads=2, max_position_embeddings=POSITIONS, **SPECIAL)
BERT = dict(vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=2, pad_token_id=0)
MODEL_CLASSES = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_CLS": "AutoModelForSequenceClassification", "MASKED_LM": "AutoModelForMaskedLM",
                 "TOKEN_CLS": "AutoModelForTokenClassification", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", "IMAGE_CLS": "AutoModelForImageClassification", "FEATURES": "AutoModel"}


@dataclasses.dataclass(frozen=True)
class Family:
    task: str          # CAUSAL_LM, SEQ_CLS, TOKEN_CLS, MASKED_LM, SEQ_2_SEQ_LM, IMAGE_CLS, or FEATURES for a body without a head
    config: str        # class in transformers
    settings: dict
    exports: tuple     # names in make_fixtures.EXPORTS
    cases: dict        # name -> settings of LoRA, or of another `method`, and what differs from the default training, see reference.py

    @property
    def model_class(self):
        return MODEL_CLASSES[self.task]


BOTH = ("torchscript", "dynamo")
ATTENTION = ["query", "value"]
T5 = dict(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=LAYERS, num_heads=2, dropout_rate=0.0, relative_attention_num_buckets=8,
          relative_attention_max_distance=32, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
BART = dict(vocab_size=VOCABULARY, d_model=16, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=POSITIONS, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
            decoder_start_token_id=2, forced_eos_token_id=None, **SPECIAL)
FAMILIES = {
    "llama": Family("CAUSAL_LM", "LlamaConfig", dict(DECODER, tie_word_embeddings=False), BOTH + ("dynamo_external", "optimum_cache", "optimum_merged"), {
        "lora_qv": dict(target_modules=["q_proj", "v_proj"]),
        "lora_all_linear_rslora": dict(target_modules="all-linear", use_rslora=True),
        "lora_lm_head": dict(target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]),
        "lora_schedule": dict(target_modules=["q_proj", "v_proj"], training=dict(
            lr_scheduler="linear", warmup_steps=2, max_grad_norm=0.5, gradient_accumulation_steps=2)),
        "dora": dict(target_modules=["q_proj", "v_proj"], use_dora=True),
        "ia3": dict(method="IA3Config", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "prompt": dict(method="PromptTuningConfig", num_virtual_tokens=4),
        "lora_pissa": dict(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights="pissa"),
        "lora_olora": dict(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights="olora"),
        "p_tuning_lstm": dict(method="PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=12, encoder_reparameterization_type="LSTM",
                              training=dict(learning_rate=1e-3)),
        "p_tuning": dict(method="PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=12),
        "prefix": dict(method="PrefixTuningConfig", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=12)}),
    "qwen2": Family("CAUSAL_LM", "Qwen2Config", dict(DECODER, tie_word_embeddings=True, use_sliding_window=False), BOTH, {
        "lora_bias": dict(target_modules=["q_proj", "v_proj"], bias="lora_only"),
        "adalora": dict(method="AdaLoraConfig", init_r=4, target_r=2, lora_alpha=6, total_step=100, target_modules=["q_proj", "v_proj", "down_proj"]),
        "adalora_allocated": dict(method="AdaLoraConfig", init_r=4, target_r=1, tfinal=10, total_step=40, target_modules=["q_proj", "v_proj"], allocated=True),
        "adalora_allocating": dict(method="AdaLoraConfig", init_r=4, target_r=2, tinit=1, tfinal=1, total_step=6, beta1=0.6, target_modules=["q_proj", "v_proj", "down_proj"],
                                   training=dict(allocate_ranks=True, max_grad_norm=0.5)),
        "adalora_sparse": dict(method="AdaLoraConfig", init_r=5, target_r=1, deltaT=3, total_step=6, bias="lora_only", target_modules=["k_proj", "v_proj", "up_proj"],
                               training=dict(allocate_ranks=True, gradient_accumulation_steps=2)),
        "adalora_tokens": dict(method="AdaLoraConfig", init_r=4, target_r=2, total_step=6, target_modules=["q_proj", "v_proj"], trainable_token_indices=[5, 7, 9, 20],
                               training=dict(allocate_ranks=True)),
        "oft": dict(method="OFTConfig", oft_block_size=8, target_modules=["q_proj", "v_proj", "down_proj"]),
        "oft_exact": dict(method="OFTConfig", oft_block_size=8, use_cayley_neumann=False, module_dropout=0.3, target_modules=["q_proj", "v_proj", "down_proj"]),
        # Of fresh values half of the blocks are outside of the ball.
        "oft_constrained": dict(method="OFTConfig", oft_block_size=8, coft=True, eps=0.8, target_modules=["q_proj", "v_proj", "down_proj"]),
        "miss": dict(method="MissConfig", r=5, target_modules=["q_proj", "v_proj", "down_proj"]),
        "fourierft": dict(method="FourierFTConfig", n_frequency=40, n_frequency_pattern={"v_proj": 20}, target_modules=["q_proj", "v_proj", "down_proj"]),
        "hira": dict(method="HiraConfig", r=4, target_modules=["q_proj", "v_proj", "down_proj"]),
        "road": dict(method="RoadConfig", group_size=8, target_modules=["q_proj", "v_proj", "down_proj"])}),
    "gpt2": Family("CAUSAL_LM", "GPT2Config", dict(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, n_inner=INNER,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL), BOTH, {
        "lora_c_attn": dict(target_modules=["c_attn"], fan_in_fan_out=True),
        "adalora": dict(method="AdaLoraConfig", init_r=3, target_r=2, total_step=100, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
        "fourierft": dict(method="FourierFTConfig", n_frequency=30, scaling=50.0, target_modules=["c_attn"], fan_in_fan_out=True),
        "hira": dict(method="HiraConfig", r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)}),
    "bert_classifier": Family("SEQ_CLS", "BertConfig", dict(BERT, num_labels=3), BOTH + ("torchscript_opset12",), {
        "lora_classifier": dict(target_modules=ATTENTION, modules_to_save=["classifier"]),
        "p_tuning_v2": dict(method="PrefixTuningConfig", num_virtual_tokens=3),
        "oft_shared": dict(method="OFTConfig", r=8, oft_block_size=0, block_share=True, num_cayley_neumann_terms=3, target_modules=ATTENTION,
                           modules_to_save=["classifier"]),
        "oft_constrained_shared": dict(method="OFTConfig", r=8, oft_block_size=0, block_share=True, coft=True, eps=0.17, use_cayley_neumann=False,
                                       target_modules=ATTENTION, modules_to_save=["classifier"]),
        "miss_bat": dict(method="MissConfig", r=4, init_weights="bat", target_modules=ATTENTION, modules_to_save=["classifier"], bias="MiSS_only"),
        "road_2": dict(method="RoadConfig", variant="road_2", group_size=16, target_modules=ATTENTION, modules_to_save=["classifier"]),
        "road_4": dict(method="RoadConfig", variant="road_4", group_size=8, target_modules=ATTENTION, modules_to_save=["classifier"]),
        "miss_mini": dict(method="MissConfig", r=4, mini_r=4, init_weights="mini", target_modules=ATTENTION, modules_to_save=["classifier"])}),
    "bert_masked": Family("MASKED_LM", "BertConfig", BERT, BOTH, {"lora_qv": dict(target_modules=ATTENTION)}),
    "bert_encoder": Family("FEATURES", "BertConfig", BERT, BOTH, {  # the adapter of a classifier for its body; other cases are of scripts/fixtures/reference_heads.py
        "lora_tokens": dict(task="TOKEN_CLS", target_modules=ATTENTION)}),
    "bert_tokens": Family("TOKEN_CLS", "BertConfig", dict(BERT, num_labels=5), BOTH, {
        "lora": dict(target_modules=ATTENTION), "p_tuning_v2": dict(method="PrefixTuningConfig", num_virtual_tokens=3)}),
    "llama_classifier": Family("SEQ_CLS", "LlamaConfig", dict(DECODER, num_labels=3), BOTH, {
        "prefix": dict(method="PrefixTuningConfig", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=12)}),
    "t5": Family("SEQ_2_SEQ_LM", "T5Config", T5, BOTH, {
        "lora": dict(target_modules=["q", "v"]), "prompt": dict(method="PromptTuningConfig", num_virtual_tokens=4)}),
    "bart": Family("SEQ_2_SEQ_LM", "BartConfig", BART, BOTH + ("fused",), {
        "lora": dict(target_modules=["q_proj", "v_proj"]), "p_tuning_v2": dict(method="PrefixTuningConfig", num_virtual_tokens=3)}),
    "distilbert_classifier": Family("SEQ_CLS", "DistilBertConfig", dict(
        vocab_size=VOCABULARY, dim=HIDDEN, hidden_dim=INNER, n_layers=LAYERS, n_heads=HEADS, max_position_embeddings=POSITIONS,
        dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, pad_token_id=0, num_labels=3), BOTH, {
        "lora_classifier": dict(target_modules=["q_lin", "v_lin"], modules_to_save=["pre_classifier", "classifier"])}),
    "albert_classifier": Family("SEQ_CLS", "AlbertConfig", dict(BERT, embedding_size=16, classifier_dropout_prob=0.0, num_labels=3), ("torchscript", "fused"), {
        "lora_classifier": dict(target_modules=[*ATTENTION, "ffn", "embedding_hidden_mapping_in"], modules_to_save=["classifier"])}),
    "vit_classifier": Family("IMAGE_CLS", "ViTConfig", dict(
        hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS, image_size=12, patch_size=4, num_channels=3, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), ("optimum", "dynamo"), {
        "lora_classifier": dict(target_modules=ATTENTION, modules_to_save=["classifier"]),
        "dora": dict(target_modules=ATTENTION, use_dora=True)}),
}


def prepare():
    """Fixes what would make two runs differ: hash order, threads, the working folder that saved paths are relative to."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], dict(os.environ, PYTHONHASHSEED="0", HF_HUB_OFFLINE="1", USE_TF="0"))
    os.chdir(ROOT)
    import warnings

    import torch
    import transformers
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    return torch


def seed(*names):
    return zlib.crc32("/".join(names).encode()) % 100_000


def random_model(name):
    import transformers
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(**family.settings)
    return filled(getattr(transformers, family.model_class).from_config(config).eval(), seed(name))


def filled(model, number):
    """The model with seeded weights, wide enough apart that logits, losses and gradients are far from trivial."""
    import torch
    generator = torch.Generator().manual_seed(number)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for module in model.modules():
            for kind, p in module.named_parameters(recurse=False):
                noise = torch.randn(p.shape, generator=generator)
                if id(p) in embeddings:
                    p.copy_((1.0 if model.config.model_type == "t5" else 0.3) * noise)  # T5 scales what its tied head reads
                elif p.ndim >= 2:
                    inputs = p.shape[0] if type(module).__name__ == "Conv1D" else p[0].numel()
                    p.copy_(0.9 / inputs ** 0.5 * noise)
                else:
                    p.copy_(0.1 * noise + (1.0 if kind == "weight" else 0.0))
    return model


def load(name, attention="eager", task=None):
    """The family's model; for another task, its body with a random head for that."""
    import torch
    import transformers
    folder = FIXTURES / name / "hf"
    if task:
        torch.manual_seed(seed(name, task))
        return getattr(transformers, MODEL_CLASSES[task]).from_pretrained(str(folder), attn_implementation=attention, dtype="float32", num_labels=5, use_cache=False).eval()
    kind = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    model = kind.from_pretrained(str(folder), attn_implementation=attention if kind._supports_sdpa else "eager", dtype="float32")
    model.config.use_cache = False
    return model.eval()


def padded(rows, fills):
    """Rows filled on the right to the longest of them; images stay."""
    lengths = {key: max(len(row[key]) for row in rows) for key in rows[0] if key in fills}
    return [{k: v + [fills[k]] * (lengths[k] - len(v)) if k in fills else v for k, v in row.items()} for row in rows]


def image_form(config):
    """Channels and side of the images that a model takes; a model of images and text has them in a part of its configuration."""
    config = getattr(config, "vision_config", config)
    return config.num_channels, config.image_size
