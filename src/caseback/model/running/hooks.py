"""Hooks on modules as functions of one tensor, and the ways in which a session meets a tensor there.

A hook that changes nothing hands back the very tensor that came in, so that reading leaves every bit of the forward
pass as it is. With gradients, what is recorded must lie on the path of the computation: a tensor recorded beside the
path would have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from caseback.model.anatomy.sites import Site
from caseback.model.running.session import Session


def first_input(args: tuple, kwargs: dict) -> tuple[Tensor, Callable[[Tensor], tuple[tuple, dict]]]:
    """A module's first input, positional or named, and how to put another in its place."""
    if args:
        return args[0], lambda x: ((x, *args[1:]), kwargs)
    name = next(n for n, value in kwargs.items() if isinstance(value, Tensor))
    return kwargs[name], lambda x: (args, {**kwargs, name: x})


class Hooks:
    """The hooks of one pass, to be removed together."""

    def __init__(self) -> None:
        self.handles: list[Any] = []

    def on_input(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        def hook(_, args, kwargs):
            x, put = first_input(args, kwargs)
            new = fn(x)
            return None if new is x else put(new)

        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        def hook(_, args, output):
            several = isinstance(output, tuple | list)
            x = output[0] if several else output
            new = fn(x)
            if new is x:
                return None
            return type(output)([new, *output[1:]]) if several else new

        self.handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


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
    return session.touch(site, x.view(*session.lead, *x.shape[-1:])).view_as(x)


def touch_own(session: Session, site: Site, x: Tensor) -> Tensor:
    """Touch a tensor that only this site uses, so that what is recorded may itself go on, and has a gradient."""
    viewed = x.view(*session.lead, x.shape[-1])
    new = session.touch(site, viewed)
    return new.view_as(x) if session.changes(site) else x
