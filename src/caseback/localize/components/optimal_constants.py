"""Optimal ablation: the constant that a component can be replaced with at the least loss (PRIMER 3.2.9, Li & Janson).

    a_c = argmin_a  E_x loss(x | do(c = a))

A mean may be a value that the rest of the model has never met and answers to badly; what is lost with the best constant
is due to the information that the component carries, not to that. The constants of all components are fitted side by
side, one copy of the prompts per component, with Adam in units of each write's standard deviation, from the mean on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.graph.units import Component, Neuron, site_of
from caseback.model.prompts.places import Place, placed
from caseback.model.running.edits import Apply
from caseback.model.running.metrics import Bound, Metric, expect_logits
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class Constants:
    """One constant per component, and what is lost with its mean and with it, on average over the prompts."""

    values: list[Float[Tensor, " *unit"]]
    of_mean: Float[Tensor, " component"]
    of_optimum: Float[Tensor, " component"]


def optimal_constants(
    model: Model,
    tokens: Tokens,
    components: Sequence[Component],
    loss: Metric,
    *,
    pos: Place = None,
    steps: int = 100,
    lr: float = 0.05,
    minibatch: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> Constants:
    """Fit the constant of each component that keeps the loss least when it stands in for the component.

    Parameters
    ----------
    model, tokens
        The model and the prompts that the expectation is over.
    components
        Heads, MLPs and neurons.
    loss
        What is minimized, on average over prompts.
    pos
        Where the constant stands; everywhere by default.
    steps, lr
        Adam's steps and learning rate, the latter in standard deviations of the component's write.
    minibatch, seed
        Prompts in a step, drawn anew for each; all of them where there are no more.
    progress
        Show a progress bar.

    Returns
    -------
    Constants
        Where the fit ends above the mean's loss, the mean is kept.

    Raises
    ------
    CasebackError
        For steps, a rate or a minibatch that are not positive, and for a loss that has no gradient.
    """
    if steps < 1 or lr <= 0 or minibatch < 1:
        raise CasebackError(f"steps={steps}, lr={lr}, minibatch={minibatch}: expected positive numbers")
    spans = placed(pos, tokens)
    copies = max(1, limit("constants_rows") // (min(minibatch, len(tokens)) * tokens.ids.shape[1]))
    values: list[Tensor] = []
    before, after = [], []
    bar = progress_bar(total=steps * -(-len(components) // copies), show=progress, what="optimal constants")
    for start in range(0, len(components), copies):
        fit = _Fit(model, tokens, components[start : start + copies], _bound(loss, tokens, model), spans)
        mean = fit.losses(fit.zeros)
        generator = torch.Generator().manual_seed(seed)
        theta = [z.clone().requires_grad_() for z in fit.zeros]
        adam = torch.optim.Adam(theta, lr=lr)
        for _ in range(steps):
            chosen = torch.randperm(len(tokens), generator=generator)[:minibatch].sort().values
            each = fit.loss(theta, chosen)
            if not each.requires_grad:
                raise CasebackError(f"the loss {loss.name!r} has no gradient: optimal constants need one")
            # a sum over components: each one's loss depends on its own constant alone
            for parameter, grad in zip(theta, torch.autograd.grad(each.mean(1).sum(), theta), strict=True):
                parameter.grad = grad
            adam.step()
            bar.update()
        best = fit.losses([t.detach() for t in theta])
        better = best < mean
        values += fit.constants([torch.where(_column(better, i, t), t.detach(), 0.0) for i, t in fit.numbered(theta)])
        before.append(mean)
        after.append(torch.where(better, best, mean))
    bar.close()
    return Constants(values, torch.cat(before), torch.cat(after))


def _bound(loss: Metric, tokens: Tokens, model: Model) -> Bound:
    expect_logits(loss, "optimal ablation")
    return loss.on(tokens, model.anatomy)


class _Fit:
    """Some components' constants, as offsets ``theta`` from the mean in standard deviations, one tensor per site."""

    def __init__(
        self, model: Model, tokens: Tokens, components: Sequence[Component], bound: Bound, spans: list[list[int]]
    ):
        self.model, self.tokens, self.bound, self.components = model, tokens, bound, list(components)
        self.spans = spans
        self.members: dict[tuple[str, int], list[int]] = {}
        for i, component in enumerate(components):
            self.members.setdefault(site_of(component), []).append(i)
        run = model.run(tokens, read=list(self.members))
        self.center, self.scale = [], []
        for (name, layer), at in self.members.items():
            acts = run[name, layer][tokens.mask]
            mine = torch.stack([self._part(acts, self.components[i]) for i in at])
            self.center.append(mine.mean(1))
            # a component that never varies has nothing to be learned in units of
            self.scale.append(mine.std(1, correction=0).pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-6))
        self.zeros = [torch.zeros_like(c) for c in self.center]

    @staticmethod
    def _part(acts: Tensor, component: Component) -> Tensor:
        """One component's own part of a site, (row, width)."""
        if isinstance(component, Neuron):
            return acts[:, component.neuron, None]
        return acts if component[1] is None else acts[:, component[1]]

    def numbered(self, theta: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
        """Each tensor with the numbers of its components."""
        yield from zip(self.members.values(), theta, strict=True)

    def constants(self, theta: Sequence[Tensor]) -> list[Tensor]:
        """The constants in the components' order, a number for a neuron."""
        constants: dict[int, Tensor] = {}
        for at, values in zip(self.members.values(), self._values(theta), strict=True):
            constants |= {
                i: v[0] if isinstance(self.components[i], Neuron) else v for i, v in zip(at, values, strict=True)
            }
        return [constants[i] for i in range(len(self.components))]

    def _values(self, theta: Sequence[Tensor]) -> list[Tensor]:
        return [c + s * t for c, s, t in zip(self.center, self.scale, theta, strict=True)]

    def loss(self, theta: Sequence[Tensor], chosen: Tensor) -> Float[Tensor, "component batch"]:
        """The loss on some prompts with each component replaced, with its graph."""
        n, tokens = len(self.components), self.tokens
        picked = chosen.to(tokens.ids.device).repeat(n)
        rows = [self.tokens.text[b] for b in picked.tolist()]
        batch = Tokens(tokens.ids[picked], tokens.mask[picked], rows)
        of, here = self._owners(chosen)
        edits = []
        for (name, layer), at, values in zip(self.members, self.members.values(), self._values(theta), strict=True):
            edits.append(Apply(name, partial(self._put, of=of, here=here, at=at, values=values), layer=layer))
        run = self.model.run(batch, edits=edits, grad=True)
        bound = self.bound
        each = Bound(
            None if bound.columns is None else bound.columns[picked],
            None if bound.vocab is None else bound.vocab[picked],
            lambda x, rows: bound.value(x, picked[rows]),
        )
        return each.of_logits(run.logits).view(n, len(chosen))

    def losses(self, theta: Sequence[Tensor], at_once: int | None = None) -> Float[Tensor, " component"]:
        """The loss over all prompts."""
        with torch.no_grad():
            parts = torch.arange(len(self.tokens)).split(limit("constants_prompts", given=at_once))
            some = [self.loss(theta, chosen).detach() for chosen in parts]
        return in_float64(torch.cat(some, 1)).mean(1).cpu()

    def _owners(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """For each real token of the copies, whose copy it is in and whether the constant stands there."""
        here = [
            torch.isin(torch.arange(len(self.tokens.text[b])), torch.tensor(self.spans[b])) for b in chosen.tolist()
        ]
        inside = torch.cat(here)
        return torch.arange(len(self.components)).repeat_interleave(len(inside)), inside.repeat(len(self.components))

    def _put(self, old: Tensor, *, of: Tensor, here: Tensor, at: list[int], values: Tensor) -> Tensor:
        """A site's rows (token, *head, unit) with each component's constant in its own copy."""
        # where in this site's tensor each component's constant is; -1 for components of other sites
        place = torch.full((len(self.components),), -1)
        place[torch.tensor(at)] = torch.arange(len(at))
        row = ((place[of] >= 0) & here).nonzero().squeeze(-1)
        which = place[of[row]].to(old.device)
        row, first = row.to(old.device), self.components[at[0]]
        values = values.to(old.dtype)
        if isinstance(first, Neuron) or first[1] is not None:
            index = torch.tensor([self.components[i][1] for i in at], device=old.device)[which]
            new = values[which, 0] if isinstance(first, Neuron) else values[which]
            return old.index_put((row, index), new)
        return old.index_put((row,), values[which])


def _column(better: Tensor, at: list[int], like: Tensor) -> Tensor:
    return better[torch.tensor(at)].to(like.device)[:, None]
