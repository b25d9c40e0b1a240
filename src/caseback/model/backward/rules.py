"""Rules: another backward pass for the same forward pass, as relevance propagation wants it (PRIMER 3.1.5, 3.1.6).

Relevance is activation times a modified gradient. Where a step is not linear in what it is given, a rule says what its
gradient is replaced by; what the forward pass computes stays as it is, to the bit:

    norm        held: the denominator is a constant,        dx = pull(dy) of the frozen norm
    softmax     held: the pattern is a constant,            ds = 0
    product     uniform: half to each factor,               da = b dy / 2, db = a dy / 2
                held: the activated factor is a constant    da = b dy,     db = 0
    activation  identity: relevance passes unchanged,       dx = dy f(x) / x    (clamps and soft-caps too)
    linear      epsilon: sums are kept away from 0,         dx = W (dy |y| / (|y| + epsilon))
    router      held: the weights of experts are constants

Norms, activation functions and routers are modules, and their forward methods are replaced. Sums, products and
softmaxes are caught where torch runs them, whether in a family's own attention or MLP, in its experts, or in attention
as caseback computes it. So no rule depends on an architecture. Quotients outside norms, and products in place, keep
their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import Norm
from caseback.model.backward.nonlinear import activations, all_norms, norm_modules
from caseback.model.running.passing import Hooks, current_pass, hooked

CHOICES = {
    "norm": ("gradient", "held"),
    "softmax": ("gradient", "held"),
    "product": ("gradient", "uniform", "held"),
    "activation": ("gradient", "identity"),
    "router": ("gradient", "held"),
}


@dataclass(frozen=True)
class Rules:
    """What stands in for the gradient of each kind of step; ``"gradient"`` leaves it as it is.

    Attributes
    ----------
    norm
        ``"held"``: a norm's denominator is a constant, norms of queries and keys included.
    softmax
        ``"held"``: attention patterns are constants, queries and keys get nothing.
    product
        Of two things that both depend on the input (scores, pattern and values, gate and neuron): ``"uniform"`` halves
        what either gets; ``"held"`` takes a factor that an activation function made for a constant, and halves where
        neither is.
    activation
        ``"identity"``: f(x) / x in place of f'(x).
    router
        ``"held"``: the weights of experts are constants.
    epsilon
        Added to the size of every sum with constant weights (linear maps, and values where patterns are held) before
        its relevance is shared out.
    """

    norm: str = "held"
    softmax: str = "gradient"
    product: str = "uniform"
    activation: str = "identity"
    router: str = "held"
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        for step, known in CHOICES.items():
            chosen = getattr(self, step)
            if chosen not in known:
                raise CasebackError(f"{step}={chosen!r} is not a rule. {did_you_mean(str(chosen), known)}")
        if not 0 <= self.epsilon < float("inf"):
            raise OutOfRange(f"epsilon is {self.epsilon}: expected 0 or a small positive number, such as 1e-6")

    def as_attrs(self) -> dict[str, Any]:
        """The rules as one plain mapping, for attributes."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class _Pulled(torch.autograd.Function):
    """A value computed without a graph, whose gradient goes to x by a given function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.pull, ctx.dtype = pull, x.dtype
        return out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.pull(grads[0]).to(ctx.dtype), None, None


def _pulled(x: Tensor, out: Tensor, pull: Callable[[Tensor], Tensor]) -> Tensor:
    pulled = _Pulled.apply(x, out, pull)
    assert isinstance(pulled, Tensor)
    return pulled


def weakened(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return x with its gradient multiplied by a factor.

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> torch.autograd.grad(weakened(x, 0.5) * 4, x)
    (tensor(2.),)
    """
    return _pulled(x, x, lambda g: g * factor)


def held_norm(norm: Norm, x: Tensor, out: Tensor) -> Tensor:
    """A norm's output, its gradient that of the norm with the denominator held."""
    with torch.no_grad():
        scale = norm.scale(x.detach())
    return _pulled(x, out, lambda g: norm.pull(g, scale))


def identity_rule(x: Tensor, out: Tensor) -> Tensor:
    """An activation's output, its gradient f(x) / x, and 0 at x = 0, where there is no relevance to pass on."""
    with torch.no_grad():
        nought = x == 0
        ratio = torch.where(nought, 0.0, out / torch.where(nought, 1.0, x))
    return _pulled(x, out, lambda g: g * ratio)


