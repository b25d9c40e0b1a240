"""A pass: the time in which one call runs a model, while others may want to run it too.

Passes of one model wait for each other, whichever thread they come from. A call of the plain model waits for nobody,
and neither does what an edit's function runs inside another pass. So whatever a pass puts on modules, hooks and other
forwards, acts only where that pass is the one that runs; everybody else passes it by. All of it comes off at the end,
even after an interrupt (``undo``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from caseback.errors import AnatomyError, CasebackError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.dense import expect_gradient
from caseback.model.anatomy.parameters import expect_numbers, is_plain
from caseback.model.running.undo import Undo, current_undo


class Pass:
    """Stands for one pass.

    Attributes
    ----------
    on_z
        What every z of an attention module passes through, by the module.
    masks
        Attention masks in other forms, which all layers share; see ``attention.masked``.
    """

    def __init__(self) -> None:
        self.on_z: dict[nn.Module, list[Callable[[Tensor], Tensor]]] = {}
        self.masks: dict[Any, tuple[Tensor | None, Tensor]] = {}


_current: ContextVar[Pass | None] = ContextVar("caseback_pass", default=None)
_acting: ContextVar[Pass | None] = ContextVar("caseback_acting_pass", default=None)
"""The pass whose hooks act: the current one, but none while it calls a function of the user's."""
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_locks_lock = Lock()


def current_pass() -> Pass | None:
    """The pass that runs in this thread, if any."""
    return _current.get()


def acts(owner: Pass | None) -> bool:
    """Whether what that pass put on modules acts now."""
    return _acting.get() is owner


@contextmanager
def aside() -> Iterator[None]:
    """Call a function of the user's from inside a pass: the model that it may call is the plain one."""
    undo = current_undo()
    with undo.scope():
        undo.change((_acting.set, None), (_acting.set, _acting.get()))
        yield


@contextmanager
def passing(anatomy: Anatomy) -> Iterator[Pass]:
    """Wait until no other thread's pass runs the model, then run it as this pass.

    Raises
    ------
    AnatomyError
        Where the model's modules are not those that it was loaded with.
    CasebackError
        Under ``torch.autocast``.
    """
    if torch.is_autocast_enabled(anatomy.device.type):
        raise CasebackError(
            "torch.autocast casts inside operations that are taken apart here, such as a head's write: leave it, and "
            "load the model with dtype=torch.bfloat16 instead"
        )
    with _locks_lock:
        lock = _locks.setdefault(anatomy.hf, RLock())
    undo, new = current_undo(), Pass()
    with undo.scope():
        undo.change((lock.acquire,), (lock.release,))
        anatomy.expect_unchanged()
        undo.change((_current.set, new), (_current.set, _current.get()))
        undo.change((_acting.set, new), (_acting.set, _acting.get()))
        for module in anatomy.modules:
            if module.__dict__.get("_compiled_call_impl") is not None:  # compiled code runs no hooks of ours
                undo.put(module.__dict__, "_compiled_call_impl", None)
        yield new


@contextmanager
def undisturbed(anatomy: Anatomy, *, grad: bool) -> Iterator[Pass]:
    """A pass in eval mode, with the parameters frozen if there is to be a gradient.

    Raises
    ------
    AnatomyError
        As ``passing``.
    CasebackError
        Where there is to be a gradient, and torch's inference mode or a kernel for quantized weights keeps none.
    """
    hf = anatomy.hf
    expect_numbers(anatomy.embed)  # where the whole model has gone to the meta device since it was loaded
    if grad:
        _expect_gradients(anatomy)
    undo = current_undo()
    with passing(anatomy) as new, undo.scope():
        for module in anatomy.modules if hf.training else ():
            if module.training:
                undo.put(module.__dict__, "training", False)
        for parameter in hf.parameters() if grad else ():
            if parameter.requires_grad:
                undo.change((parameter.requires_grad_, False), (parameter.requires_grad_, True))
        undo.change((torch._C._set_grad_enabled, grad), (torch._C._set_grad_enabled, torch.is_grad_enabled()))
        yield new


def _expect_gradients(anatomy: Anatomy) -> None:
    hf = anatomy.hf
    if torch.is_inference_mode_enabled():
        raise CasebackError("torch.inference_mode keeps no gradients: leave it, or use torch.no_grad in its place")
    if any(parameter.is_inference() for parameter in hf.parameters()):
        raise CasebackError(
            "this model's parameters were made inside torch.inference_mode, which keeps no gradients: load it outside"
        )
    for module in anatomy.packed.values():
        expect_gradient(module)
    for experts in (p.experts for p in anatomy.layers if p.experts is not None):
        if not all(is_plain(parameter) for parameter in experts.parameters() if parameter.ndim == 3):
            raise AnatomyError(
                f"{type(experts).__name__} multiplies quantized weights by kernels that keep no gradient: load the "
                "model without quantization (for MXFP4: quantization_config=Mxfp4Config(dequantize=True))"
            )


