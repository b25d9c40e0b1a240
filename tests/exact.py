"""float64 that stays float64.

Most families widen norms, softmax and rotary angles to float32 whatever the model's dtype, which is narrowing for a
float64 model. ``exact()`` lets those casts pass float64 through, so that identities can be tested to 1e-8 and better.
"""

import torch
from torch.overrides import TorchFunctionMode

_NARROW = (torch.float32, torch.float)
_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


class exact(TorchFunctionMode):
    """While active, casting a float64 tensor to float32 leaves it as it is."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _PRODUCTS and {x.dtype for x in args if isinstance(x, torch.Tensor)} == {
            torch.float32,
            torch.float64,
        }:
            args = tuple(x.double() for x in args)  # positions, which are whole numbers, became float32
        double = bool(args) and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if double:
            if func is torch.Tensor.float:
                return args[0]
            if func in (torch.Tensor.to, torch.Tensor.type) and any(
                a in _NARROW for a in args[1:] if isinstance(a, torch.dtype)
            ):
                args = (args[0], *(torch.float64 if isinstance(a, torch.dtype) else a for a in args[1:]))
            if kwargs.get("dtype") in _NARROW:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
