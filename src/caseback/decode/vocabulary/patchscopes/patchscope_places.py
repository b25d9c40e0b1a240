"""Where a patchscope reads and where it writes: the places of the source, and a target prompt for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.vocabulary.lenses.lens_statistics import on_grid
from caseback.decode.vocabulary.patchscopes.patchscope_targets import TargetPrompt
from caseback.errors import CasebackError, OutOfRange, TargetError
from caseback.model.anatomy.sites import Site
from caseback.model.running.frames import positions
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


class Cells:
    """The places of the source that are read: prompt and position, and where each goes in the result."""

    def __init__(self, tokens: Tokens, pos: Sequence[int] | int | None):
        self.single = isinstance(pos, int)
        lengths = tokens.lengths.tolist()
        listed = [list(positions(pos, b, n)) for b, n in enumerate(lengths)]
        self.shape = (len(tokens), max(map(len, listed)))
        places = [(b, slot, p) for b, own in enumerate(listed) for slot, p in enumerate(own)]
        if not places:
            raise OutOfRange(f"pos={pos!r} names no position: expected at least one")
        example, slot, position = (torch.tensor(column) for column in zip(*places, strict=True))
        self.example, self.slot, self.position = example, slot, position
        self.column = position + tokens.first.cpu()[example]
        self.text = [tokens.text[b][p] for b, _, p in places]
        # with positions counted from the end a slot has another position in each prompt
        same = all(own == listed[0][: len(own)] for own in listed)
        longest = max(listed, key=len)
        self.labels = longest if same or pos is None else list(pos)  # type: ignore[arg-type]

    def of(self, run: Run, site: Site) -> Float[Tensor, "place d_model"]:
        """What a run holds at the places."""
        at = run[site.name, site.layer].detach()
        return at[self.example.to(at.device), self.column.to(at.device)]

    def put(self, values: np.ndarray) -> np.ndarray:
        """(layer, place, ...) as (layer, batch, pos, ...), or (layer, batch, ...) for a single position."""
        grid = on_grid(values, self.shape, (self.example.numpy(), self.slot.numpy()))
        return grid[:, :, 0] if self.single else grid


def targets_of(
    onto: Model, tokens: Tokens, target: Any, target_pos: Sequence[int] | int | None, cells: Cells
) -> tuple[Tokens, Int[Tensor, "place where"]]:
    """One target prompt for each place, and the positions written in it.

    Parameters
    ----------
    onto
        The model that is written into.
    tokens
        The source's prompts.
    target, target_pos
        As for ``patchscope``.
    cells
        The source's places.

    Raises
    ------
    TargetError
        For neither one target prompt nor one per source prompt.
    CasebackError
        Where a placeholder is absent, or prompts have different numbers of it.
    """
    if target is None:
        prompts = onto.tokens([ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)])
        prompts = prompts[cells.example]
        own = cells.position[:, None]
        return prompts, own if target_pos is None else _everywhere(prompts, target_pos)
    each = list(target) if _several(target) else [target]
    if len(each) not in (1, len(tokens)):
        raise TargetError(f"{len(each)} target prompts for {len(tokens)} source prompts: give one, or one per prompt")
    given = onto.tokens([t.text if isinstance(t, TargetPrompt) else t for t in each]) if _listed(target) else None
    given = onto.tokens(target) if given is None else given
    some = cells.example if len(given) > 1 else torch.zeros_like(cells.example)
    if target_pos is None and isinstance(each[0], TargetPrompt):
        places = [t.places(given[i]) for i, t in enumerate(each)]
        if len({len(p) for p in places}) > 1:
            raise CasebackError("target prompts have different numbers of placeholders: give them one at a time")
        return given[some], torch.tensor(places)[some]
    prompts = given[some]
    return prompts, _everywhere(prompts, -1 if target_pos is None else target_pos)


def _several(target: Any) -> bool:
    """Whether a target is a prompt for each source prompt."""
    if isinstance(target, Tokens):
        return len(target) > 1
    return isinstance(target, list | tuple) and not isinstance(target[0], int)


def _listed(target: Any) -> bool:
    """Whether there are target prompts among it."""
    return isinstance(target, TargetPrompt) or (_several(target) and not isinstance(target, Tokens))


def _everywhere(prompts: Tokens, target_pos: Sequence[int] | int) -> Int[Tensor, "place where"]:
    return torch.tensor(
        [
            list(positions(target_pos if isinstance(target_pos, int) else list(target_pos), b, n))
            for b, n in enumerate(prompts.lengths.tolist())
        ]
    )


def expect_room(model: Model, prompts: Tokens, new: int, what: str) -> None:
    """Refuse prompts that leave no room for what is to be generated.

    Parameters
    ----------
    model
        The model. Its context counts; where it declares none, nothing is refused.
    prompts
        The prompts.
    new
        How many tokens are generated; all of them but the last are read again.
    what
        What the prompts are called in the message.

    Raises
    ------
    OutOfRange
        For a prompt past the context, with both lengths.
    """
    longest = int(prompts.lengths.max())
    read = longest + max(new - 1, 0)
    if model.context is None or read <= model.context:
        return
    request = f"{new} tokens to generate after a {what} prompt of {longest}" if new else f"a {what} prompt of {longest}"
    raise OutOfRange(
        f"{request}: {model.name!r} would read {read} tokens, and its context is {model.context}: shorten the prompt"
        + (" or generate fewer" if new else "")
    )