def epsilon_rule(out: Tensor, epsilon: float) -> Tensor:
    """A sum over inputs, its gradient weakened by |y| / (|y| + epsilon)."""
    size = out.detach().abs()
    return weakened(out, size / (size + epsilon))


Given = dict[int | str, Any]
"""What a function was called with, by place or name."""


def _grown(given: Given) -> list[int | str]:
    """Which arguments are tensors that depend on the input."""
    return [key for key, a in given.items() if isinstance(a, Tensor) and a.requires_grad]


def _call(func: Callable, given: Given) -> Any:
    return func(
        *(a for key, a in given.items() if isinstance(key, int)),
        **{k: a for k, a in given.items() if isinstance(k, str)},
    )


# "held" needs to know which factor of a product is the gate: what an activation function made carries a mark, which
# products pass on.
def _is_activated(x: Tensor) -> bool:
    return getattr(x, "_caseback_activated", False)


def _activated(x: Tensor) -> Tensor:
    x._caseback_activated = True  # pyright: ignore[reportAttributeAccessIssue]
    return x


def _product(rules: Rules, func: Callable, given: Given, *, sums: bool = False) -> Tensor:
    grown = _grown(given)
    gates = [key for key in grown if _is_activated(given[key])]
    held = rules.product == "held" and len(gates) == 1 and len(grown) == 2
    out = _call(func, {**given, gates[0]: given[gates[0]].detach()} if held else given)
    if len(grown) > 1 and rules.product != "gradient" and not held:
        out = weakened(out, 0.5)
    if sums and len(grown) == 1 and rules.epsilon:
        return epsilon_rule(out, rules.epsilon)
    return _activated(out) if gates else out


def _summed(rules: Rules, func: Callable, given: Given) -> Tensor:
    return _product(rules, func, given, sums=True)


def _linear(rules: Rules, func: Callable, given: Given) -> Tensor:
    out = _call(func, given)
    return epsilon_rule(out, rules.epsilon) if rules.epsilon and _grown(given) else out


def _gradient(rules: Rules, func: Callable, given: Given) -> Tensor:
    return _call(func, given)


def _elementwise(rules: Rules, func: Callable, given: Given) -> Tensor:
    grown = _grown(given)
    if not grown or rules.activation == "gradient":
        return _call(func, given)
    x = given[grown[0]]
    with torch.no_grad():
        out = _call(func, {**given, grown[0]: x.detach()})
    return identity_rule(x, out)


def _activation(rules: Rules, func: Callable, given: Given) -> Tensor:
    out = _elementwise(rules, func, given)
    return _activated(out) if out.requires_grad else out


def _clamped_in_place(rules: Rules, func: Callable, given: Given) -> Tensor:
    x = given[0]
    if not x.requires_grad or rules.activation == "gradient":
        return _call(func, given)
    with torch.no_grad():
        out = _call(func, {**given, 0: x.detach().clone()})
        ratio = torch.where(x == 0, 0.0, out / torch.where(x == 0, 1.0, x))
    # The graph sees a product with a constant, whose gradient is the rule's; the values are then set to the bit.
    x.mul_(ratio)
    x.data.copy_(out)
    return x


def _softmax(rules: Rules, func: Callable, given: Given) -> Tensor:
    out = _call(func, given)
    return out.detach() if rules.softmax == "held" else out


def _attention(rules: Rules, func: Callable, given: Given) -> Tensor:
    """Scores, softmax and weighted values in one call: their rules act on what enters it, and on what leaves it."""
    q, k, v = (0 if 0 in given else "query"), (1 if 1 in given else "key"), (2 if 2 in given else "value")
    given = dict(given)
    if rules.softmax == "held":
        given[q], given[k] = given[q].detach(), given[k].detach()
    elif rules.product != "gradient":
        # Two products in one call, q k and pattern v: each halves, and queries and keys go through both.
        for key, factor in ((q, 0.25), (k, 0.25), (v, 0.5)):
            given[key] = weakened(given[key], factor)
    return (_linear if rules.softmax == "held" else _gradient)(rules, func, given)


