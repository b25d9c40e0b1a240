"""What can be read without what the model has learned: from words alone, from embeddings, from random weights.

    bag of tokens   how often each token stands in the prompt
    embed           the embedding of the token that is read at
    untrained.l     the stream after layer l of the same architecture with the weights that training starts from

A label that these tell is one of the words' own, or of any mixing of them. A random network mixes its tokens too, so
that its layers tell more than the embedding of one. Zhang & Bowman 2018.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.probes.linear_probe import linear_probe
from caseback.decode.probes.penalties import Method
from caseback.decode.probes.setting import Labels
from caseback.decode.states import read_states
from caseback.errors import CasebackError, OutOfRange
from caseback.model.loading.load import load
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    entry=("4.1.1",),
    citation="Zhang & Bowman 2018",
    cost="one pass of an untrained copy over the prompts and a linear probe at each of its layers",
)
def probe_baselines(
    model: Model,
    tokens: PromptsLike,
    y: Labels,
    *,
    pos: int = -1,
    vocabulary: int = 1000,
    method: Method = "logistic",
    groups: Labels | None = None,
    types: Labels | None = None,
    penalty: float | None = None,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Probe what a linear probe of a model has to be compared with, on the same split.

    Parameters
    ----------
    model
        The model. It is not changed; one of its class and sizes is made beside it.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    y
        A label for each prompt.
    pos
        Where states are read, counted among each prompt's own tokens: the place that the probe of the model reads.
    vocabulary
        How many tokens a bag counts, the most frequent ones in these prompts.
    method, groups, types, penalty, n_folds, resamples
        As for ``linear_probe``, and to be the same as there.
    seed
        Same seed, same result. Folds are those of ``linear_probe`` with it; the untrained weights are drawn with it.

    Returns
    -------
    xr.Dataset
        The table of ``linear_probe`` with the sites ``bag of tokens``, ``embed``, ``untrained.0`` and so on. ``embed``
        is left out where every prompt has the same token there: nothing but the majority is read from it.

    Raises
    ------
    CasebackError
        As ``linear_probe``, and for a model that cannot be made anew from its config.

    Notes
    -----
    Entry 4.1.1: Zhang & Bowman 2018. Prompts that repeat each other are not warned of here, since their embeddings
    nearly always do.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> names, places = ["Mary", "Anna", "John", "Paul"], ["store", "park", "school", "house", "garden", "city"]
    >>> prompts = [f"{name} went to the {place}" for name in names for place in places]
    >>> table = probe_baselines(model, prompts, [name in ("Mary", "Anna") for name in names for _ in places])
    >>> table.site.values.tolist()[:3], float(table.accuracy.sel(site="bag of tokens"))
    (['bag of tokens', 'embed', 'untrained.0'], 1.0)
    """
    prompts = model.tokens(tokens)
    if not 1 <= vocabulary <= 2**16:
        raise OutOfRange(f"vocabulary {vocabulary}: expected from 1 to 65536")
    sources = {("bag of tokens",): bag_of_tokens(prompts, vocabulary)[None]}
    sources |= {("embed",): read_states(model, prompts, sites="embed", pos=pos).x}
    states = read_states(untrained(model, seed), prompts, sites="resid_post", pos=pos).x
    sources |= {tuple(f"untrained.{layer}" for layer in range(len(states))): states}
    options: dict[str, Any] = {"method": method, "groups": groups, "types": types, "penalty": penalty}
    options |= {"n_folds": n_folds, "resamples": resamples, "seed": seed}
    tables: list[xr.Dataset] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for names, x in sources.items():
            if names == ("embed",) and bool((x == x[:, :1]).all()):
                continue
            tables.append(linear_probe(x, y, sites=names, **options).table)
    return xr.concat(tables, "site", data_vars="minimal", coords="minimal", compat="override", join="override")


def bag_of_tokens(tokens: Tokens, vocabulary: int) -> Float[Tensor, "example word"]:
    """How often each of the most frequent tokens stands in each prompt."""
    distinct, number = tokens.ids.unique(return_inverse=True)
    counts = torch.zeros(len(tokens), len(distinct))
    counts.scatter_add_(1, number.cpu(), tokens.mask.cpu().float())
    return counts[:, counts.sum(0).topk(min(vocabulary, len(distinct))).indices]


def untrained(model: Model, seed: int) -> Model:
    """A model of the same class and config, with the weights that training starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            fresh = type(model.hf)(copy.deepcopy(model.hf.config))
        except Exception as error:  # a class of anybody's making
            raise CasebackError(f"no {type(model.hf).__name__} could be made from its config alone: {error}") from None
    return load(fresh.to(model.device, model.dtype).eval(), tokenizer=model.tokenizer)
