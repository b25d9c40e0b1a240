"""Concept scrubbing: erase at every layer, each fitted to states from which the concept is already gone below.

    for l = 0, 1, ...:    r_l fitted to x_l of a run under r_0 .. r_{l-1}

A concept that is erased at one layer comes back: later layers read it again at other positions, or from what a branch
had read before. Erasers that were all fitted to the clean run do not fit the run in which they are all put.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from caseback.decode.erasure.eraser import Eraser, joined
from caseback.decode.erasure.leace import leace
from caseback.decode.probes.splits import listed_values
from caseback.decode.states import States, read_states
from caseback.errors import CasebackError
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import SITES, Site
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model
from caseback.model.running.run import sites_read
from caseback.model.running.tokens import PromptsLike

_ORDER = {name: number for number, name in enumerate(SITES)}


@technique(
    entry=("4.2.6",),
    citation="Belrose et al. 2023",
    cost="for each site one pass over the prompts up to its layer: half as many forwards as layers for the stream",
)
def scrub(
    model: Model,
    prompts: PromptsLike,
    labels: Sequence[Any] | Tensor | np.ndarray,
    *,
    sites: str | Sequence[Any] = "resid_post",
    pos: Positions = None,
    fit: Callable[..., Any] = leace,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> Eraser:
    """Erase a concept at many sites in the order in which the model computes them.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts, as ``Tokens`` or anything that ``Model.tokens`` takes.
    labels
        A label for each prompt, which all its positions have, or for each position that is read, prompt by prompt.
    sites
        ``"resid_post"`` is all its layers. At a site with heads each head is erased by itself.
    pos
        Positions of each prompt from which it is erased; all by default.
    fit
        From ``States`` and labels to an ``Eraser``: ``leace``, or ``functools.partial(leace, shrinkage=False)``.
    batch_tokens
        Tokens of a pass, padding included; by default as the budget has it.
    progress
        Show a progress bar.

    Returns
    -------
    Eraser
        Of all places; its ``edits(pos)`` belong together. ``checks`` are of the states that each was fitted to.

    Raises
    ------
    CasebackError
        For sites whose order is not known, positions that no prompt has, counts that do not fit, and as ``fit``.

    Notes
    -----
    Entry 4.2.6, concept scrubbing: Belrose et al. 2023. A pass ends at the layer that it reads. All states of one site
    are held at a time.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> names = {"Mary": "she", "Anna": "she", "John": "he", "Tom": "he"}
    >>> texts = [f"{name} went to the {place}" for name in names for place in ("store", "park", "house")]
    >>> who = [names[text.split()[0]] for text in texts]
    >>> eraser = scrub(model, texts, who, pos=-1)
    >>> eraser.names, eraser.rank, max(eraser.checks["left"]) < 1e-12
    (['resid_post.0', 'resid_post.1', 'resid_post.2', 'resid_post.3'], 1, True)
    """
    tokens = model.tokens(prompts)
    listed = listed_values(labels, "labels")
    parts: list[Eraser] = []
    below: list[Any] = []
    for site in progress_bar(_in_order(model, sites), "scrub", show=progress, unit="site"):
        states = read_states(model.edited(below), tokens, sites=[site], pos=pos, batch_tokens=batch_tokens)
        own = fit(states, labels_of(states, listed, len(tokens)))
        if not isinstance(own, Eraser):
            raise CasebackError(f"fit gave a {type(own).__name__}: expected an Eraser, as leace gives it")
        parts.append(own)
        below += own.edits(pos)
    return joined(parts, f"scrubbed by {parts[0].method}")


def labels_of(states: States, labels: list[Any], n_prompts: int) -> list[Any]:
    """A label for each example of some states, of those of prompts or of examples.

    Raises
    ------
    CasebackError
        For another number of labels than of prompts and of examples.
    """
    if len(labels) == n_prompts:
        return [labels[prompt] for prompt in states.prompt.tolist()]
    if len(labels) != states.x.shape[1]:
        raise CasebackError(
            f"{len(labels)} labels for {n_prompts} prompts with {states.x.shape[1]} positions: expected one for each "
            "prompt, or for each position"
        )
    return labels


def _in_order(model: Model, sites: Any) -> list[Site]:
    """Sites as the model computes them.

    Raises
    ------
    CasebackError
        For a module's path, of which it is not known.
    """
    read = list(dict.fromkeys(sites_read(model.anatomy, sites)))
    if not read:
        raise CasebackError("no sites are given: expected one at least, such as 'resid_post'")
    if unknown := [site for site in read if site.base.name not in _ORDER]:
        raise CasebackError(f"when {unknown[0]} is computed among other sites is not known: give sites by their names")

    def when(site: Site) -> tuple[int, int]:
        name = site.base.name
        ends = -1 if name in ("embed", "pos_embed") else model.n_layers
        return ends if site.layer is None else site.layer, _ORDER[name]

    return sorted(read, key=when)
