"""Sparse codes of a corpus (what a dictionary's features are at every token), split so that a feature is read alone.

    codes/00000.safetensors      features first .. last:  starts (feature + 1), place, value
    feature f is active at       place[starts[f] : starts[f + 1]],  in the order of the corpus

Rows of this CSR matrix are features and its columns are tokens, cut into files by ranges of features: an explorer that
shows one feature reads two slices of one file, by memory map. Codes come token by token; what does not fit into memory
is written down as runs, each sorted by feature, and the runs are joined range by range.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from caseback.errors import LoadError, OutOfRange, TokensError, WriteError
from caseback.jobs.budget import limit
from caseback.jobs.forms import read_record
from caseback.jobs.safe_files import read_tensors, write_json, write_tensors
from caseback.jobs.whole_file import make_folder
from caseback.model.arguments import checked

FORMAT = "caseback sparse codes 1"
_FORM = {"tokens": int, "features": int, "starts": [int], "result_of": str}


@dataclass
class Codes:
    """Sparse codes in a folder.

    Attributes
    ----------
    folder
        Where.
    n_tokens, n_features
        The matrix's sides.
    starts
        The first feature of each file.
    counts
        At how many tokens each feature is active, (feature).
    result_of
        What the codes are of, as it was given when they were written.
    """

    folder: Path
    n_tokens: int
    n_features: int
    starts: list[int]
    counts: Int[Tensor, " feature"]
    result_of: str
    _checked: set[int] = field(default_factory=set, repr=False)

    @property
    def density(self) -> Float[Tensor, " feature"]:
        """The share of tokens at which each feature is active."""
        return self.counts / self.n_tokens

    def feature(self, number: int) -> tuple[Int[Tensor, " active"], Float[Tensor, " active"]]:
        """Where a feature is active, and how much: places in the corpus, in their order, and values.

        Raises
        ------
        OutOfRange
            For a feature that there is not.
        LoadError
            For a file that is absent or damaged.
        """
        if not 0 <= number < self.n_features:
            raise OutOfRange(f"feature {number}: there are {self.n_features}")
        shard = bisect_right(self.starts, number) - 1
        path = self._verified(shard)
        own = number - self.starts[shard]
        try:
            with safe_open(path, "pt") as file:
                first, last = file.get_slice("starts")[own : own + 2].tolist()
                return file.get_slice("place")[first:last], file.get_slice("value")[first:last]
        except (OSError, SafetensorError) as error:
            raise LoadError(f"{str(path)!r} cannot be read: {error}") from None

    def shard(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """All features of one file: ``starts``, ``place`` and ``value``, a CSR matrix of (feature, token)."""
        tensors, _ = read_tensors(self._verified(number))
        return tensors["starts"], tensors["place"], tensors["value"]

    def _verified(self, shard: int) -> Path:
        """A file is read whole once and its digest compared; from then on only what is asked for is read."""
        path = _path(self.folder, shard)
        if shard not in self._checked:
            read_tensors(path)
            self._checked.add(shard)
        return path

    def __repr__(self) -> str:
        return f"Codes({self.n_tokens:,} tokens x {self.n_features:,} features, {int(self.counts.sum()):,} active)"


@checked
def write_codes(
    folder: str | Path, codes: Iterable[Tensor], *, result_of: str = "", file_bytes: int | None = None
) -> Codes:
    """Write the codes of a corpus, feature by feature.

    Parameters
    ----------
    folder
        Where; new or empty, or with codes of the same ``result_of``, which are then taken as they are.
    codes
        Codes of tokens one after another, (token, feature) each: dense, or sparse in any of torch's layouts.
    result_of
        What they follow from (a digest of the activations and the dictionary, say); codes of something else in the
        folder are refused.
    file_bytes
        Bytes of a file; by default the limit ``code_bytes``. As many are held in memory until they are sorted.

    Returns
    -------
    Codes

    Raises
    ------
    TokensError
        For no codes, codes that are no matrices, or of different widths.
    LoadError
        For a folder with codes of something else.
    WriteError
        For a folder that holds other things, or cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     codes = write_codes(folder, [torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0]])])
    ...     codes.feature(1)
    (tensor([0, 2]), tensor([2., 3.]))
    """
    at = make_folder(folder, "the codes")
    if os.path.exists(at / "codes.json"):
        held = open_codes(at)
        if held.result_of != result_of:
            raise LoadError(f"{str(folder)!r} holds codes of something else: choose another folder")
        return held
    others = [name for name in os.listdir(at) if name not in ("runs", "codes")]
    if others:
        raise WriteError(f"{str(folder)!r} holds other things ({others[0]}): choose an empty or a new folder")
    for room in ("runs", "codes"):  # of one that was interrupted
        shutil.rmtree(at / room, ignore_errors=True)
        make_folder(at / room, "the codes")
    room = limit("code_bytes", given=file_bytes)
    runs, n_tokens = _write_runs(at / "runs", codes, room)
    counts = torch.stack(runs).sum(0)
    starts = _ranges(counts, room)
    _join(at, runs, starts)
    facts = {"tokens": n_tokens, "features": len(counts), "starts": starts, "result_of": result_of}
    write_tensors(at / "counts.safetensors", {"counts": counts})
    write_json(at / "codes.json", {"format": FORMAT, **facts})
    shutil.rmtree(at / "runs", ignore_errors=True)
    return Codes(at, n_tokens, len(counts), starts, counts, result_of)


@checked
def open_codes(folder: str | Path) -> Codes:
    """The codes in a folder that ``write_codes`` wrote.

    Raises
    ------
    LoadError
        For a folder without them, or a damaged one.
    """
    path = Path(folder) / "codes.json"
    if not os.path.isfile(path):
        raise LoadError(f"{str(folder)!r} holds no sparse codes: expected a codes.json in it, written last of all")
    facts = read_record(path, FORMAT, _FORM, "store of sparse codes")
    counts = read_tensors(Path(folder) / "counts.safetensors", ["counts"])[0]["counts"]
    return Codes(Path(folder), facts["tokens"], facts["features"], facts["starts"], counts, facts["result_of"])


def _path(folder: Path, shard: int) -> Path:
    return folder / "codes" / f"{shard:05d}.safetensors"


def _run_path(folder: Path, run: int) -> Path:
    return folder / f"{run:05d}.safetensors"


def _write_runs(folder: Path, codes: Iterable[Tensor], room: int) -> tuple[list[Tensor], int]:
    """Each run's counts by feature, and how many tokens there were."""
    counts: list[Tensor] = []
    held: list[tuple[Tensor, Tensor, Tensor]] = []
    n_tokens, width, size = 0, 0, 0

    def write() -> None:
        feature, place, value = (torch.cat(parts) for parts in zip(*held, strict=True))
        order = feature.argsort(stable=True)  # tokens came in their order, and stay in it
        counts.append(torch.bincount(feature, minlength=width))
        write_tensors(_run_path(folder, len(counts) - 1), {"place": place[order], "value": value[order]})
        held.clear()

    for piece in codes:
        if not isinstance(piece, Tensor) or piece.ndim != 2:
            raise TokensError(f"codes are a {type(piece).__name__}: expected a matrix (token, feature)")
        if n_tokens and piece.shape[1] != width:
            raise TokensError(f"codes of {piece.shape[1]} features behind codes of {width}: expected as many")
        width = piece.shape[1]
        entries = piece.detach().cpu().to_sparse_coo().coalesce()
        token, feature = entries.indices()
        some = entries.values() != 0
        held.append((feature[some], token[some] + n_tokens, entries.values()[some]))
        n_tokens += len(piece)
        size += sum(x.numel() * x.element_size() for x in held[-1])
        if size >= room:
            write()
            size = 0
    if not n_tokens or not width:
        raise TokensError("there are no codes: expected matrices (token, feature)")
    if held:
        write()
    return counts, n_tokens