_KINDS: dict[Callable, tuple[Any, ...]] = {
    _product: (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply),
    _summed: (
        *(torch.matmul, torch.bmm, torch.baddbmm, torch.einsum),
        *(Tensor.matmul, Tensor.bmm, Tensor.baddbmm, Tensor.__rmatmul__),
    ),
    _linear: (functional.linear, torch.addmm, Tensor.addmm, functional.conv1d, torch.conv1d),
    _activation: (
        *(functional.gelu, functional.silu, functional.relu, functional.relu6, functional.leaky_relu, functional.elu),
        *(functional.mish, functional.hardswish, functional.softplus, functional.sigmoid, functional.tanh),
        *(torch.relu, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.sigmoid, Tensor.tanh),
    ),
    _elementwise: (torch.clamp, torch.clip, Tensor.clamp, Tensor.clip),
    _clamped_in_place: (Tensor.clamp_, Tensor.clip_),
    _softmax: (functional.softmax, torch.softmax, Tensor.softmax),
    _attention: (functional.scaled_dot_product_attention,),
}
_RULE_OF = {func: rule for rule, funcs in _KINDS.items() for func in funcs}


class _Rewritten(TorchFunctionMode):
    """While active, the torch functions of the table above have the rules' gradient."""

    def __init__(self, rules: Rules):
        super().__init__()
        self.rules, self.resting, self.owner = rules, False, current_pass()

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Leave what runs inside its own gradient: a norm's or an activation's parts are not steps of the network."""
        before, self.resting = self.resting, True
        try:
            yield
        finally:
            self.resting = before

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        rule = None if self.resting or current_pass() is not self.owner else _RULE_OF.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(self.rules, func, {**dict(enumerate(args)), **(kwargs or {})})


@contextmanager
def ruled(anatomy: Anatomy, rules: Rules | None) -> Iterator[None]:
    """Run the model with the rules' backward pass while the context lasts; then everything is as before.

    Parameters
    ----------
    anatomy
        The model.
    rules
        The rules; None changes nothing.

    Raises
    ------
    AnatomyError
        Where a norm of the model is to be held and is neither LayerNorm nor RMSNorm.
    """
    _only_live()
    if rules is None:
        yield
        return
    mode = _Rewritten(rules)
    with hooked() as hooks:
        for module, norm in all_norms(anatomy) if rules.norm == "held" else ():
            _stand_in(hooks, module, mode, lambda x, out, norm=norm: held_norm(norm, x, out))
        for module in norm_modules(anatomy) if rules.norm == "gradient" else ():
            _stand_in(hooks, module, mode, None)
        for module in activations(anatomy):
            pull = identity_rule if rules.activation == "identity" else None
            _stand_in(hooks, module, mode, pull, _activated)
        for module in {id(p.router): p.router for p in anatomy.layers if p.router is not None}.values():
            _stand_in(hooks, module, mode, None, _constant if rules.router == "held" else None)
        torch._C._push_on_torch_function_stack(mode)
        try:
            yield
        finally:
            _only_live(mode)


def _only_live(*ended: _Rewritten) -> None:
    """Take modes off torch's stack that have ended, or that an interrupt left there: they act in no pass any more.

    Torch itself takes a mode off while its handler runs, and may lose it to an interrupt.
    """
    pop, push = torch._C._pop_torch_function_stack, torch._C._push_on_torch_function_stack
    modes = [pop() for _ in range(torch._C._len_torch_function_stack())]
    for mode in reversed(modes):
        if not isinstance(mode, _Rewritten) or (mode.owner is current_pass() and mode not in ended):
            push(mode)


def _stand_in(
    hooks: Hooks,
    module: nn.Module,
    mode: _Rewritten,
    pull: Callable[[Tensor, Tensor], Tensor] | None,
    then: Callable[[Any], Any] | None = None,
) -> None:
    """Give a module another gradient, or its own with no rule inside."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        given: Given = {**dict(enumerate(args)), **kwargs}
        if pull is None:
            with mode.rest():
                out = _call(original, given)
        else:
            key, x = next((key, a) for key, a in given.items() if isinstance(a, Tensor))
            with torch.no_grad():
                out = _call(original, {**given, key: x.detach()})
            out = pull(x, out)
        return out if then is None else then(out)

    hooks.in_place_of(module, forward)


def _constant(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.detach()
    return type(out)(map(_constant, out)) if isinstance(out, tuple | list) else out
