"""An input made to activate a unit, by search over tokens (PRIMER 4.3.15).

    gain of token v at position p, to first order  =  (E_v - E_{t_p}) . d a / d x_p,       x_p the embedding at p

Each step takes the tokens with the largest gains at every position, tries some single replacements of them in one
batch, and keeps the best if it is better than what is there (the coordinate search of Zou et al. 2023). The gradient
only proposes; what is kept was measured, so the activation never falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.vocabulary.activating.units import Directions, Heads, units_of
from caseback.errors import OutOfRange, TokensError
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.parameters import parameter
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class Synthesised:
    """A synthesized input.

    Attributes
    ----------
    ids, text
        Its tokens.
    value
        The unit's activation at the last of them.
    history
        The activation at the start and after each step.
    """

    ids: list[int]
    text: list[str]
    value: float
    history: list[float]


@technique(
    role="unit",
    entry=("4.3.15",),
    citation="Nguyen et al. 2016, Zou et al. 2023",
    cost="steps x (forward + backward + one forward of all candidates)",
)
def synthesise_input(
    model: Model,
    site: str,
    unit: int,
    *,
    layer: int | None = None,
    directions: Directions | None = None,
    heads: Heads = "norm",
    length: int = 8,
    start: Sequence[int] | None = None,
    fixed: int | None = None,
    steps: int = 50,
    candidates: int = 64,
    proposals: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Synthesised:
    """Search for tokens at whose end a unit activates most.

    Parameters
    ----------
    model
        The model.
    site, layer, directions, heads
        Where the unit is; see ``units_of``.
    unit
        Its index there.
    length
        How many tokens are drawn to begin with, behind a beginning-of-text token where the tokenizer sets one.
    start
        Token ids to begin from instead.
    fixed
        First tokens that are not changed; by default the beginning-of-text token alone, and none of ``start``.
    steps
        How many.
    candidates
        Replacements that are tried in a step.
    proposals
        Tokens that the gradient proposes at each position.
    seed
        Same seed, same result. It draws the start, and which replacements are tried.
    progress
        Show a progress bar. It shows the activation.

    Returns
    -------
    Synthesised

    Raises
    ------
    TokensError
        For a special token in ``start`` where it may be changed: no special token is ever put in.
    OutOfRange
        For sizes that leave nothing.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> synthesized = synthesise_input(model, "mlp_post", 3, layer=1, length=4, steps=2)
    >>> len(synthesized.history), synthesized.history[-1] >= synthesized.history[0]
    (3, True)
    """
    if min(length, steps, candidates, proposals) < 1:
        raise OutOfRange(f"{length} tokens, {steps} steps, {candidates} candidates: expected 1 or more of each")
    units = units_of(model, site, layer=layer, units=[unit], directions=directions, heads=heads)
    special = sorted(i for i in getattr(model.tokenizer, "all_special_ids", []) if i < model.d_vocab)
    matrix = _embeddings(model)
    ids, free = _start(model, length, start, fixed, special, seed)
    draw = torch.Generator().manual_seed(seed + 1)

    def ends(tokens: Tokens, grad: bool = False) -> tuple[Run, Tensor]:
        run = execute(model.anatomy, tokens, read=["embed", units.site], grad=grad, logits=units.site.name == "logits")
        with torch.set_grad_enabled(grad):
            return run, units.values(run).view(len(tokens), -1)[:, -1]

    history = [float(ends(model.tokens([ids]))[1])]
    bar = progress_bar(range(steps), show=progress, unit="step")
    for _ in bar:
        run, value = ends(model.tokens([ids]), grad=True)
        gradient = run.grad(value, ["embed"])["embed"][0, free].detach()
        tried = _replacements(ids, free, gradient.to(matrix) @ matrix.T, special, proposals, candidates, draw)
        values = ends(model.tokens(tried))[1]
        best = int(values.argmax())
        if float(values[best]) > history[-1]:
            ids = tried[best]
        history.append(max(history[-1], float(values[best])))
        bar.set_postfix(activation=f"{history[-1]:.3g}")
    return Synthesised(ids, [model.token_text(t) for t in ids], history[-1], history)


def _start(
    model: Model, length: int, start: Sequence[int] | None, fixed: int | None, special: list[int], seed: int
) -> tuple[list[int], list[int]]:
    """The first input, and the positions that may change."""
    if start is None:
        ordinary = torch.ones(model.d_vocab, dtype=torch.bool)
        ordinary[special] = False
        usable = ordinary.nonzero()[:, 0]
        drawn = torch.randint(len(usable), (length,), generator=torch.Generator().manual_seed(seed))
        lead = _lead(model)
        ids, fixed = [*lead, *usable[drawn].tolist()], len(lead) if fixed is None else fixed
    else:
        ids, fixed = [int(t) for t in start], 0 if fixed is None else fixed
    if not 0 <= fixed < len(ids):
        raise OutOfRange(f"{fixed} fixed tokens of {len(ids)}: expected at least one that may change")
    wrong = [t for t in ids[fixed:] if t in special]
    if wrong:
        raise TokensError(
            f"token {wrong[0]} ({model.token_text(wrong[0])!r}) is a special one: leave it out, or among the first "
            "tokens that fixed= holds"
        )
    return ids, list(range(fixed, len(ids)))


def _lead(model: Model) -> list[int]:
    """What the tokenizer puts before a text."""
    if model.tokenizer is None:
        return []
    ids, bare = (model.tokenizer("a", add_special_tokens=s)["input_ids"] for s in (True, False))
    return ids[: len(ids) - len(bare)] if bare and ids[-len(bare) :] == bare else []


def _embeddings(model: Model) -> Float[Tensor, "vocab d_model"]:
    matrix: Any = parameter(model.hf.get_input_embeddings(), "weight")
    return matrix.detach()[: model.d_vocab]


def _replacements(
    ids: list[int],
    free: list[int],
    gains: Float[Tensor, "pos vocab"],
    special: list[int],
    proposals: int,
    candidates: int,
    draw: torch.Generator,
) -> list[list[int]]:
    """Inputs with one token replaced by a proposed one; a random choice of all such where there are more."""
    gains[:, special] = -torch.inf
    gains[torch.arange(len(free)), [ids[p] for p in free]] = -torch.inf
    n = min(proposals, gains.shape[1] - len(special) - 1)
    if n < 1:
        raise OutOfRange("the vocabulary has no ordinary token to put in")
    proposed = gains.topk(n).indices.cpu()
    pick = torch.randperm(proposed.numel(), generator=draw)[:candidates]
    replaced = []
    for which in pick.tolist():
        row, column = divmod(which, n)
        replaced.append([*ids[: free[row]], int(proposed[row, column]), *ids[free[row] + 1 :]])
    return replaced
