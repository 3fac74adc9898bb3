"""The table of architectures that check_architectures.py exports and trains: tiny random models, each built by transformers from its configuration.

A row is a configuration class, what differs from the tiny defaults of its kind, and where adapters go. Two layers at least, so that what alternates shows; widths that
divide, so that heads, groups and partial rotary positions are all there.
"""
import dataclasses
import functools

from families import BART, BERT, DECODER, HEADS, HIDDEN, INNER, LAYERS, MODEL_CLASSES, POSITIONS, SPECIAL, T5, VOCABULARY, filled, seed

GPT = dict(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL)
PLAIN = {k: v for k, v in DECODER.items() if k != "num_key_value_heads"}
QV, PACKED = ("q_proj", "v_proj"), ("query_key_value",)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
WINDOW = 5
EAGER, DENSE = dict(attention="eager"), dict(dense=True)
WIDTHS = dict(widths=dict(token_dim=HIDDEN, num_layers=LAYERS, num_attention_heads=HEADS))


@dataclasses.dataclass(frozen=True)
class Architecture:
    task: str                 # as in families.py
    config: str               # class in transformers
    settings: dict
    targets: tuple            # modules of queries and values
    attention: str = "sdpa"   # what exporters trace, where they choose; "eager" where transformers' sdpa computes something else
    auto: str = ""            # class in transformers, where the task does not tell
    widths: dict = dataclasses.field(default_factory=dict)  # what PEFT's prompt methods do not find in the configuration
    prefix: dict = dataclasses.field(default_factory=dict)  # the same for its prefixes alone
    dense: bool = False       # exported with every expert on every token: exporters cannot follow a loop over the experts that are hit

    @property
    def model_class(self):
        return self.auto or MODEL_CLASSES[self.task]


def decoder(config, targets=QV, base=DECODER, about=None, **settings):
    return Architecture("CAUSAL_LM", config, dict(base, **settings), targets, **about or {})


