"""A corpus as it is written down in a job's folder: blocks of rows, 4 bytes a token.

rows/00000.safetensors    ids, lengths, document, start, front, label.NAME; its place in the corpus as metadata
"""

from __future__ import annotations

from pathlib import Path

import torch

from caseback.errors import LoadError
from caseback.jobs.safe_files import read_tensors
from caseback.stream.packing import Block


def holds_block(path: Path, digest: str) -> bool:
    """Whether a block is written down already, whole."""
    try:
        return read_tensors(path)[1].get("block") == digest
    except LoadError:
        return False


def begins_with_held(block: Block, folder: Path, number: int) -> bool:
    """Whether a block begins with the rows that are written down in its place, whole: its corpus has grown."""
    try:
        held = read_block(folder, number)
    except LoadError:
        return False
    rows, tokens = len(held), held.n_tokens
    sizes = {"ids": tokens, **{f"label.{name}": tokens for name in block.labels}}
    own = {name: x[: sizes.get(name, rows)] for name, x in block.tensors().items()}
    return all(name in own and torch.equal(own[name], x) for name, x in held.tensors().items())


def rows_path(folder: Path, number: int) -> Path:
    """The file of a block's rows."""
    return folder / "rows" / f"{number:05d}.safetensors"


def read_block(folder: Path, number: int, digest: str | None = None) -> Block:
    """A block as it was written down.

    Raises
    ------
    LoadError
        For a file that is absent or damaged, or whose block has not the digest that is given.
    """
    path = rows_path(folder, number)
    tensors, metadata = read_tensors(path)
    if digest is not None and metadata.get("block") != digest:
        raise LoadError(f"{str(path)!r} holds other rows than the job is of: make the call that began the job again")
    firsts = [metadata.get(name, "") for name in ("first_row", "first_token")]
    if not all(first.isdecimal() and len(first) < 19 for first in firsts):
        raise LoadError(f"{str(path)!r} does not say where its rows begin: write the rows again")
    return Block.from_tensors(tensors, *map(int, firsts))


def split_documents(folder: Path, n_blocks: int) -> dict[str, int]:
    """How many documents have rows, how many between them none, how many were split, and the longest row's tokens."""
    names = ("document", "start", "lengths")
    parts = [read_tensors(rows_path(folder, number), names)[0] for number in range(n_blocks)]
    document, start, lengths = (torch.cat([part[name] for part in parts]) for name in names)
    with_rows = len(document.unique())
    return {
        "documents": with_rows,
        "without_text": int(document.max()) + 1 - with_rows,
        "split": len(document[start > 0].unique()),
        "row_tokens": int(lengths.max()),
    }