def _ranges(counts: Tensor, room: int) -> list[int]:
    """The first feature of each file: a file ends before the feature with which it would be too long."""
    starts, size = [0], 0
    for number, count in enumerate(counts.tolist()):
        own = 12 * count  # a place and a float32
        if size and size + own > room:
            starts.append(number)
            size = 0
        size += own
    return starts


def _join(folder: Path, runs: Sequence[Tensor], starts: Sequence[int]) -> None:
    """Each range of features out of all runs, where it is one slice, as a file."""
    firsts = [torch.cat([torch.zeros(1, dtype=torch.int64), run.cumsum(0)]) for run in runs]
    for shard, (first, last) in enumerate(zip(starts, [*starts[1:], len(runs[0])], strict=True)):
        parts = {"place": [], "value": []}
        for number, ends in enumerate(firsts):
            with safe_open(_run_path(folder / "runs", number), "pt") as file:
                for name, listed in parts.items():
                    listed.append(file.get_slice(name)[int(ends[first]) : int(ends[last])])
        features = torch.arange(last - first)
        feature = torch.cat([features.repeat_interleave(run[first:last]) for run in runs])
        order = feature.argsort(stable=True)  # runs follow one another in the corpus
        ends = torch.stack([run[first:last] for run in runs]).sum(0).cumsum(0)
        joined = {name: torch.cat(listed)[order] for name, listed in parts.items()}
        write_tensors(_path(folder, shard), {"starts": torch.cat([ends.new_zeros(1), ends]), **joined})
