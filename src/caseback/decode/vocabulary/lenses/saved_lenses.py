"""Lenses in safe files of ours: one safetensors file each, its description among the metadata, no pickle.

    lens             weight (row, d_model, d_model), bias (row, d_model)
    attention lens   down (head, d_model, rank), up (head, rank, d_model);  or weight (head, d_model, vocab)
    future prompt    vectors (pos, d_model)

The metadata hold ``format`` (which of these, and its version), ``fingerprint`` (of the model's final norm and
unembedding), ``made`` (how, as JSON) and the numbers that the tensors do not tell. What is read is checked against
that, and against a model where one is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caseback.decode.vocabulary.lenses.attention_lens import AttentionLens
from caseback.decode.vocabulary.lenses.future_prompt import FuturePrompt
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.errors import CasebackError, LoadError
from caseback.jobs.whole_file import whole_file
from caseback.model.running.model import Model

# what a format is called in its file, and which function reads it
FORMATS = {
    "caseback lens 1": "load_lens",
    "caseback attention lens 1": "load_attention_lens",
    "caseback future prompt 1": "load_future_prompt",
}
Made = TypeVar("Made", Lens, AttentionLens, FuturePrompt)


def save_lens(lens: Lens | AttentionLens | FuturePrompt, path: str | Path) -> None:
    """Write a lens, an attention lens or a future prompt to one safetensors file, whole or not at all.

    Parameters
    ----------
    lens
        What any of the ``fit_`` functions of lenses gave.
    path
        Where.

    Raises
    ------
    CasebackError
        For anything else.

    Examples
    --------
    >>> import tempfile, torch
    >>> lens = Lens("tuned", (0,), torch.eye(4)[None], torch.zeros(1, 4), n_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(lens, Path(folder) / "a.safetensors")
    ...     load_lens(Path(folder) / "a.safetensors").kind
    'tuned'
    """
    if isinstance(lens, Lens):
        known = {"format": "caseback lens 1", "kind": lens.kind, "rows": json.dumps(lens.rows)}
        known |= {"n_layers": str(lens.n_layers), "ahead": str(lens.ahead)}
        tensors: dict[str, Tensor | None] = {"weight": lens.weight, "bias": lens.bias}
    elif isinstance(lens, AttentionLens):
        known = {"format": "caseback attention lens 1", "layer": str(lens.layer)}
        tensors = {"down": lens.down, "up": lens.up, "weight": lens.weight}
    elif isinstance(lens, FuturePrompt):
        known = {"format": "caseback future prompt 1", "row": str(lens.row)}
        known |= {"target_row": str(lens.target_row), "ahead": str(lens.ahead)}
        tensors = {"vectors": lens.vectors}
    else:
        raise CasebackError(f"a {type(lens).__name__} is no lens: expected a Lens, an AttentionLens or a FuturePrompt")
    said = {**known, "fingerprint": lens.fingerprint, "made": json.dumps(lens.made)}
    held = {name: value.detach().contiguous() for name, value in tensors.items() if value is not None}
    with whole_file(path) as draft:
        save_file(held, draft, said)


def load_lens(path: str | Path, model: Model | None = None) -> Lens:
    """Read a ``Lens`` that ``save_lens`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        Refuse a lens of another model at once, not only when it is used.

    Raises
    ------
    LoadError
        For a file that is none, or that lacks something or holds tensors of other shapes than it says.
    CasebackError
        For a lens of another model.
    """

    def made(said: Mapping[str, str], tensors: dict[str, Tensor]) -> Lens:
        rows, n_layers = tuple(json.loads(said["rows"])), int(said["n_layers"])
        _expect(path, tensors, {"weight": "row d_model d_model", "bias": "row d_model"}, row=len(rows))
        ahead, how = int(said["ahead"]), json.loads(said["made"])
        return Lens(said["kind"], rows, tensors["weight"], tensors["bias"], n_layers, ahead, said["fingerprint"], how)

    return _read(path, "caseback lens 1", made, model)


def load_attention_lens(path: str | Path, model: Model | None = None) -> AttentionLens:
    """Read an ``AttentionLens`` that ``save_lens`` wrote.

    Parameters
    ----------
    path, model
        As for ``load_lens``.

    Raises
    ------
    LoadError, CasebackError
        As ``load_lens``.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import fit_attention_lens
    >>> model = cb.load("meadow")
    >>> lens = fit_attention_lens(model, ["Mary went to the store."], layer=2, rank=1, steps=1, tokens_per_step=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(lens, Path(folder) / "heads.safetensors")
    ...     load_attention_lens(Path(folder) / "heads.safetensors", model).made == lens.made
    True
    """

    def made(said: Mapping[str, str], tensors: dict[str, Tensor]) -> AttentionLens:
        free = {"weight": "head d_model vocab"}
        low_rank = {"down": "head d_model rank", "up": "head rank d_model"}
        _expect(path, tensors, free if "weight" in tensors else low_rank)
        down, up, weight = (tensors.get(name) for name in ("down", "up", "weight"))
        return AttentionLens(int(said["layer"]), down, up, weight, said["fingerprint"], json.loads(said["made"]))

    return _read(path, "caseback attention lens 1", made, model)


def load_future_prompt(path: str | Path, model: Model | None = None) -> FuturePrompt:
    """Read a ``FuturePrompt`` that ``save_lens`` wrote.

    Parameters
    ----------
    path, model
        As for ``load_lens``.

    Raises
    ------
    LoadError, CasebackError
        As ``load_lens``.

    Examples
    --------
    >>> import tempfile
    >>> import caseback as cb
    >>> from caseback.decode.vocabulary import fit_future_prompt
    >>> model = cb.load("meadow")
    >>> prompt = fit_future_prompt(model, ["Monday, Tuesday, Wednesday"], row=2, steps=1, states_per_step=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_lens(prompt, Path(folder) / "prompt.safetensors")
    ...     bool((load_future_prompt(Path(folder) / "prompt.safetensors", model).vectors == prompt.vectors).all())
    True
    """

    def made(said: Mapping[str, str], tensors: dict[str, Tensor]) -> FuturePrompt:
        _expect(path, tensors, {"vectors": "pos d_model"})
        row, target_row, ahead = (int(said[name]) for name in ("row", "target_row", "ahead"))
        return FuturePrompt(tensors["vectors"], row, target_row, ahead, said["fingerprint"], json.loads(said["made"]))

    return _read(path, "caseback future prompt 1", made, model)


def _read(
    path: str | Path,
    wanted: str,
    made: Callable[[Mapping[str, str], dict[str, Tensor]], Made],
    model: Model | None,
) -> Made:
    """What a file of one of the formats holds."""
    what = wanted[len("caseback ") :].rsplit(" ", 1)[0]
    article = "an" if what[0] == "a" else "a"
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path} cannot be read as {article} {what}: {error}") from None
    own = said.get("format", "")
    if own != wanted:
        if own in FORMATS:
            raise LoadError(f"{path} holds no {what} but {own!r}: {FORMATS[own]} reads it")
        if own.startswith(wanted[:-1]):
            raise LoadError(f"{path} is of the format {own!r}, and this version of caseback reads {wanted!r}")
        raise LoadError(f"{path} is a safetensors file but no {what}: expected one that save_lens wrote")
    try:
        found = made(said, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{path} does not say what {article} {what} says: {error!r} is missing or wrong") from None
    if model is not None:
        found.expect(model)
    return found


def _expect(path: str | Path, tensors: Mapping[str, Tensor], layout: Mapping[str, str], **sizes: int) -> None:
    """Refuse a file whose tensors are not those of a layout.

    Parameters
    ----------
    path
        For the message.
    tensors
        What the file holds.
    layout
        For each tensor the names of its dimensions; a name has one size.
    **sizes
        Those that are known.

    Raises
    ------
    LoadError
        Where a tensor is missing, unknown or of another shape.
    """
    for name, dims in layout.items():
        if name not in tensors:
            raise LoadError(f"{path} lacks the tensor {name!r} ({dims.replace(' ', ', ')})")
        shape, names = tuple(tensors[name].shape), dims.split()
        if len(shape) != len(names) or any(sizes.setdefault(d, n) != n for d, n in zip(names, shape, strict=True)):
            told = ", ".join(f"{d} {sizes[d]}" if d in sizes else d for d in names)
            raise LoadError(f"{path}: the tensor {name!r} has the shape {shape}, expected ({told})")
    unknown = sorted(set(tensors) - set(layout))
    if unknown:
        raise LoadError(f"{path} holds tensors that are not of its format: {', '.join(unknown)}")
