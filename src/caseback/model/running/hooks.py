"""The ways in which a session meets a tensor at a module's hook.

A hook that changes nothing hands back the very tensor that came in, so that reading leaves every bit of the forward
pass as it is. With gradients, what is recorded must lie on the path of the computation: a tensor recorded beside the
path would have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from caseback.model.anatomy.sites import Site
from caseback.model.running.passing import Hooks
from caseback.model.running.session import Session


def on_sum(hooks: Hooks, first: nn.Module, second: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
    """A hook on the sum of two modules' outputs. The layer adds them, so the second's output takes the change."""
    seen: dict[str, Tensor] = {}

    def at_first(x: Tensor) -> Tensor:
        seen["first"] = x
        return x

    def at_second(x: Tensor) -> Tensor:
        total = seen["first"] + x
        new = fn(total)
        return x if new is total else new - seen["first"]

    hooks.on_output(first, at_first)
    hooks.on_output(second, at_second)


def recording(session: Session, site: Site, fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A hook that records fn(x) squeezed of its last dimension and lets x pass."""

    def hook(x: Tensor) -> Tensor:
        session.touch(site, fn(x).squeeze(-1).view(session.lead))
        return x

    return hook


def touch_branch(session: Session, site: Site, x: Tensor) -> Tensor:
    """Touch what one branch reads of a tensor that others read too.

    The stream goes to a branch and past it. A gradient at the branch's input is that of the branch alone, so with
    gradients it is recorded as a view, a node of its own in the graph: the stream's own would add up both ways.
    """
    if session.grad and site in session.reads:
        x = x.view_as(x)
    return in_shape(session.touch(site, in_shape(x, (*session.lead, x.shape[-1]))), x.shape)


def touch_own(session: Session, site: Site, x: Tensor) -> Tensor:
    """Touch a tensor that only this site uses, so that what is recorded may itself go on, and has a gradient."""
    new = session.touch(site, in_shape(x, (*session.lead, x.shape[-1])))
    return in_shape(new, x.shape) if session.changes(site) else x


def in_shape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A view in a shape, or the very ``x`` where it has it: a view is an operation, and one more on the way back."""
    return x if x.shape == shape else x.view(shape)
