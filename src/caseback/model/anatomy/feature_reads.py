"""What is asked of a dictionary by those who look at its features one by one, whatever class it has.

    a_i = r_i . x + c_i            around a state x, which features are active and all factors of x held
    y   = sum_i a_i w_i + rest     what is written

``decode.dictionaries`` has such classes; ``localize`` knows this form alone.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Places(Protocol):
    """Where a dictionary reads and writes."""

    @property
    def site(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def model(self) -> str: ...


class FeatureDictionary(Protocol):
    """A dictionary of one layer's states, (token, d_in), or of all layers', (token, layer, d_in)."""

    n_features: int
    W_skip: Tensor | None

    @property
    def facts(self) -> Places: ...

    def to(self, device: torch.device, /) -> Self:
        """The same on a device."""
        ...

    def encode(self, x: Tensor) -> Float[Tensor, "token feature"]:
        """How active each feature is."""
        ...

    def reads(
        self, x: Tensor, token: Int[Tensor, " entry"], feature: Int[Tensor, " entry"]
    ) -> Float[Tensor, "entry d_in"]:
        """What each of some active features reads of the state of a token: r_i."""
        ...

    def writes(
        self, x: Tensor, token: Int[Tensor, " entry"], feature: Int[Tensor, " entry"]
    ) -> Float[Tensor, "entry target d_out"]:
        """What one unit of each writes there: w_i, at each layer that it writes to, its own first."""
        ...

    def rest(self, x: Tensor) -> Float[Tensor, "token ..."]:
        """What is written that no feature writes, but for the skip's map of x."""
        ...
