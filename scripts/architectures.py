"""The table of architectures that check_architectures.py exports and trains: tiny random models, each built by transformers from its configuration.

A row is a configuration class, what differs from the tiny defaults of its kind, and where adapters go. Two layers at least, so that what alternates shows; widths that
divide, so that heads, groups and partial rotary positions are all there.
"""
import dataclasses
import functools

from families import DECODER, HEADS, HIDDEN, INNER, LAYERS, POSITIONS, SPECIAL, VOCABULARY, filled, seed

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
        return self.auto or {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_CLS": "AutoModelForSequenceClassification", "MASKED_LM": "AutoModelForMaskedLM",
                             "FEATURES": "AutoModel"}[self.task]


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
ARCHITECTURES = DECODERS


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
