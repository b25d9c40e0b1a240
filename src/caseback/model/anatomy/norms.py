"""Normalization with its denominator frozen is linear (PRIMER 2.2).

LayerNorm and RMSNorm are one map with a switch for centering, M = I - (1/d) 11^T or I:

    norm(x) = (x M / scale(x)) * gamma + beta,    scale(x) = sqrt(mean((x M)^2) + eps).

With ``scale`` held at its forward value every addend of x passes through by itself, and beta is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import AnatomyError
from caseback.model.anatomy.parameters import parameter


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions widened to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@dataclass(frozen=True)
class Norm:
    """A norm as plain numbers: what the module multiplies by and adds, and whether it centers."""

    gamma: Float[Tensor, " d_model"]
    beta: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    def centre(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model"]:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims 1"]:
        """The denominator at x, its epsilon included."""
        x = self.centre(at_least_float32(x))
        return (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def frozen(
        self, parts: Float[Tensor, "*dims d_model"], scale: Float[Tensor, "*dims 1"]
    ) -> Float[Tensor, "*dims d_model"]:
        """The norm's linear part at a frozen denominator: applied to addends of x, the results sum to norm(x) - beta.

        Examples
        --------
        >>> norm = Norm(torch.ones(4), None, 1e-5, centred=True)
        >>> x = torch.tensor([1.0, 2.0, 3.0, 6.0])
        >>> a, b = x * 0.25, x * 0.75
        >>> together = norm.frozen(a, norm.scale(x)) + norm.frozen(b, norm.scale(x))
        >>> torch.allclose(together, norm(x))
        True
        """
        return self.centre(at_least_float32(parts)) / scale * self.gamma.to(scale)

    def pull(
        self, direction: Float[Tensor, "*dims d_model"], scale: Float[Tensor, "*dims 1"]
    ) -> Float[Tensor, "*dims d_model"]:
        """The transpose of ``frozen``: the direction in the stream that a direction after the norm reads."""
        return self.centre(at_least_float32(direction) * self.gamma.to(scale)) / scale

    def vjp(
        self, direction: Float[Tensor, "*dims d_model"], x: Float[Tensor, "*dims d_model"]
    ) -> Float[Tensor, "*dims d_model"]:
        """A gradient after the norm pulled before it at x, where its denominator moves too.

            M (gamma g) / s  -  c (c . gamma g) / (d s^3),    c = x M

        ``x`` may have size 1 where ``direction`` has several, so that many directions at one x copy nothing of it.

        Examples
        --------
        >>> norm = Norm(torch.ones(4), None, 1e-5, centred=True)
        >>> x, g = torch.tensor([1.0, 2.0, 3.0, 6.0], requires_grad=True), torch.tensor([0.5, -1.0, 2.0, 0.0])
        >>> torch.allclose(norm.vjp(g, x.detach()), torch.autograd.grad(norm(x), x, g)[0], atol=1e-6)
        True
        """
        unit, scale = self.unit(x)
        g = at_least_float32(direction) * self.gamma.to(direction.device)
        along = torch.linalg.vecdot(g, unit.expand_as(g))
        return torch.addcmul(self.centre(g), unit, along.unsqueeze(-1), value=-1).div_(scale)

    def unit(
        self, x: Float[Tensor, "*dims d_model"]
    ) -> tuple[Float[Tensor, "*dims d_model"], Float[Tensor, "*dims 1"]]:
        """The direction along which x moves its own denominator, c / (s sqrt(d)), and the denominator s."""
        c = self.centre(at_least_float32(x))
        scale = (c.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return c / (scale * c.shape[-1] ** 0.5), scale

    def __call__(self, x: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model"]:
        out = self.frozen(x, self.scale(x))
        return out if self.beta is None else out + self.beta.to(out.device)


class Form(NamedTuple):
    """What a norm module does with its parameters, which may change while this does not."""

    eps: str | float
    """The attribute that holds epsilon, or its value where the module's code has it."""
    centred: bool
    offset: float
    """What is added to the module's weight, or to 0 where it has none: it multiplies by w or by 1 + w."""
    width: int

    def read(self, module: nn.Module, device: torch.device | None = None) -> Norm:
        """The norm as numbers, with the module's parameters as they now are, on one device for a spread model."""
        weight, bias = _wide(module, "weight", device), _wide(module, "bias", device)
        weight = torch.zeros(self.width) if weight is None else weight
        eps = float(getattr(module, self.eps)) if isinstance(self.eps, str) else self.eps
        return Norm(weight + self.offset if self.offset else weight, bias, eps, self.centred)


