"""Request patching: what is asked for, moved from one prompt's last token to another's (PRIMER 5.4.2, ORION).

    source     The capital of Italy is         request A, context X -> Rome
    receiver   The people of France speak      request B, context Y -> French
    patched    resid_post[l] at the receiver's last token = the source's  ->  A on Y: Paris, which neither prompt gives

Behind the layers that process the request and before those that retrieve from the context, the third answer comes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.behaviors.mechanisms.choices import says
from caseback.edit.places import pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import is_first, prob
from caseback.model.running.model import Model
from caseback.tasks.passages import PASSAGES

SOURCES = ("request", "same request", "unrelated text")
SITE = "resid_post"
LEAST = 4
"""Pairs of prompts: half of them are chosen on, half are judged on."""


@technique(
    entry=("5.4.2",),
    citation="Variengien & Winsor 2023",
    cost="four forwards, and two sweeps of layers x 3 at the last token",
)
def request_patching(
    model: Model,
    requests: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    count: int = 40,
    unrelated: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Put the last token's state of one request into prompts with another, layer by layer.

    Parameters
    ----------
    model
        The model.
    requests
        Two or more texts with ``{}``, where the context goes; each ends where its answer begins.
    contexts
        What the requests are about: a word, or a whole passage.
    answers
        Of each context, the answer to each request; of an answer of several tokens the first counts.
    count
        How many pairs of prompts are drawn at most, among those whose own answers, and the third, the model gives
        and which differ.
    unrelated
        Texts that ask for none of this, whose last tokens stand beside. None: beginnings of short stories.
    seed
        Same seed, same result. Draws the pairs, and texts.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``says`` (variant, layer, batch): 1 where the first choice is the source's request on the receiver's context, 2
        where it is the source's own answer, 3 where it is the receiver's own, 0 otherwise; ``prob`` (variant, layer,
        batch), the probability of the first of these. ``variant`` is whose state is put there: the ``request``, and for
        comparison the source's context under the receiver's request (``same request``) and an ``unrelated text``.
        Beside them ``source``, ``receiver``, the three answers (``third``, ``own``, ``other``), ``pair`` (the two
        requests), and ``judged``, the half that no layer is to be chosen on.

    Raises
    ------
    CasebackError
        For requests without a place for the context, answers that do not fit, or fewer than 4 pairs that the model
        answers.
    OutOfRange
        If fewer than 4 pairs are asked for.

    References
    ----------
    Variengien & Winsor 2023, "Look before you leap: a universal emergent decomposition of retrieval tasks in language
    models".

    Examples
    --------
    >>> import caseback as cb
    >>> answers = [["Rome", "Italian"], ["Paris", "French"], ["Madrid", "Spanish"], ["Berlin", "German"]]
    >>> countries = ["Italy", "France", "Spain", "Germany"]
    >>> asked = ["The capital of {} is", "The language of {} is"]
    >>> patched = request_patching(cb.load("meadow"), asked, countries, answers, count=8)
    >>> patched["says"].dims, patched.sizes["batch"]
    (('variant', 'layer', 'batch'), 8)
    """
    _expect(requests, contexts, answers, unrelated, count)
    texts = [request.replace("{}", context) for context in contexts for request in requests]
    ids = [piece[0] for piece in pieces_of(model, [answer for row in answers for answer in row])]
    run = model.run(model.tokens(texts), read=[SITE])
    right = is_first(ids)(run).tolist()
    cell = lambda context, request: context * len(requests) + request  # noqa: E731
    pairs = [
        (x, a, y, b)
        for x in range(len(contexts))
        for y in range(len(contexts))
        for a in range(len(requests))
        for b in range(len(requests))
        if x != y
        and a != b
        and right[cell(x, a)]
        and right[cell(y, b)]
        and right[cell(y, a)]
        and len({ids[cell(x, a)], ids[cell(y, b)], ids[cell(y, a)]}) == 3
    ]
    if len(pairs) < LEAST:
        raise CasebackError(
            f"the model answers {int(sum(right))} of {len(texts)} prompts rightly, which make {len(pairs)} pairs of "
            f"requests with three different answers: expected {LEAST} or more. Give contexts that it knows"
        )
    some = random.Random(f"pairs {seed}").sample(pairs, min(count, len(pairs)))
    third, own, other = (
        [cell(y, a) for _, a, y, _ in some],
        [cell(x, a) for x, a, _, _ in some],
        [cell(y, b) for _, _, y, b in some],
    )
    at = run.tokens.column(-1)
    states = [run[SITE, i][torch.arange(len(texts)), at] for i in range(model.n_layers)]
    given = _states(model, states, own, [cell(x, b) for x, _, _, b in some], unrelated, seed)
    variants = [Replace(SITE, layer=i, pos=-1, value=value) for kind in given for i, value in enumerate(kind)]
    receivers = model.tokens([texts[i] for i in other])
    metrics = {
        "says": says(*([ids[i] for i in which] for which in (third, own, other))),
        "prob": prob([ids[i] for i in third]),
    }
    words = [answer for row in answers for answer in row]
    coords: dict[str, Any] = {"variant": list(SOURCES), "layer": list(range(model.n_layers))}
    beside: dict[str, Any] = {
        **{name: [texts[i] for i in which] for name, which in (("source", own), ("receiver", other))},
        **{name: [words[i] for i in which] for name, which in (("third", third), ("own", own), ("other", other))},
        "pair": [f"{requests[a]} → {requests[b]}" for _, a, _, b in some],
        "judged": [i >= len(some) // 2 for i in range(len(some))],
    }
    arrays = {
        name: labelled(
            model.sweep(receivers, variants, metric, progress=progress).values.reshape(
                len(SOURCES), model.n_layers, len(some)
            ),
            ["variant", "layer", "batch"],
            coords | {key: ("batch", of) for key, of in beside.items()},
            name=name,
            technique=request_patching,
            model=model,
            known=int(sum(right)),
            asked=len(texts),
            seed=seed,
        )
        for name, metric in metrics.items()
    }
    return xr.Dataset(arrays, attrs=arrays["says"].attrs)


def _expect(
    requests: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Sequence[str]],
    unrelated: Sequence[str] | None,
    count: int,
) -> None:
    if len(requests) < 2 or any(text.count("{}") != 1 for text in requests):
        raise CasebackError(f"requests {list(requests)!r}: expected two or more texts with {{}} once each")
    if len({*requests}) < len(requests):
        raise CasebackError("a request that is given twice: expected different ones, or no answer is a third one")
    if any(text.endswith("{}") for text in requests):
        raise CasebackError("a request that ends with its context: expected the request behind it, to be answered")
    if len(answers) != len(contexts) or any(len(row) != len(requests) for row in answers):
        raise CasebackError(
            f"{len(answers)} rows of answers for {len(contexts)} contexts: expected one for each, with an answer to "
            f"each of {len(requests)} requests"
        )
    if unrelated is not None and not unrelated:
        raise CasebackError("no unrelated text: expected one or more, or None")
    if count < LEAST:
        raise OutOfRange(f"count={count}: expected {LEAST} pairs or more")


def _states(
    model: Model, states: list[Tensor], own: list[int], same: list[int], unrelated: Sequence[str] | None, seed: int
) -> list[list[Tensor]]:
    """(source, layer) the last token's states: of the source prompts, of the same request there, of other texts."""
    rng = random.Random(f"texts {seed}")
    if unrelated is None:
        words = [rng.choice(PASSAGES).split() for _ in own]
        # not at a sentence's end, where any text goes on as it likes
        plain = [" ".join(text[: rng.randrange(6, len(text) - 1)]).rstrip(".,") for text in words]
    else:
        plain = [rng.choice(list(unrelated)) for _ in own]
    run = model.run(model.tokens(plain), read=[SITE])
    rows, at = torch.arange(len(plain)), run.tokens.column(-1)
    beside = [run[SITE, i][rows, at] for i in range(len(states))]
    return [[state[own] for state in states], [state[same] for state in states], beside]
