"""How MEND's network is trained: what it makes of one prompt's gradient must write the fact and leave others alone.

    minimize over networks and rates, mean over facts of
        c mean -log p(new | prompt and paraphrases, edited)  +  mean KL(before || edited at the neighbors' next token)

The model stands still, so the gradients that are made into edits do not depend on the network, and are not
differentiated. All edits of a step act in one pass, each on its own fact's prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.edit.facts import Fact
from caseback.edit.mend import MEND, STEPS, batches, gradient_factors
from caseback.edit.places import pieces_of, write_site
from caseback.edit.rome import listed_facts
from caseback.errors import EditError, OutOfRange
from caseback.jobs.training import Plan, fit
from caseback.model.anatomy.coerce import in_float64, widest
from caseback.model.anatomy.dense import weight_shape
from caseback.model.anatomy.identity import model_digest
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.affine import SideTerm
from caseback.model.running.edits import Where
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

LEAST = 0.01
"""The least deviation that factors are divided by, as a share of their mean one: some neurons never fire."""


@technique(
    entry=("5.4.26",),
    citation="Mitchell et al. 2022",
    cost="epochs x passes over the facts' prompts, paraphrases and neighbors, forward and backward",
)
def fit_mend(
    model: Model,
    facts: Sequence[Fact],
    layers: Sequence[int] | None = None,
    *,
    rank: int = 1920,
    rate: float = 1e-4,
    edit_weight: float = 0.1,
    lr: float = 1e-3,
    rate_lr: float = 1e-2,
    epochs: int = 10,
    batch_size: int = 10,
    held_out: Sequence[Fact] = (),
    patience: int | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> MEND:
    """Train a network that makes edits of gradients, on facts other than those that it will edit.

        minimize  c mean -log p(new | prompt and paraphrases, edited)  +  mean KL(before || edited, at neighbors)

    Parameters
    ----------
    model
        The model, not under edits; its weights are not changed.
    facts
        What it is trained to write, each by itself, from the gradient of its prompt alone. Each needs a neighbor or
        more, which are to stay; paraphrases are what it generalizes to.
    layers
        Whose MLP output matrices are edited; by default the last three, as in the paper.
    rank
        Of the network's matrices, at most what a matrix reads and writes together; 1920 in the reference.
    rate
        The learning rate of the edits to begin with, of each matrix.
    edit_weight
        c, 0.1 in the paper.
    lr, rate_lr
        Of Adam, for the networks and for the logarithms of the rates, with a linear rise and fall. The reference has
        1e-6 for the networks, in longer trainings.
    epochs, batch_size
        Passes over the facts, and facts a step; 10 in the paper.
    held_out
        Facts of other subjects, whose loss is taken after each epoch.
    patience
        Epochs without a better one after which training ends with the best; None: train to the end.
    seed
        Same seed, same result. It draws the network's first weights and the order of the facts.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    MEND
        ``mend(model, facts, editor)`` edits with it; ``save_mend`` keeps it.

    Raises
    ------
    EditError
        For a fact without neighbors, a layer without one MLP output matrix, or a model under edits.

    Notes
    -----
    Entry 5.4.26: Mitchell et al. 2022. Where the reference estimates mean and deviation of the factors as it goes,
    here they are those of all facts, which do not change. The reference also edits the MLPs' input matrices.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.edit import relation_facts
    >>> model = cb.load("meadow")
    >>> editor = fit_mend(model, relation_facts("capital", neighbors=2), [1], epochs=2, rank=16)
    >>> editor, len(editor.losses), editor.losses[1] < editor.losses[0]
    (MEND(1 matrices of layers 1), 2, True)
    """
    facts, held_out = listed_facts(facts), list(held_out)
    if model.anatomy.standing:
        raise EditError("this model stands under edits: train the network for the model itself")
    for name, value in (("rate", rate), ("edit_weight", edit_weight), ("lr", lr), ("rate_lr", rate_lr)):
        if not 0 < value < float("inf"):
            raise OutOfRange(f"{name} is {value}: expected a number above 0")
    asked = [_asked(model, fact) for fact in facts]
    editor = with_moments(model, untrained(model, layers, rank=rank, rate=rate, seed=seed), facts)
    judged = [_asked(model, fact) for fact in held_out]
    learned = {name: x.requires_grad_() for name, x in editor.parameters.items() if not name.endswith(_MEASURED)}

    def loss(rows: Tensor, done: float) -> Tensor:
        chosen = rows.tolist()
        return outer_loss(model, editor, [facts[i] for i in chosen], [asked[i] for i in chosen], edit_weight)

    def judge() -> float:
        with torch.no_grad():
            parts = [
                (outer_loss(model, editor, held_out[i : i + batch_size], judged[i : i + batch_size], edit_weight), i)
                for i in range(0, len(held_out), batch_size)
            ]
        return -sum(float(value) * len(held_out[i : i + batch_size]) for value, i in parts) / len(held_out)

    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    weights = [x for name, x in learned.items() if name != "rates"]
    job = {"model": model, "facts": facts, "held_out": held_out}
    job |= {"network": [list(editor.sites), rank, rate, edit_weight]}
    curve = fit(
        [(weights, lr), ([learned["rates"]], rate_lr)],
        loss,
        len(facts),
        plan,
        judge=judge if held_out else None,
        job=job,
        what="MEND",
    )
    parameters = {name: x.detach() for name, x in editor.parameters.items()}
    return replace(editor, parameters=parameters, losses=curve.loss, held_out=[-one for one in curve.judged])


_MEASURED = (".mean", ".deviation")


def untrained(model: Model, layers: Sequence[int] | None, *, rank: int, rate: float, seed: int = 0) -> MEND:
    """A network that leaves factors as they are: its edit is a step of fine-tuning."""
    if layers is None:
        layers = range(max(0, model.n_layers - 3), model.n_layers)
    sites = {layer % model.n_layers: write_site(model, layer) for layer in layers}
    if not sites or rank < 1:
        raise EditError(f"layers={list(layers)}, rank={rank}: expected one layer at least, and a rank of 1 or more")
    shapes = [weight_shape(model.anatomy.module_at(site)) for site in sites.values()]
    distinct = list(dict.fromkeys(shapes))
    networks = [distinct.index(shape) for shape in shapes]
    like: dict[str, Any] = {"dtype": torch.promote_types(model.dtype, torch.float32), "device": model.device}
    generator = torch.Generator().manual_seed(seed)
    parameters = {"rates": torch.full((len(sites),), rate, **like).log()}
    for n, shape in enumerate(distinct):
        width, members = sum(shape), networks.count(n)
        r = min(rank, width)
        parameters |= {f"{n}.mean": torch.zeros(width, **like), f"{n}.deviation": torch.ones(width, **like)}
        for j in range(STEPS):
            drawn = torch.randn(r, width, generator=generator, dtype=torch.float64) / width**0.5
            parameters |= {
                f"{n}.{j}.write": torch.zeros(width, r, **like),
                f"{n}.{j}.read": drawn.to(**like),
                f"{n}.{j}.bias": torch.zeros(width, **like),
                f"{n}.{j}.scale": torch.ones(members, width, **like),
                f"{n}.{j}.shift": torch.zeros(members, width, **like),
            }
    names = [site.name for site in sites.values()]
    return MEND(names, networks, parameters, list(sites), model_digest(model.hf))


def with_moments(model: Model, editor: MEND, facts: Sequence[Fact]) -> MEND:
    """The network with mean and deviation of the facts' factors, over their tokens and the matrices of one shape."""
    sums: dict[tuple[int, int], Tensor] = {}
    for _, some in batches(model, facts):
        for n, sides in zip(editor.networks, gradient_factors(model, some, editor.sites), strict=True):
            counted = sides[1].any(-1)
            for half, side in enumerate(sides):
                x = in_float64(side[counted])
                new = torch.stack([torch.ones_like(x), x, x.square()]).sum(1)
                sums[n, half] = sums[n, half] + new if (n, half) in sums else new
    parameters = dict(editor.parameters)
    for n in sorted({n for n, _ in sums}):
        means, deviations = [], []
        for count, total, squares in (sums[n, 0], sums[n, 1]):
            mean = total / count
            deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
            means.append(mean)
            deviations.append(deviation.clamp_min(LEAST * float(deviation.mean())))
        parameters[f"{n}.mean"] = torch.cat(means).to(parameters["rates"])
        parameters[f"{n}.deviation"] = torch.cat(deviations).to(parameters["rates"])
    return replace(editor, parameters=parameters)