class Norms(Mapping[Any, Norm]):
    """Norm modules as numbers: their form is found once, their parameters are read whenever they are asked for."""

    def __init__(self, modules: Iterable[nn.Module], d_model: int, device: torch.device):
        self._device = device
        self._forms = _forms_of(modules, d_model)

    def __getitem__(self, module: Any) -> Norm:
        return self._forms[module].read(module, self._device)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)


def _wide(module: nn.Module, name: str, device: torch.device | None) -> Tensor | None:
    """A norm's parameter as numbers, in float32 at least."""
    value = parameter(module, name)
    return None if value is None else at_least_float32(value.detach()).to(device)


def read_norm(module: nn.Module, d_model: int) -> Norm:
    """Read a norm module as numbers, once; see ``form_of``."""
    return form_of(module, d_model).read(module)


def _forms_of(modules: Iterable[nn.Module], d_model: int) -> dict[nn.Module, Form]:
    """The form of each norm, found once for all that run the same code with the same settings."""
    forms: dict[nn.Module, Form] = {}
    by_code: dict[Any, Form] = {}
    for module in modules:
        alike = _code_of(module)
        form, certain = (by_code[alike], True) if alike in by_code else _tried(module, d_model)
        forms[module] = form
        if certain and alike is not None:
            by_code[alike] = form
    return forms


def _code_of(module: nn.Module) -> Any:
    """What two modules share that do the same with their parameters; None where that is not plain to see."""
    own = {name: value for name, value in vars(module).items() if name not in nn.Module().__dict__}
    if "forward" in own or module._modules or not all(isinstance(x, _SETTING) for x in own.values()):
        return None
    shapes = [(name, tuple(x.shape), x.dtype) for name, x in module.named_parameters()]
    return type(module), tuple(sorted(own.items())), tuple(shapes)


_SETTING = (bool, int, float, str, tuple, type(None))


def form_of(module: nn.Module, d_model: int) -> Form:
    """What a norm module does with its parameters.

    Whether it centers and whether it multiplies by w or by 1 + w is found by trying the module on a probe, since
    classes differ in it without a name to tell them apart.

    Raises
    ------
    AnatomyError
        If the module is not one of these norms.
    """
    return _tried(module, d_model)[0]


def _tried(module: nn.Module, d_model: int) -> tuple[Form, bool]:
    """A norm's form, and whether it is the only one that does what the module does on a probe."""
    weight, bias = parameter(module, "weight"), parameter(module, "bias")
    like = weight if weight is not None else next(module.parameters(), torch.zeros(()))
    names = ("eps", "variance_epsilon", "norm_eps", "epsilon")
    eps: str | float | None = next((name for name in names if getattr(module, name, None) is not None), None)
    if eps is None and weight is None:
        eps = _measured_eps(module, d_model, like)
    if eps is None:
        raise AnatomyError(f"{type(module).__name__} keeps no epsilon under any of {', '.join(names)}")
    size = float(getattr(module, eps)) if isinstance(eps, str) else eps
    probe = torch.linspace(-1.0, 2.0, d_model, dtype=torch.float64).sin() + 0.3
    if weight is not None and weight.ndim > 1:  # one norm per head, with weights of its own
        probe = probe.expand(weight.shape)
    with torch.no_grad():
        output = module.forward(probe.to(like)[None])[0].cpu().double()  # not every device has float64
        forms, off = [], [output.abs().max()]
        for centred in (False, True):
            for offset in (0.0, 1.0) if weight is not None else (1.0,):
                gamma = (weight.detach().cpu().double() if weight is not None else torch.zeros_like(probe)) + offset
                beta = None if bias is None else bias.detach().cpu().double()
                off.append((Norm(gamma, beta, size, centred)(probe) - output).abs().max())
                forms.append(Form(eps, centred, offset, d_model))
    largest, *errors = torch.stack(off).tolist()
    error, form = min(zip(errors, forms, strict=True), key=lambda pair: pair[0])
    tolerance = (0.05 if like.dtype in (torch.float16, torch.bfloat16) else 1e-4) * max(1.0, largest)
    if not error <= tolerance:
        raise AnatomyError(
            f"{type(module).__name__} is neither LayerNorm nor RMSNorm: nearest form is off by {error:.2g}"
        )
    return form, sum(error <= tolerance for error in errors) == 1


def _measured_eps(module: nn.Module, d_model: int, like: Tensor) -> float:
    """The epsilon of a norm that writes it into its code (OLMo): it rules the output where the input is small."""
    x = torch.linspace(-1.0, 1.0, d_model, dtype=torch.float64) * 1e-3
    with torch.no_grad():
        out = module.forward(x.to(like)[None])[0].cpu().double()
    return float(f"{(x.norm() / out.norm()) ** 2 - x.pow(2).mean():.1e}")
