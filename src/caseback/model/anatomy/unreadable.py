"""The decoder families that no anatomy can describe, and why.

What they lack is one of: a stream that parts write to by adding, an unembedding that reads it linearly, heads that
each have a pattern and weights of their own. ``family_of`` refuses them by model type, in these words.
"""

INDEXED = "an indexer chooses which keys a query sees, so attention is not of queries, keys and values alone"
_HEAD = "between its last layer and the unembedding stands a nonlinear head (dense, activation, norm)"
_NORMED = "each addition to its stream is normalized, so what the parts write does not sum to the stream"
_RESCALED = "its layers rescale the stream that they add to, so what the parts write does not sum to it"
_STREAMS = "it keeps several residual streams and mixes them between the layers, so there is no one stream"

UNREADABLE: dict[str, str] = {
    "axk2": "its norms are gated by what they read, so with their denominator frozen they are not linear",
    "beam": _RESCALED,
    "bert": _HEAD,
    "bert-generation": _NORMED,
    "big_bird": _HEAD,
    "camembert": _HEAD,
    "ctrl": "its attention is handed what it reads three times, as separate inputs of query, key and value",
    "data2vec-text": _HEAD,
    "deepseek_v32": INDEXED,
    "deepseek_v4": _STREAMS,
    "diffllama": "each of its heads subtracts one attention pattern from another",
    "doge": _RESCALED,
    "electra": _HEAD,
    "ernie": _HEAD,
    "gemma3n_text": _STREAMS,
    "gemma4_text": _RESCALED,
    "gemma4_unified_text": _RESCALED,
    "glm_moe_dsa": INDEXED,
    "gpt_neox_japanese": "the bias of its last layer's attention is added outside of that attention",
    "hrm_text": "it runs its layers several times over, so a layer's number does not name one place",
    "hy_v4": _STREAMS,
    "jetmoe": "its query and output projections are experts chosen token by token, not weights of its heads",
    "longcat_flash": "each of its layers holds two attention blocks and two MLPs, with experts beside both",
    "megatron-bert": _HEAD,
    "modernbert-decoder": _HEAD,
    "openai-gpt": _NORMED,
    "rembert": _HEAD,
    "roberta": _HEAD,
    "roberta-prelayernorm": _HEAD,
    "roc_bert": _HEAD,
    "roformer": _HEAD,
    "xlm-roberta": _HEAD,
    "xlm-roberta-xl": _HEAD,
    "xmod": _HEAD,
}
"""Model types that are refused by name, with the reason in words."""
