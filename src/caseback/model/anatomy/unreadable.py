"""The decoder families that no anatomy can describe, and why.

What they lack is one of: one stream that parts write to, attention of queries, keys and values alone, heads that each
have a pattern and weights of their own. ``family_of`` refuses them by model type, in these words.
"""

INDEXED = "an indexer chooses which keys a query sees, so attention is not of queries, keys and values alone"
_RESCALED = "its layers rescale the stream that they add to, so what the parts write does not sum to it"
_STREAMS = "it keeps several residual streams and mixes them between the layers, so there is no one stream"

UNREADABLE: dict[str, str] = {
    "axk2": "its norms are gated by what they read, so with their denominator frozen they are not linear",
    "ctrl": "its attention is handed what it reads three times, as separate inputs of query, key and value",
    "deepseek_v32": INDEXED,
    "deepseek_v4": _STREAMS,
    "diffllama": "each of its heads subtracts one attention pattern from another",
    "doge": "its attention masks are computed from the values, so a part of a prompt cannot be run by itself",
    "gemma3n_text": _STREAMS,
    "gemma4_text": _RESCALED,
    "gemma4_unified_text": _RESCALED,
    "glm_moe_dsa": INDEXED,
    "hrm_text": "it runs its layers several times over, so a layer's number does not name one place",
    "hy_v4": _STREAMS,
    "jetmoe": "its query and output projections are experts chosen token by token, not weights of its heads",
    "longcat_flash": "each of its layers holds two attention blocks and two MLPs, with experts beside both",
}
"""Model types that are refused by name, with the reason in words."""
