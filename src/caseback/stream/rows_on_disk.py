"""A corpus as it is written down in a job's folder: blocks of rows, 4 bytes a token.

rows/00000.safetensors    ids, lengths, document, start, front, label.NAME; its place in the corpus as metadata
"""

from __future__ import annotations

from pathlib import Path

from caseback.errors import LoadError
from caseback.jobs.safe_files import read_tensors
from caseback.stream.packing import Block


def holds_block(path: Path, digest: str) -> bool:
    """Whether a block is written down already, whole."""
    try:
        return read_tensors(path)[1].get("block") == digest
    except LoadError:
        return False


def rows_path(folder: Path, number: int) -> Path:
    """The file of a block's rows."""
    return folder / "rows" / f"{number:05d}.safetensors"


def read_block(folder: Path, number: int) -> Block:
    """A block as it was written down.

    Raises
    ------
    LoadError
        For a file that is absent or damaged.
    """
    tensors, metadata = read_tensors(rows_path(folder, number))
    return Block.from_tensors(tensors, int(metadata["first_row"]), int(metadata["first_token"]))
