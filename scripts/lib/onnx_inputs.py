"""What to feed an exported transformer: shared by the scripts that run ONNX files beside PyTorch."""
import numpy as np

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def feeds(session, inputs):
    """The inputs a graph asks for, in its types; positions count the real tokens, a cache starts empty and is not asked for, a decoder sees all its tokens."""
    known = dict(inputs)
    if "input_ids" in inputs:
        positions = (np.cumsum(inputs["attention_mask"], 1) - 1).clip(0)
        known |= dict(position_ids=positions, token_type_ids=np.zeros_like(positions), use_cache_branch=np.zeros(1, np.bool_))
    if "decoder_input_ids" in inputs:
        known["decoder_attention_mask"] = np.ones_like(inputs["decoder_input_ids"])
    given = {}
    for wanted in session.get_inputs():
        value = known.get(wanted.name)
        if wanted.name.startswith("past_key_values"):
            value = np.zeros([d if isinstance(d, int) else len(positions) if "batch" in d else 0 for d in wanted.shape])
        given[wanted.name] = value.astype(TYPES[wanted.type])
    return given


def probe(vocabulary, lengths, seed=2, decoder=False, padding=None):
    """Random tokens [rows, longest], padded on the right (by random tokens too, if not told otherwise), and their mask; for a decoder behind an encoder half as many, without padding."""
    chance = np.random.default_rng(seed)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    tokens = chance.integers(3, vocabulary, mask.shape)
    made = {"input_ids": tokens if padding is None else np.where(mask, tokens, padding), "attention_mask": mask}
    return made | ({"decoder_input_ids": chance.integers(3, vocabulary, (len(mask), (max(lengths) + 1) // 2))} if decoder else {})


def images(channels, size, rows, seed=2):
    """Random images [rows, channels, size, size]."""
    return {"pixel_values": np.random.default_rng(seed).standard_normal((rows, channels, size, size)).astype(np.float32)}


def relative_difference(found, wanted, inputs):
    """Largest difference of the real tokens' logits over the largest logit; classifiers have one row of logits a text."""
    real = slice(None)
    if "decoder_input_ids" in inputs:  # padded behind the last token, by 0
        behind = np.cumsum(inputs["decoder_input_ids"][:, ::-1], 1)[:, ::-1]
        real = (behind > 0) | (np.arange(behind.shape[1]) == 0)
    elif wanted.ndim == 3:
        real = inputs["attention_mask"].astype(bool)
    return float(np.abs(found - wanted)[real].max() / np.abs(wanted[real]).max())
