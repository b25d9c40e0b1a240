"""Reading features: the words that they write, the features that write alike, and which are active on a prompt.

    words of feature i       the largest and smallest of d_i W_U, the final norm's gain folded in      (entry 4.2.16)
    neighbors of feature i   the largest cosines of d_i and d_j

d_i is what feature i writes; of a crosscoder of layers, or a cross-layer transcoder, what of it reaches the stream
behind the last of them. What a feature writes is read on the direct path: its effect through later layers is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerTranscoder
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.features.attach import attached
from caseback.decode.dictionaries.features.places import in_words, place_of_codes, source_names, written_to_stream
from caseback.decode.vocabulary.weights.named_matrices import table_of, weights_of
from caseback.errors import LoadError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.arguments import checked
from caseback.model.prompts.per_token import aligned
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(entry=("4.2.16",), citation="Bricken et al. 2023", cost="features x unembedding")
def feature_words(
    model: Model,
    dictionary: Dictionary,
    features: Sequence[int] | None = None,
    *,
    top: int = 8,
    folded: bool = True,
    source: int | None = None,
) -> xr.Dataset:
    """The tokens whose logits a feature raises most on the direct path, and those that it lowers most.

    Parameters
    ----------
    model
        The model whose stream the dictionary writes into.
    dictionary
        Its target must be the stream, or what is added to it.
    features
        Which; all by default.
    top
        Tokens of each side.
    folded
        With the final norm's gain in the unembedding, and its mean over the vocabulary taken off.
    source
        Of a crosscoder, the source whose rows are read, which one of two models needs; by default what reaches the last
        stream.

    Returns
    -------
    xarray.Dataset
        ``up`` and ``down`` (feature, k), logits for one unit of activation (of states whose tokens are normalized one
        by one, up to the token's own scale), and ``up_token``, ``down_token``, their
        tokens as text.

    Raises
    ------
    ArgumentError
        For a crosscoder of two models, without ``source``.
    LoadError
        For a dictionary that writes vectors of another width than the stream's.
    OutOfRange
        For a feature, or a source, that there is not.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.1"))
    >>> one.W_dec.data[7] = torch.linalg.pinv(model.weights.folded().W_U)[model.token_id(" cat")]
    >>> feature_words(model, one, [7], top=3)["up_token"].values[0, 0]
    ' cat'
    """
    if source is not None and not 0 <= source < (n := len(source_names(dictionary)) or 1):
        raise OutOfRange(f"source {source}: there are {n}, 0 to {n - 1}")
    chosen = _expected(dictionary, features, top)
    if dictionary.d_out != model.d_model:
        raise LoadError(
            f"{dictionary!r} writes vectors of {dictionary.d_out} numbers, and the stream has {model.d_model}"
        )
    table = table_of(weights_of(model, folded), "out")
    k = min(top, table.shape[1])
    written = written_to_stream(dictionary, source)
    at_once = max(1, limit("weight_products", model.device) // table.shape[1])
    parts: list[tuple[Tensor, ...]] = []
    for some in torch.as_tensor(chosen, dtype=torch.long).split(at_once):
        logits = written[some.to(written.device)].to(table) @ table
        logits -= logits.mean(-1, keepdim=True)
        parts.append((*logits.topk(k), *logits.topk(k, largest=False)))
    up, up_ids, down, down_ids = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    dims = ("feature", "k")
    tokens = {
        name: (dims, np.array([model.token_text(i) for i in ids.flatten().tolist()], dtype=object).reshape(ids.shape))
        for name, ids in (("up_token", up_ids), ("down_token", down_ids))
    }
    values = {"up": (dims, up.numpy()), "down": (dims, down.numpy())}
    return xr.Dataset({**values, **tokens}, {"feature": chosen}, {"folded": int(folded), **model.provenance()})


@checked
def nearest_features(
    dictionary: Dictionary, features: Sequence[int] | None = None, *, top: int = 5
) -> tuple[Float[Tensor, "feature k"], Int[Tensor, "feature k"]]:
    """The features whose rows have the largest cosines with those of some.

    A row is what the feature writes: to all sources of a crosscoder, and of a cross-layer transcoder what of it reaches
    the last stream.

    Parameters
    ----------
    dictionary
        The dictionary.
    features
        Which; all by default.
    top
        How many of each.

    Returns
    -------
    tuple
        Cosines and features, (feature, k) each, in falling order.

    Examples
    --------
    >>> from caseback.decode.dictionaries import TopK
    >>> one = TopK(8, 16, k=2)
    >>> one.W_dec.data[3] = 2 * one.W_dec.data[11]
    >>> nearest_features(one, [3], top=1)[1].tolist()
    [[11]]
    """
    chosen = torch.as_tensor(_expected(dictionary, features, top), device=dictionary.W_dec.device)
    across = isinstance(dictionary, CrossLayerTranscoder)
    rows = written_to_stream(dictionary) if across else dictionary.W_dec.detach()
    rows = torch.nn.functional.normalize(rows, dim=1)
    at_once = max(1, limit("nearest_numbers", rows.device) // len(rows))
    parts = []
    for some in chosen.split(at_once):
        cosines = rows[some] @ rows.T
        cosines.scatter_(1, some[:, None], -torch.inf)
        parts.append(cosines.topk(min(top, len(rows) - 1)))
    values, index = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return values, index


@technique(entry=("4.2.16",), citation="Bricken et al. 2023", cost="one forward pass")
def features_on(model: Model, dictionary: Dictionary, tokens: PromptsLike, *, top: int = 8) -> xr.Dataset:
    """The features that are most active at each token of some prompts.

    Parameters
    ----------
    model
        The model.
    dictionary
        What reads its states; it must say which site.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    top
        How many features a token.

    Returns
    -------
    xarray.Dataset
        ``feature`` and ``activation`` (batch, pos, k) in falling order of activation, -1 and NaN where fewer are
        active or there is no token; ``token`` (batch, pos) as text, and ``active`` how many there are.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> found = features_on(cb.load("meadow"), TopK(160, 320, k=4, facts=Facts(site="resid_post.1")), "the cat")
    >>> found["active"].values.tolist()
    [[4, 4, 4]]
    """
    _expected(dictionary, None, top)
    prompts: Tokens = model.tokens(tokens)
    with attached(model, dictionary, name="features_on"):
        run = model.run(prompts, read=["features_on"])
        codes = run["features_on", place_of_codes(dictionary).layer]
    codes = aligned(codes.detach().masked_fill(~prompts.mask.to(codes.device)[..., None], 0), prompts).cpu()
    width = int(prompts.lengths.max())
    best = codes[:, :width].abs().topk(min(top, codes.shape[-1])).indices
    values = codes[:, :width].gather(-1, best)
    texts = np.full((len(prompts), width), "", dtype=object)
    for i, row in enumerate(prompts.text):
        texts[i, : len(row)] = row
    dims = ("batch", "pos", "k")
    return xr.Dataset(
        {
            "feature": (dims, torch.where(values != 0, best, -1).numpy()),
            "activation": (dims, torch.where(values != 0, values.double(), torch.nan).numpy()),
            "active": (dims[:2], (codes[:, :width] != 0).sum(-1).numpy()),
            "token": (dims[:2], texts),
        },
        attrs={"site": in_words(source_names(dictionary)), **model.provenance()},
    )


def _expected(dictionary: Dictionary, features: Sequence[int] | None, top: int) -> list[int]:
    if top < 1:
        raise OutOfRange(f"top is {top}: expected 1 or more")
    if features is None:
        return list(range(dictionary.n_features))
    for feature in features:
        if not 0 <= feature < dictionary.n_features:
            raise OutOfRange(f"feature {feature}: there are {dictionary.n_features}, 0 to {dictionary.n_features - 1}")
    return list(features)
