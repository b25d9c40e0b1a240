"""Two runs for estimates: the one that is patched, with the metric's gradients, and the one that patches come from.

The corrupt prompts are moved into the columns of the clean ones, so that the two runs' activations subtract. A metric
that has no gradient, or a zero gradient at the run that is patched, is refused: every estimate from it would be zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.pairs import pairs
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

DIRECTIONS = ("noising", "denoising")
EMBED = Site("embed")


@dataclass(frozen=True)
class RunPair:
    """The run that is patched and the run that the patch comes from, with the metric of both."""

    base: Run
    base_metric: Float[Tensor, " batch"]
    """With its graph."""
    source: Run | None
    """None where zeros are patched in."""
    source_value: Float[Tensor, " batch"] | None
    direction: str
    metric: Metric
    """Of the base run's prompts."""
    first: int = 0
    """The number of the first of these prompts, for messages."""

    def coords(self) -> dict[str, Any]:
        """Each prompt's tokens and metric, clean and corrupt, as coordinates of results."""
        width = self.base.tokens.shape[1]
        runs = [(self.base.tokens, self.base_metric.detach())]
        if self.source is not None and self.source_value is not None:
            runs.append((self.source.tokens, self.source_value))
        names = ("clean", "corrupt") if self.direction == "noising" else ("corrupt", "clean")
        coords: dict[str, Any] = {}
        for name, (tokens, value) in zip(names, runs, strict=False):
            coords[name] = ("batch", value.cpu().double())
            coords[f"{name}_token"] = (("batch", "pos"), [row + [""] * (width - len(row)) for row in tokens.text])
        return coords

    def gradients(self, at: Sequence[Site], *, retain: bool = False, pull: bool = True) -> Run:
        """The metric's gradients at the base run; ``retain`` and ``pull`` as for ``Run.grad``.

        Raises
        ------
        CasebackError
            Where there is no gradient, or it is zero on a prompt.
        """
        values, metric = self.base_metric, self.metric
        last = Site("resid_post", self.base.anatomy.n_layers - 1)
        at = list(at) if last in at or last not in self.base else [*at, last]
        expect_gradient(metric, values)
        gradients = self.base.grad(values, at, retain=retain, pull=pull)
        if last in gradients and not metric.reads:  # of a metric of a site nothing past that site has a gradient
            _expect_slope(metric, values, gradients[last.key], self.first)
        return gradients


def run_pair(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    read: Sequence[Site],
    direction: str,
    *,
    grad: bool,
    slopes: Sequence[Site] = (),
) -> RunPair:
    """Run both prompts of each pair, reading some sites; with ``grad`` the run that is patched keeps its graph.

    ``slopes`` are sites that it reads besides, for gradients there.
    """
    base, source = base_and_source(model, clean, corrupt, direction)
    everyone = slice(0, len(base))
    return run_rows(model, base, source, metric, everyone, read, direction, grad=grad, slopes=slopes)


def run_rows(
    model: Model,
    base: Tokens,
    source: Tokens | None,
    metric: Metric,
    rows: slice,
    read: Sequence[Site],
    direction: str,
    *,
    grad: bool,
    slopes: Sequence[Site] = (),
) -> RunPair:
    """As ``run_pair``, of some of the prompts that ``base_and_source`` gave; the metric is one of all of them."""

    def of_rows(tokens: Tokens) -> tuple[Tokens, Metric]:
        whole = rows == slice(0, len(tokens))
        return (tokens, metric) if whole else (tokens[rows], metric.of_rows(tokens, rows))

    other = other_value = None
    if source is not None:
        other, other_value = measured(model.anatomy, *of_rows(source), read=read)
    part, mine = of_rows(base)
    run, value = measured(model.anatomy, part, mine, read=[*read, *slopes], grad=grad)
    return RunPair(run, value, other, other_value, direction, mine, rows.start or 0)


def joined(coords: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The coordinates of pairs that were run some at a time, one after another."""
    whole: dict[str, Any] = {}
    for name, (dims, first) in coords[0].items():
        parts = [part[name][1] for part in coords]
        whole[name] = dims, torch.cat(parts) if isinstance(first, Tensor) else [row for part in parts for row in part]
    return whole


def expect_gradient(metric: Metric, values: Float[Tensor, " batch"]) -> None:
    """Refuse a metric that no gradient flows through."""
    if not values.requires_grad:
        raise CasebackError(
            f"metric {metric.name!r} is not differentiable: its values carry no gradient (argmax, comparisons and "
            "numpy cut it). Attribution patching needs a smooth metric, such as cb.logit_diff(target, foil); an exact "
            "sweep takes any"
        )


def _expect_slope(metric: Metric, values: Tensor, gradient: Float[Tensor, "batch pos d_model"], first: int) -> None:
    """Refuse a metric that is flat at the base run: an estimate from it would be zero whatever the parts do."""
    flat = gradient.flatten(1).abs().amax(1) == 0
    if metric.name == "kl":
        # The KL of a run with itself is rounding error alone, and so is its gradient.
        flat |= values.abs() <= 100 * torch.finfo(at_least_float32(values.detach()).dtype).eps
    if not bool(flat.any()):
        return
    which = (flat.nonzero()[:, 0] + first).tolist()
    why = (
        "a KL divergence has its minimum on its own reference, where its gradient is zero"
        if metric.name == "kl"
        else "it is flat there, as what counts or rounds is"
    )
    raise CasebackError(
        f"metric {metric.name!r} has no gradient at the run to be patched (prompts {which}): {why}. Take a task metric "
        "such as cb.logit_diff(target, foil), or differentiate elsewhere: direction='denoising', or steps=5 for "
        "gradients between the two runs"
    )


@overload
def base_and_source(
    model: Model, clean: PromptsLike, corrupt: PromptsLike, direction: str
) -> tuple[Tokens, Tokens]: ...
@overload
def base_and_source(
    model: Model, clean: PromptsLike, corrupt: PromptsLike | None, direction: str
) -> tuple[Tokens, Tokens | None]: ...
def base_and_source(
    model: Model, clean: PromptsLike, corrupt: PromptsLike | None, direction: str
) -> tuple[Tokens, Tokens | None]:
    """The prompts that are patched and those that patches come from, in the same columns; the latter None for zeros.

    Raises
    ------
    CasebackError
        For a direction that is neither ``"noising"`` nor ``"denoising"``.
    TokensError
        For pairs that are not token-aligned.
    """
    if direction not in DIRECTIONS:
        raise CasebackError(f"direction {direction!r} is unknown. {did_you_mean(direction, DIRECTIONS)}")
    if corrupt is None:
        return model.tokens(clean), None
    clean, other = pairs(model, clean, corrupt)
    ids = clean.ids.masked_scatter(clean.mask, other.ids[other.mask])
    other = Tokens(ids, clean.mask, other.text)
    return (clean, other) if direction == "noising" else (other, clean)
