"""What every measure is given: dictionaries by name, and states, however they come, in blocks of one size.

States come whole, or piece by piece from a store or a model. Measures see them in blocks of a fixed number of tokens,
so that no number depends on the pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.states import States
from caseback.errors import ArgumentError, CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION

Dictionaries = Annotated[Dictionary | Mapping[str, Dictionary], JUDGED_BY_THE_FUNCTION]
"""One dictionary, or several by name."""

StatesLike = Annotated[Tensor | States | Iterable[Tensor], JUDGED_BY_THE_FUNCTION]
"""States (token, d): a tensor, what ``read_states`` gives of one place, or pieces one after another."""


def named(dictionaries: Dictionaries) -> dict[str, Dictionary]:
    """Dictionaries by name; one alone is called after its architecture.

    Raises
    ------
    ArgumentError
        For none, or what is no dictionary.
    """
    if isinstance(dictionaries, Dictionary):
        return {dictionaries.architecture or type(dictionaries).__name__: dictionaries}
    if not isinstance(dictionaries, Mapping) or not dictionaries:
        what = type(dictionaries).__name__
        raise ArgumentError(f"dictionaries are a {what}: expected a dictionary, or a mapping of names to dictionaries")
    for name, one in dictionaries.items():
        if not isinstance(name, str) or not isinstance(one, Dictionary):
            raise ArgumentError(f"{name!r} is a {type(one).__name__}: expected names with a dictionary each")
    return dict(dictionaries)


def pieces_of(states: StatesLike, what: str = "states") -> Iterator[Float[Tensor, "token d"]]:
    """States piece by piece, each looked at.

    Raises
    ------
    TokensError
        For other shapes, several widths, numbers that are not finite, and none at all.
    """
    if isinstance(states, States):
        if len(states.places) != 1:
            raise TokensError(f"{what} of {len(states.places)} places: dictionaries read one, take States of it alone")
        states = states.x[0]
    try:
        pieces = [torch.as_tensor(states)] if hasattr(states, "shape") else iter(states)
    except (TypeError, ValueError, RuntimeError):
        raise TokensError(f"{what} are a {type(states).__name__}: expected a tensor (token, d), or several") from None
    width = None
    for piece in pieces:
        if not isinstance(piece, Tensor) or piece.ndim != 2 or not piece.is_floating_point():
            shape = (
                f"of shape {tuple(piece.shape)}, {piece.dtype}" if isinstance(piece, Tensor) else type(piece).__name__
            )
            raise TokensError(f"{what}: a piece is {shape}: expected numbers (token, d)")
        if piece.is_meta or piece.layout != torch.strided:
            raise TokensError(f"{what}: a piece does not hold its numbers: expected a plain tensor (token, d)")
        if width not in (None, piece.shape[1]):
            raise TokensError(f"{what}: a piece of width {piece.shape[1]} behind one of width {width}")
        if not bool(piece.isfinite().all()):
            raise TokensError(f"{what} hold numbers that are not finite: leave those tokens out")
        width = piece.shape[1]
        if len(piece):
            yield piece.detach()


def whole(states: StatesLike, what: str = "states") -> Float[Tensor, "token d"]:
    """All states together.

    Raises
    ------
    TokensError
        As ``pieces_of``, and for none.
    """
    pieces = list(pieces_of(states, what))
    if not pieces:
        raise TokensError(f"there are no {what}: expected one token at least")
    return torch.cat(pieces)


def blocks_of(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same tokens in blocks of ``size``, the last one shorter.

    Examples
    --------
    >>> [len(block) for block in blocks_of([torch.zeros(3, 1), torch.zeros(4, 1)], 5)]
    [5, 2]
    """
    held: list[Tensor] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= size:
            *whole, rest = torch.cat(held).split(size)
            if len(rest) == size:
                whole, rest = [*whole, rest], rest[:0]
            yield from whole
            held = [rest]
    if sum(map(len, held)):
        yield torch.cat(held)


def paired_blocks(states: StatesLike, targets: StatesLike | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of states and of what is to be reconstructed, which is the states themselves without ``targets``.

    Raises
    ------
    TokensError
        For different numbers of tokens, and for none.
    """
    count = 0
    sources = blocks_of(pieces_of(states), size)
    if targets is None:
        pairs = ((x, x) for x in sources)
    else:
        pairs = zip_longest(sources, blocks_of(pieces_of(targets, "targets"), size))
    for x, target in pairs:
        if x is None or target is None or len(x) != len(target):
            raise TokensError("there are more states than targets, or fewer: expected a target for each state")
        count += len(x)
        yield x, target
    if not count:
        raise TokensError("there are no states: expected one token at least")


def expect_widths(dictionaries: Mapping[str, Dictionary], d_in: int, d_out: int) -> None:
    """Refuse dictionaries that read or write another width.

    Raises
    ------
    TokensError
        Naming the dictionary.
    """
    for name, one in dictionaries.items():
        if (one.d_in, one.d_out) != (d_in, d_out):
            raise TokensError(
                f"{name!r} reads {one.d_in} numbers and writes {one.d_out}: the states have {d_in}, "
                f"what is to be reconstructed {d_out}"
            )


def rows_in_hand(dictionary: Dictionary) -> int:
    """How many tokens' scores of all features are formed at once."""
    return max(1, limit("feature_scores", dictionary.W_enc.device) // dictionary.n_features)


def table_of_codes(codes: Any, what: str = "codes") -> Float[Tensor, "token feature"]:
    """Codes as a dense table.

    Raises
    ------
    CasebackError
        For what is none.
    """
    try:
        table = torch.as_tensor(codes)
    except (TypeError, ValueError, RuntimeError):
        raise CasebackError(f"{what} are a {type(codes).__name__}: expected a tensor (token, feature)") from None
    table = table.to_dense() if table.layout != torch.strided else table
    if table.ndim != 2 or not table.numel() or table.is_complex() or not bool(table.isfinite().all()):
        raise CasebackError(f"{what} of shape {tuple(table.shape)}: expected finite numbers (token, feature)")
    return table