class Hooks:
    """Hooks that act only in the pass that puts them on, and what takes them off; see ``hooked``."""

    def __init__(self, owner: Pass | None, undo: Undo):
        self._owner, self.undo = owner, undo

    def before(self, module: nn.Module, hook: Callable[[nn.Module, tuple, dict], Any]) -> None:
        """A hook (module, args, kwargs) that may give other (args, kwargs)."""
        key = RemovableHandle(module._forward_pre_hooks).id
        self.undo.put(module._forward_pre_hooks_with_kwargs, key, True)
        self.undo.put(module._forward_pre_hooks, key, self._mine(hook))

    def after(self, module: nn.Module, hook: Callable[[nn.Module, tuple, Any], Any], *, first: bool = False) -> None:
        """A hook (module, args, output) that may give another output; ``first`` puts it before the hooks there are."""
        key = RemovableHandle(module._forward_hooks).id
        self.undo.put(module._forward_hooks, key, self._mine(hook))
        if first:
            module._forward_hooks.move_to_end(key, last=False)  # type: ignore[attr-defined]

    def _mine(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        owner = self._owner
        return lambda *given: hook(*given) if acts(owner) else None

    def on_input(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        """Let a module's first input pass through a function; handing it back unchanged changes nothing."""

        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            x, put = first_input(args, kwargs)
            new = fn(x)
            return None if new is x else put(new)

        self.before(module, hook)

    def on_output(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        """Let a module's first output pass through a function; handing it back unchanged changes nothing."""

        def hook(_: nn.Module, args: tuple, output: Any) -> Any:
            several = isinstance(output, tuple | list)
            x = output[0] if several else output
            new = fn(x)
            if new is x:
                return None
            return type(output)([new, *output[1:]]) if several else new

        self.after(module, hook)

    def on_z(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        """Let every z of an attention module pass through a function."""
        owner = self._owner
        if owner is None:
            raise RuntimeError("attention is only seen inside a pass: open one with passing or undisturbed")
        self.undo.put(owner.on_z, module, [*owner.on_z.get(module, ()), fn])

    def in_place_of(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a function take the place of a module's forward; its own serves all others."""
        owner, own = self._owner, module.forward
        pick = lambda *args, **kwargs: (forward if acts(owner) else own)(*args, **kwargs)  # noqa: E731
        self.undo.put(module.__dict__, "forward", pick)


@contextmanager
def hooked() -> Iterator[Hooks]:
    """The present pass's hooks; those that are put on inside come off as the context ends. Outside a pass all act."""
    owner, undo = current_pass(), current_undo()
    with undo.scope():
        yield Hooks(owner, undo)


def first_input(args: tuple, kwargs: dict) -> tuple[Tensor, Callable[[Tensor], tuple[tuple, dict]]]:
    """A module's first input, positional or named, and how to put another in its place."""
    if args:
        return args[0], lambda x: ((x, *args[1:]), kwargs)
    name = next(n for n, value in kwargs.items() if isinstance(value, Tensor))
    return kwargs[name], lambda x: (args, {**kwargs, name: x})


@contextmanager
def no_rows(unembed: nn.Module) -> Iterator[None]:
    """Give the unembedding no positions, so that it costs nothing: it is a third of GPT-2's multiplications."""
    with hooked() as hooks:
        hooks.on_input(unembed, lambda x: x[:, :0])
        yield


class _Ended(Exception):
    """All that was asked for has been seen."""


@contextmanager
def ended(anatomy: Anatomy, last: int | None) -> Iterator[None]:
    """End the block's pass where the layer behind ``last`` would begin; -1 for before the first, None for nowhere.

    A pass goes on to its end where accelerate holds the layers, whose hooks must see it, or where a layer comes twice.
    """
    if last is None or last + 1 >= len(anatomy.layers):
        yield
        return
    layers = [parts.layer for parts in anatomy.layers]
    if any(hasattr(layer, "_hf_hook") for layer in layers) or len(set(map(id, layers))) < len(layers):
        yield
        return
    with hooked() as hooks:
        hooks.before(layers[last + 1], _end)
        with suppress(_Ended):
            yield


def _end(*_: Any) -> None:
    raise _Ended


@contextmanager
def begun(anatomy: Anatomy, layer: int, output: Any) -> Iterator[None]:
    """Begin the block's pass at a layer: those before it are not called, and the last of them gives ``output``."""
    with hooked() as hooks:
        for parts in anatomy.layers[:layer]:
            hooks.in_place_of(parts.layer, lambda *_, **__: output)
        yield
