"""Passes of the model as it is, made once for all that ask about the same prompts inside a block.

A report puts a dozen techniques to one prompt, and each of them begins with the unedited run. Inside
``shared_passes()`` the unedited pass of prompts that ``share`` names is made where something is asked for that no
earlier pass has read, and is otherwise handed out again: the same to the bit, since what is read changes nothing.

Nothing is shared of a run with edits, gradients, rules or hooks of the user's. What is larger than the stream (maps of
long prompts, neurons, what dictionaries encode) is read again, so that what is held is a few streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.tokens import Tokens
from caseback.model.running.user_hooks import hooked_by_user


@dataclass
class Held:
    """What passes of one batch of prompts have left so far.

    Attributes
    ----------
    most
        The largest size of what is held of a site: the stream's, or that of all heads' z.
    acts, logits
        The sites that were read, and the logits; None before a pass formed them.
    recorded
        What sweeps start from; None before the first.
    """

    most: int
    acts: dict[Site, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    recorded: Any = None

    def add(self, acts: dict[Site, Tensor], logits: Tensor | None) -> None:
        """Hold what a pass has read."""
        self.acts |= {site: x for site, x in acts.items() if x.numel() <= self.most}
        self.logits = self.logits if logits is None else logits


_shared: ContextVar[dict[Any, Held] | None] = ContextVar("caseback_shared_passes", default=None)


@contextmanager
def shared_passes() -> Iterator[None]:
    """Share the unedited passes of the prompts that ``share`` names inside; it decorates functions too.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("the cat and the dog")
    >>> with shared_passes():
    ...     share(model.anatomy, tokens)
    ...     first = model.run(tokens, read=["resid_post"])
    ...     model.run(tokens).logits is first.logits
    True
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def share(anatomy: Anatomy, tokens: Tokens) -> None:
    """Share these prompts' passes in the block around; nothing happens outside of one, or to a model under edits."""
    held = _shared.get()
    if held is not None and not anatomy.standing:
        width = max(anatomy.d_model, *(p.dims.n_heads * p.dims.d_head for p in anatomy.layers))
        held.setdefault(_key(anatomy, tokens), Held(tokens.ids.numel() * width))


def held_of(anatomy: Anatomy, tokens: Tokens) -> Held | None:
    """What is held of these prompts; None where their passes are not shared."""
    held = _shared.get()
    if not held or anatomy.standing or hooked_by_user(anatomy) is not None:
        return None
    return held.get(_key(anatomy, tokens))


def _key(anatomy: Anatomy, tokens: Tokens) -> Any:
    ids, mask = (x.cpu().numpy() for x in (tokens.ids, tokens.mask))
    return id(anatomy.hf), ids.shape, ids.tobytes(), mask.tobytes()
