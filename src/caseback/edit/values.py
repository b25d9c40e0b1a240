"""Values that make a model give new answers: what is added at a place is optimized, the weights stay as they are.

    minimize over delta   mean -log p(new | context, prompt)  +  kl KL(before || after on "{subject} is a")
                          + decay |delta| / |v0|^2,            |delta| <= clamp |v0|

delta is added to what the output matrix of a layer's MLP writes, or to the stream behind a layer, at the subject's last
token. Facts do not meet, so all are optimized together. Only layers from there on are run, and only tokens from the
subject on: the rest is the recorded run's. An answer of several pieces is asked for piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.facts import Fact
from caseback.edit.places import Rows, in_contexts, located, pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import float64_device
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.running.edits import Add, Edit, Replace
from caseback.model.running.metrics import Bound
from caseback.model.running.model import Model
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import resolve
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment
from caseback.model.sweeping.segments import entry_layer


@checked
@dataclass(frozen=True, kw_only=True)
class Search:
    """How values are looked for.

    Attributes
    ----------
    steps, lr
        Of Adam.
    kl, decay, clamp
        As in the module's formula.
    enough
        A fact whose loss is below it is left alone.
    replaced
        Whether the value takes the place of what stood there, from zero on, in place of being added.
    at_end
        Whether that is at the prompt's last token, in place of the subject's.
    """

    steps: int = 20
    lr: float = 0.5
    kl: float = 0.0625
    decay: float = 0.5
    clamp: float = 4.0
    enough: float = 0.05
    replaced: bool = False
    at_end: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OutOfRange(f"steps is {self.steps}: expected 1 or more")
        for name in ("lr", "clamp"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OutOfRange(f"{name} is {getattr(self, name)}: expected a number above 0")
        for name in ("kl", "decay", "enough"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OutOfRange(f"{name} is {getattr(self, name)}: expected 0 or more")


@dataclass(frozen=True)
class _Asked:
    """Rows of some facts: what each is asked for, and how much it counts."""

    rows: Rows
    fact: list[int]
    piece: list[int | None]
    """The token that is asked for behind the row; None where the distribution is to stay as it was."""
    share: list[float]


@as_found
def optimized(
    model: Model,
    facts: Sequence[Fact],
    site: Site,
    start: Float[Tensor, "fact d"],
    contexts: Sequence[str],
    search: Search,
    *,
    progress: bool = False,
) -> tuple[Float[Tensor, "fact d"], Float[Tensor, " fact"]]:
    """What is to be added at a site (or to stand there) for each fact, and the loss that it comes to.

    ``start`` are the values that stand there now, v0.
    """
    deltas, losses = [], []
    with progress_bar(total=len(facts) * search.steps, show=progress, what="values") as bar:
        for some in _blocks(model, facts, contexts):
            block = [facts[i] for i in some]
            delta, loss = _block(model, block, site, start[some], contexts, search)
            deltas.append(delta)
            losses.append(loss)
            bar.update(len(some) * search.steps)
    return torch.cat(deltas), torch.cat(losses)


def _blocks(model: Model, facts: Sequence[Fact], contexts: Sequence[str]) -> list[list[int]]:
    rows = in_contexts(model, facts, ())
    cost = [
        (len(ids) - at) * (1 + len(contexts)) for ids, at in zip(rows.ids, rows.at, strict=True)
    ]  # tokens that are run again in every step
    budget, blocks, total = limit("gradient_tokens", model.device), [[]], 0
    for i, tokens in enumerate(cost):
        if blocks[-1] and total + tokens > budget:
            blocks.append([])
            total = 0
        blocks[-1].append(i)
        total += tokens
    return blocks


def _asked(model: Model, facts: Sequence[Fact], contexts: Sequence[str], search: Search) -> _Asked:
    prompts, kl = in_contexts(model, facts, contexts), search.kl
    per_fact = 1 + len(contexts)
    ids, at, fact, piece, share = [], [], [], [], []
    for f, pieces in enumerate(pieces_of(model, [one.new for one in facts])):
        for i in range(f * per_fact, (f + 1) * per_fact):
            for j, token in enumerate(pieces):
                ids.append(prompts.ids[i] + pieces[:j])
                at.append(len(prompts.ids[i]) - 1 if search.at_end else prompts.at[i])
                fact.append(f)
                piece.append(token)
                share.append(1 / (per_fact * len(pieces)))
    if kl:
        own = located(model, [f"{one.subject} is a" for one in facts], [(0, len(one.subject)) for one in facts])
        ids += [row[: place + 1] for row, place in zip(own.ids, own.at, strict=True)]
        at += own.at
        fact += range(len(facts))
        piece += [None] * len(facts)
        share += [kl] * len(facts)
    return _Asked(Rows(ids, at), fact, piece, share)


def _block(
    model: Model, facts: Sequence[Fact], site: Site, start: Tensor, contexts: Sequence[str], search: Search
) -> tuple[Tensor, Tensor]:
    asked = _asked(model, facts, contexts, search)
    tokens = model.tokens(asked.rows.ids)
    device = tokens.ids.device
    owner = torch.tensor(asked.fact, device=device)
    at = torch.tensor(asked.rows.at, device=device)
    ends = (tokens.lengths - 1).cpu()
    share = torch.tensor(asked.share, device=device)
    wanted = torch.tensor([-1 if one is None else one for one in asked.piece], device=device)
    before: dict[int, Tensor] = {}

    def value(logits: Tensor, rows: Tensor) -> Tensor:
        log_p = at_least_float32(logits).log_softmax(-1)
        token = wanted[rows]
        surprise = -log_p.gather(-1, token.clamp_min(0)[:, None])[:, 0]
        stays = (token < 0).nonzero()[:, 0]
        if not len(stays):
            return surprise
        staying = rows[stays].tolist()
        if staying[0] not in before:
            before.update(zip(staying, log_p[stays].detach(), strict=True))
        was = torch.stack([before[row] for row in staying])
        moved = (was.exp() * (was - log_p[stays])).sum(-1)
        return surprise.index_copy(0, stays, moved)

    bound = Bound(tokens.column(-1), None, value)
    entry = entry_layer(site, model.n_layers)
    segments = [Segment(0, b, int(asked.rows.at[b]), int(ends[b]) + 1, entry) for b in range(len(tokens))]
    with undisturbed(model.anatomy, grad=False):
        clean = record(model.anatomy, tokens)
    place = float64_device(device)
    start, mine = start.to(place, torch.float64), owner.to(place)
    size = start.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    delta = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=search.lr)
    done, losses = torch.zeros(len(facts), dtype=torch.bool, device=place), torch.zeros(len(facts)).to(start)
    for step in range(search.steps + 1):
        going = [s for s in segments if not done[mine[s.example]]]
        put = (Replace if search.replaced else Add)(site.name, delta[mine], layer=_layer(site), pos=at)
        values, rows = _measured(model, clean, going, put, bound)
        per_fact = torch.zeros_like(losses).index_add(0, mine[rows.to(place)], (share[rows] * values).to(losses))
        loss = per_fact + search.decay * (delta.norm(dim=-1) / size[:, 0] ** 2 if search.decay else 0.0)
        if not bool(loss.isfinite().all()):
            raise CasebackError("the loss of a value is not finite: lower lr")
        losses = torch.where(done, losses, loss.detach())
        done = done | (loss.detach() < search.enough)
        if bool(done.all()) or step == search.steps:
            break
        optimizer.zero_grad()
        loss.sum().backward()
        held = delta.detach().clone()
        optimizer.step()
        with torch.no_grad():
            if not search.replaced:
                norm = delta.norm(dim=-1, keepdim=True)
                delta.mul_((search.clamp * size / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1))
            delta.copy_(torch.where(done[:, None], held, delta))
    return delta.detach(), losses


def _layer(site: Site) -> int | None:
    return None if site.is_module else site.layer


def _measured(
    model: Model, clean: Clean, segments: Sequence[Segment], put: Edit, bound: Bound
) -> tuple[Tensor, Tensor]:
    """The metric of each row that is still run, and which rows these are."""
    edits = resolve(put, model.anatomy, clean.tokens)
    with undisturbed(model.anatomy, grad=True):
        values = Packed(model.anatomy, clean, segments, edits, bound).values()
    return values, torch.tensor([segment.example for segment in segments], device=clean.tokens.ids.device)
