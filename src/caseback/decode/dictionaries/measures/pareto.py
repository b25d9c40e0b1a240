"""Several dictionaries in one table, each beside what chance and a frozen decoder reach (entry 4.2.15).

    fidelity against sparsity: a dictionary is on the frontier where no other has both a lower L0 and a smaller loss

Which of two dictionaries is better is mostly a question of L0: compare them along a frontier, not at one point. Rows
of random directions and of frozen decoders stand beside, since they explain more than one would think.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.controls import frozen_decoder, random_dictionary
from caseback.decode.dictionaries.measures.given import Dictionaries, named
from caseback.decode.dictionaries.measures.reconstruction import reconstruction_measures
from caseback.decode.dictionaries.measures.replacement import (
    Batch,
    Splice,
    flat,
    passes,
    replacement_measures,
    splice_of,
)
from caseback.errors import OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike
from caseback.tasks.corpus import counted_tokens

KINDS = ("trained", "frozen decoder", "random")


@technique(
    entry=("4.2.15", "B.11"),
    citation="Karvonen et al. 2025; arXiv 2602.14111",
    cost="replacement_measures of three times as many dictionaries, and the training of encoders",
)
def compare_dictionaries(
    model: Model,
    dictionaries: Dictionaries,
    prompts: PromptsLike,
    *,
    train_prompts: PromptsLike | None = None,
    frozen_steps: int = 500,
    coefficient: float = 0.0,
    skip_first: int = 1,
    skip_special: bool = True,
    n_random: int = 1,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure several dictionaries, each with a random and a frozen-decoder one beside it.

    Parameters
    ----------
    model
        The model.
    dictionaries
        By name; they may be of several sites and architectures.
    prompts
        Texts that none of them was trained on.
    train_prompts
        Texts whose states frozen decoders' encoders are trained on; without them there are no such rows.
    frozen_steps
        Their steps, of 2,048 tokens.
    coefficient
        Of their penalty, where the architecture has one.
    skip_first, skip_special, n_random, seed, batch_tokens, progress
        As in ``replacement_measures``; the states that are measured are those of replaced tokens.

    Returns
    -------
    xr.Dataset
        By ``dictionary``: all of ``reconstruction_measures`` and ``replacement_measures``, with the coordinates
        ``kind`` (``"trained"``, ``"frozen decoder"``, ``"random"``), ``of`` (whose row stands beside which) and
        ``site``; ``frontier`` says which trained ones no other of the same site beats in both L0 and ``ce_increase``.
        ``.to_dataframe()`` of the measures by dictionary is a table.

    Raises
    ------
    CasebackError
        As the two measures.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> several = {f"k {k}": TopK(model.d_model, 320, k=k, facts=Facts(site="resid_post.2")) for k in (4, 32)}
    >>> text = "When {} and {} went to the store, {} gave a drink to {}."
    >>> prompts = [text.format("Mary", "John", "John", "Mary"), text.format("Anna", "Tom", "Tom", "Anna")]
    >>> table = compare_dictionaries(model, several, prompts)
    >>> table.dictionary.values.tolist()
    ['k 4', 'k 4, random', 'k 32', 'k 32, random']
    """
    if frozen_steps < 1:
        raise OutOfRange(f"frozen_steps is {frozen_steps}: expected 1 or more")
    several = named(dictionaries)
    spliced = {name: splice_of(model, name, one) for name, one in several.items()}
    budget = batch_tokens or limit("stream_tokens", model.device)
    how = {"skip_first": skip_first, "skip_special": skip_special}
    batches = _batches(model, prompts, budget, **how)
    training = None if train_prompts is None else _batches(model, train_prompts, budget, **how)
    rows: dict[str, tuple[Dictionary, str, str]] = {}
    for name, splice in spliced.items():
        rows[name] = splice.dictionary, "trained", name
        if training is not None:
            x, target = _states(model, splice, training)
            options = {"steps": frozen_steps, "coefficient": coefficient, "seed": seed, "progress": progress}
            frozen = frozen_decoder(splice.dictionary, x, target, **options)
            rows[f"{name}, frozen decoder"] = frozen, "frozen decoder", name
        source = (pair[0] for pair in _pairs(model, splice, batches if training is None else training))
        rows[f"{name}, random"] = random_dictionary(splice.dictionary, source, seed=seed), "random", name
    all_of = {name: row[0] for name, row in rows.items()}
    replaced = replacement_measures(
        model, all_of, prompts, n_random=n_random, seed=seed, batch_tokens=batch_tokens, progress=progress, **how
    )
    table = xr.merge([_reconstructed(model, rows, spliced, batches), replaced], combine_attrs="drop")
    sites = [str(splice_of(model, name, one).site) for name, one in all_of.items()]
    kinds, of = ([row[i] for row in rows.values()] for i in (1, 2))
    table = table.sel(dictionary=list(all_of)).assign_coords(
        kind=("dictionary", kinds), of=("dictionary", of), site=("dictionary", sites)
    )
    frontier = _frontier(table.l0.values, table.ce_increase.values, np.array(kinds) == "trained", np.array(sites))
    table["frontier"] = ("dictionary", frontier)
    own = {name: replaced.attrs[name] for name in ("ce_clean", "tokens", "skipped", "n_random", "seed")}
    attrs = labelled(frontier, ["dictionary"], technique=compare_dictionaries, model=model, **own).attrs
    return table.assign_attrs(attrs)


def _batches(model: Model, prompts: PromptsLike, budget: int, *, skip_first: int, skip_special: bool) -> list[Batch]:
    tokens = model.tokens(prompts)
    taken = counted_tokens(model, tokens, skip_first, skip_special)
    if not bool(taken.any()):
        raise TokensError(f"no token is left behind the first {skip_first} of each prompt: give longer ones")
    return list(passes(tokens, taken, taken, budget))


def _pairs(model: Model, splice: Splice, batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """What a dictionary reads and what it is to write, at the tokens that are replaced, batch by batch."""
    for batch in batches:
        run = execute(model.anatomy, batch.tokens, read=list({splice.site, splice.target}), logits=False)
        yield flat(run[splice.site])[batch.taken], flat(run[splice.target])[batch.taken]


def _states(model: Model, splice: Splice, batches: list[Batch]) -> tuple[Tensor, Tensor | None]:
    x, target = (torch.cat(parts) for parts in zip(*_pairs(model, splice, batches), strict=True))
    return x, target if splice.target != splice.site else None


def _reconstructed(
    model: Model, rows: Mapping[str, tuple[Dictionary, str, str]], spliced: Mapping[str, Splice], batches: list[Batch]
) -> xr.Dataset:
    """Measures of states, one pass for each site."""
    groups: dict[tuple[str, str], dict[str, Dictionary]] = {}
    for name, (one, _, of) in rows.items():
        groups.setdefault((str(spliced[of].site), str(spliced[of].target)), {})[name] = one
    tables = []
    for several in groups.values():
        splice = spliced[rows[next(iter(several))][2]]
        x, target = _states(model, splice, batches)
        tables.append(reconstruction_measures(several, x, target))
    return cast(xr.Dataset, xr.concat(tables, "dictionary", join="outer", combine_attrs="drop", data_vars="all"))


def _frontier(l0: np.ndarray, loss: np.ndarray, trained: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Which trained rows no other trained row of their site beats: nowhere worse, and better in one."""
    worse = (l0[:, None] >= l0) & (loss[:, None] >= loss) & ((l0[:, None] > l0) | (loss[:, None] > loss))
    rivals = trained & (sites[:, None] == sites)
    return trained & ~(worse & rivals).any(1)
