"""How flat the loss is around a model's weights: the local learning coefficient, by walks that start there (5.4.13).

    coefficient = n b (E L(w) - L(w*)),      w ~ exp(-n b L(w) - g/2 |w - w*|²),      b = 1 / log n

L is the mean loss of n samples and w* the model's weights (Lau et al. 2023). Where L is quadratic in all d weights and
n is large it is d / 2; each direction in which L is flatter counts less: 1 / (2k) where it grows as w^(2k). Walks are
of Langevin steps on some of the prompts,

    w <- w - e/2 (n b grad L_some(w) + g (w - w*)) + N(0, e)

and L(w) - L(w*) is of the same prompts, whose choice then hardly matters. Steps have a length: along a direction of
curvature h a walk spreads 1 / (1 - e (n b h + g) / 4) times too far, and beyond 4 / e it leaves for infinity.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.parameters import expect_own_numbers
from caseback.model.loading.load import load
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, expect_logits, loss
from caseback.model.running.model import Model
from caseback.model.running.run import inputs_of
from caseback.model.running.tokens import PromptsLike, Tokens

Losses = Callable[[Int[Tensor, " row"]], Float[Tensor, " row"]]
"""The losses of some prompts, with a graph to the weights."""


@dataclass(frozen=True)
class Walk:
    """How weights are drawn.

    Attributes
    ----------
    n_beta
        n b, what the mean loss is multiplied with.
    lr, localization
        e and g.
    burn_in, steps
        How many steps are not counted, and how many are.
    batch_size
        Prompts a step.
    """

    n_beta: float
    lr: float
    localization: float
    burn_in: int
    steps: int
    batch_size: int

    def excess(
        self,
        weights: Sequence[Tensor],
        losses: Losses,
        start: Float[Tensor, " row"],
        generator: torch.Generator,
        each_step: Callable[[], object] = lambda: None,
    ) -> Float[Tensor, " step"]:
        """The mean loss less that at the start, at every step that counts; the weights are left as they were."""
        origin = [weight.detach().clone() for weight in weights]
        excess = []
        try:
            for _ in range(self.burn_in + self.steps):
                some = torch.randperm(len(start), generator=generator)[: self.batch_size]
                value = losses(some).mean()
                excess.append(value.detach() - start[some].mean())
                gradients = torch.autograd.grad(value, weights)
                with torch.no_grad():
                    for weight, gradient, at in zip(weights, gradients, origin, strict=True):
                        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
                        pull = self.n_beta * gradient + self.localization * (weight - at)
                        weight.add_(pull, alpha=-self.lr / 2).add_(noise, alpha=math.sqrt(self.lr))
                each_step()
        finally:
            with torch.no_grad():
                for weight, at in zip(weights, origin, strict=True):
                    weight.copy_(at)
        return torch.stack(excess[self.burn_in :])


@technique(
    entry=("5.4.13", "B.39"),
    citation="Lau et al. 2023; Hoogland et al. 2024",
    cost="chains x (burn_in + steps) x a forward and a backward of batch_size prompts",
)
def learning_coefficient(
    model: Model,
    tokens: PromptsLike,
    metric: Metric | None = None,
    *,
    within: Sequence[str] | None = None,
    n_beta: float | None = None,
    lr: float | None = None,
    localization: float = 100.0,
    burn_in: int = 200,
    steps: int = 200,
    batch_size: int = 32,
    chains: int = 4,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """How flat the loss is around a model's weights: the local learning coefficient.

        n b (E L(w) - L(w*)),   w ~ exp(-n b L(w) - g/2 |w - w*|²)

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The loss is minus it, so that
        ``cb.log_prob(answers)`` gives the surprise at answers; by default it is that at all of a prompt's next tokens.
    within
        Names of parameters, or beginnings of them, that move while all others stand still ("transformer.h.1"): the
        coefficient of a part (Wang et al. 2024). By default all move.
    n_beta
        n b; by default n / log n for n tokens that are predicted, or n prompts where there is a metric. (Some count
        rows of text as samples: walks then go farther.) Coefficients compare only at the same one.
    lr
        e, the variance of a step's noise; by default .1 / n_beta, by which a direction of curvature 1 is walked 2.5 %
        too far.
    localization
        g, how strongly walks are held at the model's weights.
    burn_in, steps
        Steps of each walk that are not counted, and that are.
    batch_size
        Prompts a step; no more than there are.
    chains
        Walks, each of a draw of its own.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. Of finished walks.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``excess`` (chain, step), L(w) - L(w*) in the metric's unit, from which one sees whether walks have settled;
        ``coefficient`` (chain). Attributes: ``loss`` L(w*), ``n_beta``, ``n_weights`` that moved, and the options. A
        coefficient below 0 says that the weights are no minimum.

    Raises
    ------
    OutOfRange
        For options that are no numbers above 0.
    TargetError
        For a metric of a site.
    CasebackError
        For a model under edits, fewer than two prompts, a name of no parameter, and walks that left for infinity.

    References
    ----------
    Lau et al. 2023, "The local learning coefficient: a singularity-aware complexity measure". Hoogland et al. 2024,
    "Loss landscape degeneracy and stagewise development in transformers". Wang et al. 2024, "Differentiation and
    specialization of attention heads via the refined local learning coefficient".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.organisms.repeats.words import texts
    >>> found = learning_coefficient(cb.load("induction"), texts(8), chains=2, burn_in=2, steps=3, batch_size=4)
    >>> dict(found.sizes), found.attrs["n_weights"]
    ({'chain': 2, 'step': 3}, 50944)
    """
    if model.anatomy.standing:
        raise CasebackError("this model stands under edits, and walks are of weights: give the model itself")
    if metric is not None:
        expect_logits(metric, "a learning coefficient")
    whole = model.tokens(tokens)
    n = len(whole)
    if n < 2:
        raise CasebackError(f"{n} prompt: expected two or more, whose mean loss the coefficient is of")
    if n_beta is None:
        samples = n if metric is not None else max(2, int((whole.lengths - 1).sum()))
        n_beta = samples / math.log(samples)
    if not 0 < n_beta < math.inf:
        raise OutOfRange(f"n_beta={n_beta}: expected a number above 0")
    walk = Walk(n_beta, 0.1 / n_beta if lr is None else lr, localization, burn_in, steps, min(batch_size, n))
    _expect_numbers(walk, chains)
    twin, moving = _movable(model, within)
    about = {"metric": "loss" if metric is None else metric.name, **vars(walk), "chains": chains, "seed": seed}
    depends_on = {"model": model, "tokens": whole, "metric": metric, "options": [*about.values(), sorted(moving)]}
    file = Checkpoint(checkpoint, depends_on, what="state of a learning coefficient", other="is of another one")
    saved = file.read()
    done = [] if saved is None else [*saved.tensors["excess"]]
    losses = _losses(twin, whole, metric)
    with torch.no_grad():
        at_once = max(1, limit("stream_tokens", twin.device) // whole.shape[1])
        start = torch.cat([losses(rows) for rows in torch.arange(n).split(at_once)])
    with progress_bar(
        total=chains * (burn_in + steps), initial=len(done) * (burn_in + steps), show=progress, what="walks"
    ) as bar:
        for chain in range(len(done), chains):
            draw = torch.Generator().manual_seed(seed * 1_000_003 + chain)
            excess = walk.excess(list(moving.values()), losses, start, draw, bar.update).cpu()
            if not bool(excess.isfinite().all()):
                raise CasebackError(f"walk {chain + 1} left for infinity: lower lr={walk.lr}, or raise localization")
            done.append(excess)
            file.write({"excess": torch.stack(done)})
    excess = torch.stack(done)
    about |= {
        "loss": float(start.mean()),
        "n_prompts": n,
        "n_weights": sum(weight.numel() for weight in moving.values()),
    }
    both = {"excess": (excess, ["chain", "step"]), "coefficient": (n_beta * excess.mean(1), ["chain"])}
    return xr.Dataset(
        {
            name: labelled(values, dims, technique=learning_coefficient, model=model, **about)
            for name, (values, dims) in both.items()
        },
        attrs=about,
    )


def _expect_numbers(walk: Walk, chains: int) -> None:
    if not 0 < walk.lr < math.inf or not 0 <= walk.localization < math.inf:
        raise OutOfRange(
            f"lr={walk.lr}, localization={walk.localization}: expected a number above 0, and one that is not below"
        )
    if min(walk.steps, walk.batch_size, chains) < 1 or walk.burn_in < 0:
        raise OutOfRange(
            f"burn_in={walk.burn_in}, steps={walk.steps}, batch_size={walk.batch_size}, chains={chains}: expected 1 or "
            "more, and no negative burn_in"
        )


def _movable(model: Model, within: Sequence[str] | None) -> tuple[Model, dict[str, nn.Parameter]]:
    """A copy of the model in float32 at least, in which only the weights that move have gradients, and these by name.

    Raises
    ------
    CasebackError
        For a name of no parameter.
    """
    expect_own_numbers(model.hf, "a walk of the weights")
    wide = torch.promote_types(model.dtype, torch.float32)
    twin = load(copy.deepcopy(model.hf).to(wide).eval(), tokenizer=model.tokenizer)
    own = dict(twin.hf.named_parameters())
    for begin in within or ():
        if not any(name == begin or name.startswith(f"{begin}.") for name in own):
            raise CasebackError(f"no parameter is called {begin!r}. {did_you_mean(begin, own, most=6)}")
    for name, weight in own.items():
        moves = within is None or any(name == begin or name.startswith(f"{begin}.") for begin in within)
        weight.requires_grad_(moves and weight.numel() > 0)
    return twin, {name: weight for name, weight in own.items() if weight.requires_grad}


def _losses(twin: Model, whole: Tokens, metric: Metric | None) -> Losses:
    measure, sign = (loss(), 1) if metric is None else (metric, -1)
    bound = measure.on(whole, twin.anatomy)
    measure = replace(measure, bind=lambda *_: bound)  # targets become ids once, not at every step

    def of(rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        part = whole[rows]
        logits = logits_of(twin.hf, inputs_of(part, twin.hf))
        return sign * measure.of_rows(whole, rows).on(part, twin.anatomy).of_logits(logits)

    return of
