"""Directions in the files of other tools: control vectors in GGUF, and tensors in ``.pt`` files.

    general.architecture = "controlvector",  controlvector.model_hint,  controlvector.layer_count
    direction.N   float32 (d,):   added to what block N writes, blocks counted from 0: ``resid_post.N``,  N >= 1

So llama.cpp applies them (``build_cvec`` behind the last residual addition of block N) and repeng writes them; neither
has anything at block 0. llama.cpp's own generator counts differently: it finds at block N - 1 what it names N.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.states import Place, expect_places, read_states, sites_of
from caseback.errors import CasebackError, LoadError
from caseback.jobs.pickles import unpickled
from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

_ARCHITECTURE = "controlvector"


@checked
def save_control_vector(
    directions: Directions,
    path: str | Path,
    *,
    unit: Literal["difference", "norm"] = "difference",
    model: Model | None = None,
) -> None:
    """Write what directions add as a GGUF control vector, for llama.cpp and repeng.

    Parameters
    ----------
    directions
        At ``resid_post`` of some layers from 1 on: llama.cpp adds nothing at layer 0.
    path
        Where, such as ``"happy.gguf"``.
    unit
        What a strength of 1 is there: ``write`` as it is, or as long as a state is on average.
    model
        Whose architecture is named in the file, as ``controlvector.model_hint``.

    Raises
    ------
    CasebackError
        For other places, and without the package ``gguf``.

    Notes
    -----
    Numbers are narrowed to float32. What detects, and what was measured, has no place in the format:
    ``save_directions`` keeps it.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.decode.directions import find_directions
    >>> x = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    >>> found = find_directions(x + (torch.arange(40) % 2)[:, None], ["no", "yes"] * 20, sites=["resid_post.2"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_control_vector(found, f"{folder}/yes.gguf")
    ...     again = load_control_vector(f"{folder}/yes.gguf")
    >>> again.names, bool((again.write - found.write).abs().max() < 1e-6)
    (['resid_post.2'], True)
    """
    gguf = _gguf()
    for place in directions.places:
        if place.site != "resid_post" or not place.layer:
            raise CasebackError(
                f"a control vector has no {place}: expected places resid_post.1, resid_post.2 ...; take them with "
                "directions.at([...])"
            )
    vectors = directions.vectors(unit).detach().float().cpu().numpy()
    expect_writable(path, "the control vector")
    with whole_file(path) as draft:
        writer = gguf.GGUFWriter(str(draft), _ARCHITECTURE)
        hint = "" if model is None else str(getattr(model.hf.config, "model_type", ""))
        writer.add_string(f"{_ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        for place, vector in zip(directions.places, vectors, strict=True):
            writer.add_tensor(f"direction.{place.layer}", np.ascontiguousarray(vector))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


@checked
def load_control_vector(
    path: str | Path, *, model: Model | None = None, prompts: PromptsLike | None = None
) -> Directions:
    """Read a GGUF control vector.

    Parameters
    ----------
    path
        The file.
    model
        The model that it is to act on, if it is to be held against it.
    prompts
        Texts over whose tokens ``model``'s states are measured, so that strengths may be relative to their mean length
        (``unit="norm"``), of which the file says nothing.

    Returns
    -------
    Directions
        What is written also detects, from 0 on: a file says nothing of the classes. Nothing was measured.

    Raises
    ------
    LoadError
        For another file or a damaged one; with ``model``, for layers that it lacks or another width.
    CasebackError
        For ``prompts`` without ``model``, and without the package ``gguf``.

    Examples
    --------
    ::

        found = load_control_vector("happy.gguf", model=model)
        model.generate("The dog was", edits=found.edits(1.5), max_new_tokens=20)
    """
    gguf = _gguf()
    path = Path(path)
    if not os.path.isfile(path):
        raise LoadError(f"{path} is no file")
    try:
        reader = gguf.GGUFReader(path)
        named = {field: reader.get_field(field) for field in ("general.architecture", f"{_ARCHITECTURE}.model_hint")}
        about = {name: "" if field is None else str(field.contents()) for name, field in named.items()}
        tensors = {
            str(one.name): (one.tensor_type, np.array(one.data))
            for one in reader.tensors
            if str(one.name).startswith("direction.")
        }
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, TypeError, ValueError) as error:
        raise LoadError(f"{path} is no GGUF file that can be read: {type(error).__name__}: {error}") from None
    if about["general.architecture"] != _ARCHITECTURE:
        raise LoadError(
            f"{path} is of the architecture {about['general.architecture'][:60]!r}: expected {_ARCHITECTURE!r}"
        )
    rows: dict[int, Tensor] = {}
    for name, (kind, values) in tensors.items():
        number = re.fullmatch(r"direction\.([1-9][0-9]{0,5})", name)
        if number is None or kind != gguf.GGMLQuantizationType.F32 or values.ndim != 1:
            raise LoadError(f"{name!r} in {path}: expected direction.N of one row of float32, N from 1")
        rows[int(number[1])] = torch.from_numpy(values.astype(np.float32))
    hint = about[f"{_ARCHITECTURE}.model_hint"]
    return _directions(rows, "resid_post", model, prompts, path, {"method": "control vector", "model_hint": hint})


@checked
def load_tensor_directions(
    path: str | Path,
    *,
    allow_pickle: bool = False,
    site: str = "resid_post",
    layer: int | None = None,
    hidden_states: bool = False,
    model: Model | None = None,
    prompts: PromptsLike | None = None,
) -> Directions:
    """Read directions that somebody kept with ``torch.save``.

    Parameters
    ----------
    path
        A file with one vector (d,), rows (layer, d), or a dict from layers to vectors.
    allow_pickle
        Must be True: the file is a pickle. It is read with ``weights_only=True``, which runs no code.
    site
        Of which site its layers are.
    layer
        Of which layer the one vector is.
    hidden_states
        Whether layers are counted as Hugging Face's ``hidden_states``: 0 is ``resid_pre.0``, l + 1 ``resid_post.l``.
        The last of (layer, d) is then left out, since those states are behind the final norm.
    model, prompts
        As for ``load_control_vector``.

    Returns
    -------
    Directions
        As ``load_control_vector`` gives them.

    Raises
    ------
    LoadError
        For a file of another form; with ``model``, for layers that it lacks or another width.
    CasebackError
        Without ``allow_pickle``, and for options that do not fit the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(torch.eye(3)[1], f"{folder}/direction.pt")
    ...     load_tensor_directions(f"{folder}/direction.pt", allow_pickle=True, layer=2).names
    ['resid_post.2']
    """
    path = Path(path)
    if not allow_pickle:
        raise CasebackError(
            f"{path} is a pickle: pass allow_pickle=True to read it, which is done with weights_only=True"
        )
    value = unpickled(path)
    if isinstance(value, Tensor) and value.ndim == 1:
        if layer is None:
            raise CasebackError(f"{path} holds one vector: say of which layer it is, layer=")
        value = {layer: value}
    elif layer is not None:
        raise CasebackError(f"{path} holds vectors of several layers: leave out layer=")
    elif isinstance(value, Tensor) and value.ndim == 2:
        value = dict(enumerate(value[:-1] if hidden_states else value))
    if not isinstance(value, Mapping):
        raise LoadError(f"{path} holds {_form(value)}: expected a vector, rows of layers, or a dict of layers")
    rows: dict[int, Tensor] = {}
    for key, vector in value.items():
        number = str(key).removeprefix("-")
        if not number.isdecimal() or isinstance(key, bool) or number != str(key):
            raise LoadError(f"{path} has a vector of {str(key)[:40]!r}: expected layers from 0")
        if not isinstance(vector, Tensor) or vector.ndim != 1 or not vector.is_floating_point():
            raise LoadError(f"{path} holds {_form(vector)} for layer {key}: expected a vector of real numbers")
        rows[int(number)] = vector.detach().to("cpu", torch.promote_types(vector.dtype, torch.float32))
    facts = {"method": "tensor file"}
    if not hidden_states:
        return _directions(rows, site, model, prompts, path, facts)
    if site != "resid_post":
        raise CasebackError(f"hidden_states=True counts the stream's states: leave out site={site!r}")
    return _directions({at - 1: vector for at, vector in rows.items()}, site, model, prompts, path, facts)


def _directions(
    rows: Mapping[int, Float[Tensor, " d"]],
    site: str,
    model: Model | None,
    prompts: PromptsLike | None,
    path: Path,
    facts: Mapping[str, str],
) -> Directions:
    """Vectors by layer as directions; layer -1 is the stream before the first layer."""
    if not rows:
        raise LoadError(f"{path} holds no direction")
    if len({len(vector) for vector in rows.values()}) > 1:
        raise LoadError(f"{path} holds vectors of several widths")
    write = torch.stack([rows[layer] for layer in sorted(rows)])
    places = [Place("resid_pre", 0) if layer < 0 else Place(site, layer) for layer in sorted(rows)]
    if not bool(write.isfinite().all()) or not bool((write.norm(dim=1) > 0).all()):
        raise LoadError(f"{path} holds a direction that is zero or not finite")
    if prompts is not None and model is None:
        raise CasebackError("prompts= are measured on a model: give model= too")
    norm = torch.full((len(places),), torch.nan, dtype=write.dtype)
    if model is not None:
        expect_places(model, places, write.shape[1], str(path))
        if prompts is not None:
            states = read_states(model, prompts, sites=sites_of(places), pos=slice(None))
            order = [states.places.index(place) for place in places]
            norm = states.x[order].norm(dim=2).mean(1).cpu().to(write.dtype)
    names = [str(place) for place in places]
    table = xr.Dataset({"auroc": ("site", np.full(len(places), np.nan))}, {"site": names}, dict(facts))
    return Directions(write, write, norm.new_zeros(len(places)), norm, places, ("negative", "positive"), table)


def _form(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise CasebackError("control vectors need the package gguf: pip install 'caseback[gguf]'") from None
    return gguf
