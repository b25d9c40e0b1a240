"""A function as what one MLP adds: o of prompts that apply it, put where the argument alone stands (PRIMER 5.4.16).

    o_l     mean over few-shot prompts of layer l's MLP output at the last token      Spain: Madrid ... Italy:
    put     mlp_out[l] + f o_l  at the last token of prompts that copy                Spain: Spain ... France:
    answer  f(argument) = Paris in place of the argument, France

Beside each layer's stand random vectors of its norm, and the same layer's o of prompts that copy. Means are of one half
of the pairs, and the queries of the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from caseback.behaviors.mechanisms.choices import says
from caseback.behaviors.mechanisms.shots import SHOT, halves, shots_of
from caseback.edit.places import pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Add
from caseback.model.running.metrics import log_prob
from caseback.model.running.model import Model

VECTORS = ("function", "copying")
SITE = "mlp_out"
LEAST = 4
"""Prompts that vectors are the mean of, and that they are judged on."""


@technique(
    entry=("5.4.16",),
    citation="Merullo et al. 2023",
    cost="three forwards, and two sweeps of layers x (2 + draws) at the last token",
)
def argument_function(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    shots: int = 5,
    shot: str = SHOT,
    prompts: int = 20,
    factor: float = 1.0,
    draws: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Add what each layer's MLP writes where a function is applied to prompts that only copy its argument.

    Parameters
    ----------
    model
        The model.
    pairs
        Words and what the function makes of them. Vectors are of one half of them, judged on the other.
    shots
        Examples in a prompt, at least 2.
    shot
        How an example is written, with what parts it from the next: a text with ``{input}`` and ``{output}``.
    prompts
        Few-shot prompts that vectors are the mean of, and as many that they are added to; 4 or more.
    factor
        What vectors are multiplied by; 1 is what the MLP wrote.
    draws
        Random vectors of each layer's norm.
    seed
        Same seed, same result. Splits the pairs, and draws examples and vectors.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``log_prob`` and ``says`` (variant, layer, batch) with the vector of each layer added there, ``variant`` being
        the ``function``'s and that of prompts that copy: the answer's log probability in nats, and 1 where the first
        choice is the answer, 2 where it is the argument, 0 otherwise. ``log_prob_control`` and ``says_control`` (draw,
        layer, batch) with random vectors. Beside them the ``argument`` and the ``answer``, and ``plain`` and
        ``plain_says``, both measures without any vector. The attributes ``shown`` and ``copied`` are the shares of
        few-shot prompts of the function, and of copying, that are answered rightly: where they are low, there is
        nothing to carry.

    Raises
    ------
    OutOfRange
        For too few pairs, prompts, shots or draws.
    CasebackError
        For a factor that is 0, or words that begin with the same token as what the function makes of them.

    References
    ----------
    Merullo et al. 2023, "Language models implement simple word2vec-style vector arithmetic".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.standard.shots import FUNCTIONS
    >>> added = argument_function(cb.load("meadow"), FUNCTIONS["language"], prompts=8, draws=2)
    >>> added["log_prob"].dims, added.sizes["layer"]
    (('variant', 'layer', 'batch'), 4)
    """
    if prompts < LEAST or draws < 0:
        raise OutOfRange(f"{prompts} prompts, {draws} draws: expected {LEAST} prompts or more, and 0 draws or more")
    if not factor:
        raise CasebackError("a factor of 0 adds nothing: expected another number")
    own, held = halves(pairs, shots, seed)
    copies = [(given, given) for given, _ in own]
    applied = shots_of(model, own, own, prompts, shots, shot, seed)
    copying = shots_of(model, copies, copies, prompts, shots, shot, seed)
    asked = shots_of(model, [(given, given) for given, _ in held], copies, prompts, shots, shot, seed + 1)
    vectors, right = [], []
    for some in (applied, copying):
        run = model.run(some.prompts.clean, read=[SITE])
        rows, at = torch.arange(len(some)), some.prompts.clean.column(-1)
        vectors.append(torch.stack([run[SITE, i][rows, at].mean(0) for i in range(model.n_layers)]))
        right.append(float(some.is_first(run).mean()))
    outputs = dict(held)
    answers = [outputs[pair.group] for pair in asked.prompts.pairs]
    ids = [piece[0] for piece in pieces_of(model, answers)]
    differ = [i for i, row in enumerate(asked.prompts.target) if row[0] != ids[i]]
    if len(differ) < LEAST:
        raise CasebackError("words and what the function makes of them begin with the same token: expected others")
    judged, ids, answers = asked.prompts[differ], [ids[i] for i in differ], [answers[i] for i in differ]
    draw = torch.Generator().manual_seed(seed)
    random = torch.randn(draws, *vectors[0].shape, generator=draw, dtype=torch.float64).to(vectors[0])
    random *= vectors[0].norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
    variants = [
        Add(SITE, layer=i, pos=-1, value=factor * one) for of in (*vectors, *random) for i, one in enumerate(of)
    ]
    metrics = {"log_prob": log_prob(ids), "says": says(ids, [row[0] for row in judged.target])}
    swept = {name: model.sweep(judged.clean, variants, one, progress=progress) for name, one in metrics.items()}
    beside: dict[str, Any] = {
        "argument": [pair.group for pair in judged.pairs],
        "answer": answers,
        "plain": swept["log_prob"]["clean"].values,
        "plain_says": swept["says"]["clean"].values,
    }
    coords: dict[str, Any] = {"variant": list(VECTORS), "layer": list(range(model.n_layers))}
    coords |= {at: ("batch", of) for at, of in beside.items()}
    arrays: dict[str, tuple[Any, list[str]]] = {}
    for name, values in swept.items():
        table = values.values.reshape(2 + draws, model.n_layers, len(judged))
        arrays[name] = table[:2], ["variant", "layer", "batch"]
        arrays[f"{name}_control"] = table[2:], ["draw", "layer", "batch"]
    about = {"shown": right[0], "copied": right[1], "shots": shots, "factor": factor, "draws": draws, "seed": seed}
    return labelled_set(arrays, coords, technique=argument_function, model=model, **about)
