"""The rows of tokens that were read: 4 bytes per token, so that any place of the corpus can be shown again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import OutOfRange


class Rows:
    """Rows of token ids in the corpus's order, one behind another."""

    def __init__(self) -> None:
        self._ids: list[Tensor] = []
        self._lengths: list[Tensor] = []
        self._whole: tuple[Tensor, Tensor] | None = None
        self.n_rows = self.n_tokens = 0

    def add(self, ids: Int[Tensor, " token"], lengths: Int[Tensor, " row"]) -> None:
        """Append rows: their ids one behind another, and how long each is."""
        self._ids.append(ids.to("cpu", torch.int32))
        self._lengths.append(lengths.to("cpu", torch.int32))
        self.n_rows += len(lengths)
        self.n_tokens += len(ids)
        self._whole = None

    def place(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """The row of places in the corpus, and the position in it."""
        _, ends = self._joined()
        at = torch.as_tensor(index).long()
        if at.numel() and not 0 <= int(at.min()) <= int(at.max()) < self.n_tokens:
            raise OutOfRange(f"places {int(at.min())} to {int(at.max())}: there are {self.n_tokens} tokens")
        row = torch.searchsorted(ends, at, right=True)
        starts = torch.cat([ends.new_zeros(1), ends])
        return row, at - starts[row]

    def __getitem__(self, row: int) -> list[int]:
        if not 0 <= row < self.n_rows:
            raise OutOfRange(f"row {row}: there are {self.n_rows}")
        ids, ends = self._joined()
        first = int(ends[row - 1]) if row else 0
        return ids[first : int(ends[row])].tolist()

    def ids(self) -> Int[Tensor, " token"]:
        """All tokens of the corpus."""
        return self._joined()[0]

    def _joined(self) -> tuple[Tensor, Tensor]:
        if self._whole is None:
            none = torch.zeros(0, dtype=torch.int32)
            ids = torch.cat(self._ids) if self._ids else none
            lengths = torch.cat(self._lengths) if self._lengths else none
            self._ids, self._lengths = [ids], [lengths]
            self._whole = ids, lengths.long().cumsum(0)
        return self._whole