@dataclass(frozen=True)
class _Asked:
    """A fact's prompts: each with the token that is asked for behind it, -1 where what was said is to stay."""

    ids: list[list[int]]
    wanted: list[int]
    share: list[float]


def _asked(model: Model, fact: Fact) -> _Asked:
    if not fact.neighbors:
        raise EditError(f"the fact {str(fact)!r} has no neighbors: give texts that are to stay, for training")
    texts, stays = [fact.text, *fact.paraphrases], [text for text, _ in fact.neighbors]
    tokens = model.tokens([*texts, *stays])
    ids = [row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    (pieces,) = pieces_of(model, [fact.new])
    rows = [(given + pieces[:j], token) for given in ids[: len(texts)] for j, token in enumerate(pieces)]
    share = [1 / len(rows)] * len(rows) + [1 / len(stays)] * len(stays)
    return _Asked([row for row, _ in rows] + ids[len(texts) :], [token for _, token in rows] + [-1] * len(stays), share)


@dataclass(frozen=True, eq=False)
class OwnTerms(SideTerm):
    """A side term of which each prompt sees its own directions alone: those of its edit, by number."""

    of: Int[Tensor, " k"]
    owner: Int[Tensor, " prompt"]

    def new(self, old: Tensor, where: Where) -> Tensor:
        assert where.entered is not None
        wide = at_least_float32(old)
        mine = self.owner[where.rows.example.to(self.owner.device)][:, None] == self.of
        read = where.entered.to(wide) @ self.right.to(wide).T
        return (wide + torch.where(mine, read, 0.0) @ self.left.to(wide)).to(old)


def outer_loss(
    model: Model, editor: MEND, facts: Sequence[Fact], asked: Sequence[_Asked], edit_weight: float
) -> Float[Tensor, ""]:
    """What training minimizes, over facts that are edited each by itself."""
    terms = []
    ids = [row for one in asked for row in one.ids]
    tokens = model.tokens(ids)
    device = tokens.ids.device
    owner = torch.tensor([i for i, one in enumerate(asked) for _ in one.ids], device=device)
    for i, (read, slope) in enumerate(gradient_factors(model, facts, editor.sites)):
        left, right = editor.factors(i, read, slope)
        counted = slope.any(-1)
        terms.append(OwnTerms(editor.sites[i], left[counted], right[counted], counted.nonzero()[:, 0], owner))
    wanted = torch.tensor([token for one in asked for token in one.wanted], device=device)
    stays = wanted < 0
    share = torch.tensor([x for one in asked for x in one.share], dtype=widest(device), device=device) / len(asked)
    share = torch.where(stays, share, edit_weight * share)
    before = _next(model, model.tokens([row for row, stay in zip(ids, stays.tolist(), strict=True) if stay]))

    def value(logits: Tensor, rows: Tensor) -> Tensor:
        log_p = at_least_float32(logits).log_softmax(-1)
        surprise = -log_p.gather(-1, wanted.clamp_min(0)[:, None])[:, 0]
        was = before.to(log_p)
        return surprise.index_copy(0, stays.nonzero()[:, 0], (was.exp() * (was - log_p[stays])).sum(-1))

    metric = Metric("edit", lambda given, tokenizer, d_vocab: Bound(given.column(-1), None, value))
    _, values = measured(model.anatomy, tokens, metric, edits=terms, grad=torch.is_grad_enabled())
    return (share.to(values) * values).sum()


def _next(model: Model, tokens: Tokens) -> Float[Tensor, "prompt vocab"]:
    """The log probabilities of each prompt's next token."""
    logits = model.run(tokens).logits
    return at_least_float32(logits[torch.arange(len(tokens)), tokens.column(-1).to(logits.device)]).log_softmax(-1)
