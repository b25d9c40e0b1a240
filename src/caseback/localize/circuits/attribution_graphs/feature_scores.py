"""Why a head looks at a token: its score as a sum over pairs of features, one at the query, one at the key.

    score(q, k) = scaling sum_i sum_j a_i(q) a_j(k) (w_i J_q) . (w_j J_k) + errors + biases       He et al. 2024

J are the maps from the stream to what enters attention on the prompt, rotations, biases, norms of queries and keys and
the denominators of all norms in them. ``query_key_attribution`` asks the same of a graph's writers along all paths;
here writers are what stands at the two places: features of dictionaries of any site, heads, errors, embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr

from caseback.errors import OutOfRange
from caseback.localize.circuits.attribution_graphs.queries import head_of_scores, projected
from caseback.localize.circuits.attribution_graphs.stream_writes import Writes, joined_parts
from caseback.model.algebra.scalings import score_scalings
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    entry=("3.2.30",),
    citation="He et al. 2024",
    cost="one forward, d_head backward passes of one layer, and pairs of active features x d_head",
)
def score_attribution(
    model: Model,
    tokens: PromptsLike,
    head: str,
    dictionaries: Any,
    *,
    query: int = -1,
    key: int | None = None,
) -> xr.DataArray:
    """Split one attention score among pairs of what stands at the query and what stands at the key.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. One.
    head
        Such as ``"L5H1"``.
    dictionaries
        Those whose features are named: transcoders, and dictionaries of the stream, of attention's output and of MLPs'
        outputs.
    query
        The position that looks; negative from the end.
    key
        The position looked at. None: the one with the most attention.

    Returns
    -------
    xarray.DataArray
        (query_writer, key_writer): the part of the score before the softmax, soft-caps and masks that each pair makes;
        they sum to it. Writers are as ``feature_attribution`` has them, with ``query_activation`` and
        ``key_activation`` of features. Attributes: ``value``, the score; ``gap``, by how much the sum misses it;
        ``pattern``, the attention weight; ``query`` and ``key``.

    Raises
    ------
    ArgumentError
        For what names no head of this model, and dictionaries of other places.
    OutOfRange
        For positions that are not in the prompt, or a key after the query.
    LoadError
        For dictionaries of another width or other layers.
    SiteAbsent
        For families whose queries and keys are not read from the stream by heads.

    Notes
    -----
    Entry 3.2.30. Pairs with the key's ``bias`` are what the query brings to every key alike, up to rotations. What no
    input changes of a pair is in ``virtual_scores``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> stream = TopK(model.d_model, 64, k=4, facts=Facts(site="resid_post.0"))
    >>> pairs = score_attribution(model, "Mary gave the ball to", "L1H2", stream)
    >>> pairs.dims, abs(float(pairs.sum()) - pairs.attrs["value"]) < 1e-3
    (('query_writer', 'key_writer'), True)
    """
    layer, index = head_of_scores(model, head)
    with torch.no_grad():
        writes = Writes(model, tokens, dictionaries)
        network, n = writes.network, writes.network.n_positions
        at, to = (None if p is None else p + n if p < 0 else p for p in (query, key))
        if at is None or not 0 <= at < n or (to is not None and not 0 <= to <= at):
            raise OutOfRange(
                f"query={query}, key={key}: expected positions of a prompt of {n}, the key not after the query"
            )
        to = int(network.at("pattern", layer)[index, at].argmax()) if to is None else to
        sides = projected(network, layer, index)
        read = writes.at(2 * layer)
        parts = joined_parts([write.parts for write in read])
        constant = torch.stack([write.constant for write in read]).sum(0)
        names, activations, vectors = [], [], []
        for side, pos in zip(sides, (at, to), strict=True):
            here = (parts.pos == pos).nonzero()[:, 0]
            own = [str(parts.names[i]._replace(pos=str(pos))) for i in parts.node[here].tolist()]
            through = torch.cat([parts.vectors[here], constant[pos][None]]) @ side.maps[pos].T
            through[-1] += side.constants[pos]
            names.append([*own, "bias"])
            activations.append([*parts.value[here].tolist(), float("nan")])
            vectors.append(through)
        scaling = score_scalings(model.anatomy)[layer]
        terms = vectors[0] @ vectors[1].T * scaling
        value = float(sides[0].values[at] @ sides[1].values[to]) * scaling
    coords = {
        "query_writer": names[0],
        "key_writer": names[1],
        "query_activation": ("query_writer", activations[0]),
        "key_activation": ("key_writer", activations[1]),
    }
    attrs = {
        **{"technique": score_attribution, "model": model, "head": head_name(layer, index)},
        **{"query": at, "key": to, "value": value, "gap": abs(float(terms.sum()) - value)},
        "pattern": float(network.at("pattern", layer)[index, at, to]),
    }
    return labelled(terms, ["query_writer", "key_writer"], coords, name="score", **attrs)
