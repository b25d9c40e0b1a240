"""Concept scrubbing: erase at every layer, each fitted to states from which the concept is already gone below.

    for l = 0, 1, ...:    r_l fitted to x_l of a run under r_0 .. r_{l-1}

A concept that is erased at one layer comes back: later layers read it again at other positions, or from what a branch
had read before. Erasers that were all fitted to the clean run do not fit the run in which they are all put.

All prompts go through the model together, layer by layer: between two layers their streams are held, the eraser is
fitted, and the next layer starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.decode.erasure.eraser import Eraser, joined
from caseback.decode.erasure.leace import leace
from caseback.decode.probes.splits import listed_values
from caseback.decode.states import States, batches_at, pos_of, read_by
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import SITES, Site
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model
from caseback.model.running.run import Run, sites_read
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.user_hooks import expect_no_user_hooks
from caseback.model.sweeping.one_layer import through_layer

_ORDER = {name: number for number, name in enumerate(SITES)}


@technique(
    entry=("4.2.6",),
    citation="Belrose et al. 2023",
    cost="one forward of the prompts for the stream; at other sites each layer is run once for each of its sites, and "
    "once more to go on",
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
        For sites whose order is not known, positions that no prompt has, counts that do not fit, a forward hook of the
        caller's on a layer, and as ``fit``.

    Notes
    -----
    Entry 4.2.6, concept scrubbing: Belrose et al. 2023. All states of one site are held at a time, and the streams of
    all prompts, which are kept in temporary files where they take more than the limit ``held_stream_bytes`` or half of
    the free memory.

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
    tokens = model.tokens(prompts).padded_on("right")
    listed = listed_values(labels, "labels")
    steps = _steps(model, sites)
    how = {"pos": pos, "reduce": None, "batch_tokens": batch_tokens, "progress": False}
    parts: list[Eraser] = []
    with TemporaryDirectory() as folder:
        walk = _Walk(model, tokens, pos, batch_tokens, Path(folder))
        for layer, site, onward in progress_bar(steps, "scrub", show=progress, unit="step"):
            if site is None:
                walk.on(layer)
                continue
            states = read_by(model, tokens, [site], partial(walk.run, layer, onward), how)
            own = fit(states, labels_of(states, listed, len(tokens)))
            if not isinstance(own, Eraser):
                raise CasebackError(f"fit gave a {type(own).__name__}: expected an Eraser, as leace gives it")
            parts.append(own)
            walk.fresh = [own] if onward else [*walk.fresh, own]
    return joined(parts, f"scrubbed by {parts[0].method}")


class _Walk:
    """All prompts on their way through the layers.

    Attributes
    ----------
    fresh
        Erasers that the streams, as they are held, have not been through.
    """

    def __init__(self, model: Model, tokens: Tokens, pos: Positions, batch_tokens: int | None, folder: Path):
        layers = {parts.layer for parts in model.anatomy.layers}
        others = [module for module in model.anatomy.modules if module not in layers]
        expect_no_user_hooks(model.anatomy, "scrubbing", called_plainly=others)
        self.model, self.pos, self.fresh = model, pos, list[Eraser]()
        self.batches = batches_at(model, tokens, pos, batch_tokens)
        size = sum(some.ids.numel() for _, some, _ in self.batches) * model.d_model * model.hf.dtype.itemsize
        self.folder = folder if size > limit("held_stream_bytes", model.device, each=1) else None
        self.streams: dict[int, tuple[Tensor, Any]] = {}

    def run(self, layer: int, onward: bool, some: Tokens, rows: Tensor, read: list[Site]) -> Run:
        """One batch through one layer; ``onward`` its stream is then held as it leaves the layer."""
        batch = int(rows[0])
        edits = [edit for own in self.fresh for edit in own.edits(pos_of(self.pos, rows))]
        run, output = through_layer(self.model.anatomy, some, layer, self._entering(batch), read=read, edits=edits)
        if onward:
            several = isinstance(output, tuple | list)
            self.streams[batch] = self._held(batch, output[0] if several else output), output[1:] if several else None
        return run

    def on(self, layer: int) -> None:
        """All batches through a layer, under what is fresh."""
        for rows, some, _ in self.batches:
            self.run(layer, True, some, rows, [])
        self.fresh = []

    def _entering(self, batch: int) -> Any:
        """What the layer before gave, as it gave it."""
        if batch not in self.streams:
            return None
        stream, rest = self.streams[batch]
        stream = stream.to(self.model.device)
        return stream if rest is None else (stream, *rest)

    def _held(self, batch: int, stream: Tensor) -> Tensor:
        if self.folder is None:
            return stream
        path = str(self.folder / str(batch))
        return torch.from_file(path, shared=True, size=stream.numel(), dtype=stream.dtype).view_as(stream).copy_(stream)


def _steps(model: Model, sites: Any) -> list[tuple[int, Site | None, bool]]:
    """Layer and site, and whether the held streams then leave the layer; no site where a step does only that."""
    ordered = _in_order(model, sites)
    stages = [_stage(model, site) for site in ordered]
    steps: list[tuple[int, Site | None, bool]] = []
    for layer in range(-1, stages[-1] + 1):
        own = [site for site, stage in zip(ordered, stages, strict=True) if stage == layer]
        goes_on = 0 <= layer < stages[-1]
        at_end = own[-1:] == [Site("resid_post", layer)]
        steps += [(layer, site, goes_on and at_end and site == own[-1]) for site in own]
        if goes_on and not at_end:
            steps.append((layer, None, True))
    return steps


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

    return sorted(read, key=lambda site: (_stage(model, site), _ORDER[site.base.name]))


def _stage(model: Model, site: Site) -> int:
    """The layer of a site, -1 before the layers and their number behind them."""
    ends = -1 if site.base.name in ("embed", "pos_embed") else model.n_layers
    return ends if site.layer is None else site.layer