DECODERS = {
    "llama": decoder("LlamaConfig", tie_word_embeddings=False),
    "mistral": decoder("MistralConfig", sliding_window=WINDOW),
    "ministral": decoder("MinistralConfig", sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], head_dim=8),
    "qwen2": decoder("Qwen2Config", use_sliding_window=False, tie_word_embeddings=True),
    "qwen2_window": decoder("Qwen2Config", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": decoder("Qwen3Config", head_dim=8),
    "mixtral": decoder("MixtralConfig", about=DENSE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen2_moe": decoder("Qwen2MoeConfig", about=DENSE, shared_expert_intermediate_size=24, **EXPERTS),
    "qwen3_moe": decoder("Qwen3MoeConfig", about=DENSE, head_dim=8, **EXPERTS),
    "olmoe": decoder("OlmoeConfig", num_experts=4, num_experts_per_tok=2),
    "phimoe": decoder("PhimoeConfig", num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "granitemoe": decoder("GraniteMoeConfig", num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": decoder("GptOssConfig", head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW, rope_scaling=None, about=EAGER),
    "deepseek_v3": decoder("DeepseekV3Config", ("q_b_proj", "kv_b_proj"), num_key_value_heads=4, moe_intermediate_size=24, n_routed_experts=4, num_experts_per_tok=2,
                           n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=12, kv_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=8,
                           v_head_dim=8, n_shared_experts=1),
    "gemma": decoder("GemmaConfig", head_dim=8),
    "gemma2": decoder("Gemma2Config", head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                      about=EAGER),
    "gemma3": decoder("Gemma3TextConfig", head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]),
    "phi": decoder("PhiConfig", partial_rotary_factor=0.5),
    "phi3": decoder("Phi3Config", ("qkv_proj",)),
    "falcon": decoder("FalconConfig", PACKED, PLAIN, dict(prefix=dict(token_dim=HIDDEN // HEADS, num_attention_heads=1)), multi_query=True, parallel_attn=True, alibi=False, ffn_hidden_size=INNER),
    "falcon_alibi": decoder("FalconConfig", PACKED, PLAIN, multi_query=False, parallel_attn=False, alibi=True, bias=True, ffn_hidden_size=INNER, about=EAGER),
    "falcon_new": decoder("FalconConfig", PACKED, PLAIN, new_decoder_architecture=True, num_kv_heads=2, alibi=False, ffn_hidden_size=INNER),
    "gpt2": decoder("GPT2Config", ("c_attn",), GPT, n_inner=INNER),
    "gpt_neo": decoder("GPTNeoConfig", base=SPECIAL, vocab_size=VOCABULARY, hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, max_position_embeddings=POSITIONS,
                       intermediate_size=INNER, attention_types=[[["global", "local"], 1]], window_size=WINDOW),
    "gpt_neox": decoder("GPTNeoXConfig", PACKED, PLAIN, rotary_pct=0.5),
    "gptj": decoder("GPTJConfig", base=GPT, rotary_dim=4, n_inner=INNER, tie_word_embeddings=False),
    "gpt_bigcode": decoder("GPTBigCodeConfig", ("c_attn",), GPT, multi_query=True, n_inner=INNER),
    "codegen": decoder("CodeGenConfig", ("qkv_proj",), GPT, rotary_dim=4, n_inner=INNER, n_ctx=POSITIONS, tie_word_embeddings=False),
    "opt": decoder("OPTConfig", base=PLAIN, ffn_dim=INNER, word_embed_proj_dim=HIDDEN, dropout=0.0),
    "opt_projected": decoder("OPTConfig", base=PLAIN, ffn_dim=INNER, word_embed_proj_dim=16, dropout=0.0, do_layer_norm_before=False),
    "bloom": decoder("BloomConfig", PACKED, SPECIAL, vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS),
    "mpt": decoder("MptConfig", ("Wqkv",), SPECIAL, WIDTHS, vocab_size=VOCABULARY, d_model=HIDDEN, n_heads=HEADS, n_layers=LAYERS, max_seq_len=POSITIONS, expansion_ratio=2),
    "stablelm": decoder("StableLmConfig", partial_rotary_factor=0.5, use_parallel_residual=True),
    "olmo": decoder("OlmoConfig", clip_qkv=3.0),
    "olmo2": decoder("Olmo2Config"),
    "cohere": decoder("CohereConfig", use_qk_norm=True, logit_scale=0.25),
    "cohere2": decoder("Cohere2Config", sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"], logit_scale=0.25),
    "starcoder2": decoder("Starcoder2Config", sliding_window=WINDOW),
    "granite": decoder("GraniteConfig", embedding_multiplier=2.0, logits_scaling=1.5, residual_multiplier=0.5, attention_multiplier=0.3),
    "smollm3": decoder("SmolLM3Config", no_rope_layers=[1, 0]),
    "glm": decoder("GlmConfig", head_dim=8),
    "glm4": decoder("Glm4Config", head_dim=8),
    "persimmon": decoder("PersimmonConfig", PACKED, PLAIN),
    "xglm": decoder("XGLMConfig", base=SPECIAL, about=WIDTHS, vocab_size=VOCABULARY, d_model=HIDDEN, ffn_dim=INNER, num_layers=LAYERS, attention_heads=HEADS,
                    max_position_embeddings=POSITIONS, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0),
    "biogpt": decoder("BioGptConfig", base=PLAIN, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, activation_dropout=0.0),
    "openai_gpt": decoder("OpenAIGPTConfig", ("c_attn",), GPT),
    "ctrl": decoder("CTRLConfig", ("Wq", "Wv"), GPT, dff=INNER),
    "nemotron": decoder("NemotronConfig", partial_rotary_factor=0.5, head_dim=8),
    "helium": decoder("HeliumConfig", head_dim=8),
    "ernie4_5": decoder("Ernie4_5Config", head_dim=8),
    "exaone4": decoder("Exaone4Config", sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]),
    "arcee": decoder("ArceeConfig", head_dim=8),
    "apertus": decoder("ApertusConfig", rope_scaling=None),
    "seed_oss": decoder("SeedOssConfig", head_dim=8),
    "hunyuan": decoder("HunYuanDenseV1Config", head_dim=8),
    "olmo3": decoder("Olmo3Config", sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]),
    "diffllama": decoder("DiffLlamaConfig"),
    "doge": decoder("DogeConfig", head_dim=8),
    "bitnet": decoder("BitNetConfig"),
    "lfm2": decoder("Lfm2Config", layer_types=["conv", "full_attention"], block_ff_dim=INNER, conv_L_cache=3),
}


def encoder(config, targets=("query", "value"), task="SEQ_CLS", base=BERT, attention="sdpa", auto="", **settings):
    classes = dict(num_labels=3) if task == "SEQ_CLS" else {}
    return Architecture(task, config, base | classes | settings, targets, attention, auto)


UNTYPED = {k: v for k, v in BERT.items() if k != "type_vocab_size"}
ROBERTA = dict(max_position_embeddings=POSITIONS + 2, pad_token_id=0)
NO_TYPES = dict(type_vocab_size=0, pooler_dropout=0.0)
MODERN = dict(num_hidden_layers=3, global_attn_every_n_layers=2, local_attention=8, embedding_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0,
              reference_compile=False, cls_token_id=1, sep_token_id=2)
XLNET = dict(vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=LAYERS, n_head=HEADS, d_inner=INNER, dropout=0.0, summary_last_dropout=0.0, pad_token_id=0)
ENCODERS = {
    "bert": encoder("BertConfig"),
    "bert_masked": encoder("BertConfig", task="MASKED_LM"),
    "distilbert": encoder("DistilBertConfig", ("q_lin", "v_lin"), base={}, vocab_size=VOCABULARY, dim=HIDDEN, hidden_dim=INNER, n_layers=LAYERS, n_heads=HEADS,
                          max_position_embeddings=POSITIONS, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, pad_token_id=0),
    "roberta": encoder("RobertaConfig", **ROBERTA),
    "roberta_masked": encoder("RobertaConfig", task="MASKED_LM", **ROBERTA),
    "xlm_roberta": encoder("XLMRobertaConfig", **ROBERTA),
    "camembert": encoder("CamembertConfig", **ROBERTA),
    "roberta_prelayernorm": encoder("RobertaPreLayerNormConfig", **ROBERTA),
    "data2vec_text": encoder("Data2VecTextConfig", **ROBERTA),
    "xmod": encoder("XmodConfig", languages=["en_XX"], default_language="en_XX", **ROBERTA),
    "electra": encoder("ElectraConfig", embedding_size=16),
    "electra_masked": encoder("ElectraConfig", task="MASKED_LM", embedding_size=16),
    "albert": encoder("AlbertConfig", embedding_size=16, classifier_dropout_prob=0.0),
    "albert_masked": encoder("AlbertConfig", task="MASKED_LM", embedding_size=16),
    "deberta": encoder("DebertaConfig", ("in_proj",), relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False, max_relative_positions=16, **NO_TYPES),
    "deberta_v2": encoder("DebertaV2Config", ("query_proj", "value_proj"), relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False,
                          position_buckets=16, share_att_key=True, norm_rel_ebd="layer_norm", **NO_TYPES),
    "mpnet": encoder("MPNetConfig", ("q", "v"), base=UNTYPED, **ROBERTA | dict(pad_token_id=1)),
    "modernbert": encoder("ModernBertConfig", ("Wqkv",), base=UNTYPED, **MODERN),
    "modernbert_masked": encoder("ModernBertConfig", ("Wqkv",), base=UNTYPED, task="MASKED_LM", **MODERN),
    "mobilebert": encoder("MobileBertConfig", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    "layoutlm": encoder("LayoutLMConfig", max_2d_position_embeddings=32),
    "nystromformer": encoder("NystromformerConfig", num_landmarks=4, segment_means_seq_len=4),
    "convbert": encoder("ConvBertConfig", embedding_size=HIDDEN, head_ratio=2, conv_kernel_size=3),
    "ernie": encoder("ErnieConfig"),
    "esm": encoder("EsmConfig", base=UNTYPED, mask_token_id=4, token_dropout=False, position_embedding_type="rotary"),
    "rembert": encoder("RemBertConfig", input_embedding_size=16, output_embedding_size=16, classifier_dropout_prob=0.0),
    "roformer": encoder("RoFormerConfig", embedding_size=HIDDEN),
    "megatron_bert": encoder("MegatronBertConfig"),
    "big_bird": encoder("BigBirdConfig", attention_type="original_full"),
    "ibert": encoder("IBertConfig", quant_mode=False, **ROBERTA),
    "xlnet": encoder("XLNetConfig", ("layer_1", "layer_2"), base=XLNET),
}


def sequences(config, targets=QV, base=None, **settings):
    return Architecture("SEQ_2_SEQ_LM", config, (BART if base is None else base) | settings, targets)


GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
SEQUENCES = {
    "t5": sequences("T5Config", ("q", "v"), T5),
    "t5_gated": sequences("T5Config", ("q", "v"), T5, **GATED),
    "mt5": sequences("MT5Config", ("q", "v"), T5, **GATED),
    "umt5": sequences("UMT5Config", ("q", "v"), T5, **GATED),
    "bart": sequences("BartConfig"),
    "mbart": sequences("MBartConfig"),
    "pegasus": sequences("PegasusConfig", decoder_start_token_id=0),
    "marian": sequences("MarianConfig", decoder_start_token_id=0),
    "m2m_100": sequences("M2M100Config"),
    "blenderbot": sequences("BlenderbotConfig", decoder_start_token_id=1),
    "blenderbot_small": sequences("BlenderbotSmallConfig", decoder_start_token_id=1),
}


def images(config, targets=("query", "value"), base=None, **settings):
    return Architecture("IMAGE_CLS", config, (VIT if base is None else base) | dict(num_labels=4) | settings, targets)


VIT = dict(image_size=16, patch_size=4, num_channels=3, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
           hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, drop_path_rate=0.0)
STAGES = dict(image_size=32, num_channels=3, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], drop_path_rate=0.0, classifier_dropout_prob=0.0,
              hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
WINDOWS = dict(image_size=32, patch_size=2, num_channels=3, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, hidden_dropout_prob=0.0,
               attention_probs_dropout_prob=0.0, drop_path_rate=0.0)
IMAGES = {
    "vit": images("ViTConfig"),
    "vit_msn": images("ViTMSNConfig"),
    "ijepa": images("IJepaConfig"),
    "deit": images("DeiTConfig", architectures=["DeiTForImageClassification"]),
    "beit": images("BeitConfig", use_relative_position_bias=True, layer_scale_init_value=0.1, use_mean_pooling=True),
    "data2vec_vision": images("Data2VecVisionConfig", use_relative_position_bias=True, layer_scale_init_value=0.1),
    "dinov2": images("Dinov2Config", mlp_ratio=2),
    "dinov2_swiglu": images("Dinov2Config", mlp_ratio=2, use_swiglu_ffn=True),
    "dinov2_with_registers": images("Dinov2WithRegistersConfig", mlp_ratio=2),
    "siglip": images("SiglipConfig", QV, {}, vision_config=VIT),
    "clip": images("CLIPConfig", QV, {}, vision_config=VIT),
    "swin": images("SwinConfig", base=WINDOWS),
    "swinv2": images("Swinv2Config", base=WINDOWS),
    "pvt": images("PvtConfig", base=STAGES, patch_sizes=[4, 2, 2, 2], strides=[4, 2, 1, 1], sequence_reduction_ratios=[4, 2, 1, 1], mlp_ratios=[2, 2, 2, 2]),
    "segformer": images("SegformerConfig", base=STAGES, sr_ratios=[4, 2, 1, 1], mlp_ratios=[2, 2, 2, 2]),
    "mobilevit": images("MobileViTConfig", base=dict(VIT, image_size=32, patch_size=2), hidden_sizes=[12, 16, 20], neck_hidden_sizes=[4, 8, 8, 12, 16, 20, 24], expand_ratio=2.0,
                        classifier_dropout_prob=0.0),
    "convnext": images("ConvNextConfig", ("pwconv1", "pwconv2"), dict(image_size=32, num_channels=3, patch_size=4), hidden_sizes=[16, 32], depths=[2, 2], num_stages=2),
}
ARCHITECTURES = DECODERS | ENCODERS | SEQUENCES | IMAGES


def every_expert(block, hidden):
    """What a mixture of experts gives, each expert run on each token and weighted by zero where it is not chosen; and the router's scores."""
    import torch
    tokens = hidden.reshape(-1, hidden.shape[-1])
    scores = block.gate(tokens)
    weights, chosen = scores.softmax(-1).topk(block.top_k)
    if getattr(block, "norm_topk_prob", True):
        weights = weights / weights.sum(-1, keepdim=True)
    shares = torch.zeros_like(scores).scatter(-1, chosen, weights)
    mixed = sum(shares[:, at, None] * expert(tokens) for at, expert in enumerate(block.experts))
    if hasattr(block, "shared_expert"):
        mixed = mixed + block.shared_expert_gate(tokens).sigmoid() * block.shared_expert(tokens)
    return mixed.reshape(hidden.shape), scores


def traceable(name, folder, attention="eager"):
    """The model as exporters can follow it."""
    model = load(name, folder, attention)
    for block in model.modules() if ARCHITECTURES[name].dense else ():
        if hasattr(block, "experts") and hasattr(block, "gate"):
            block.forward = functools.partial(every_expert, block)
    return model


def random_model(name):
    """The architecture's model with seeded weights."""
    import transformers
    row = ARCHITECTURES[name]
    config = getattr(transformers, row.config)(**row.settings)
    return filled(getattr(transformers, row.model_class).from_config(config).eval(), seed(name))


def load(name, folder, attention="eager"):
    """The model that was saved there."""
    import transformers
    row = ARCHITECTURES[name]
    try:
        model = getattr(transformers, row.model_class).from_pretrained(str(folder), attn_implementation=attention, dtype="float32")
    except (ValueError, ImportError):  # models of which transformers has one implementation only
        model = getattr(transformers, row.model_class).from_pretrained(str(folder), dtype="float32")
    model.config.use_cache = False
    return model.eval()
