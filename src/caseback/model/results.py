"""Results that say what they are: labeled arrays with their provenance.

`labelled` is the one door through which a technique's numbers leave the package. It holds the dimension
names to the project's table, moves tensors to numpy, and writes down how the numbers were made, in attributes
that a netCDF file can hold. There is no date among them: the same call gives the same result.
"""

import functools
import importlib.metadata
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr

from caseback.errors import ResultError, did_you_mean
from caseback.model.registry import Technique
from caseback.version import __version__

# The names of docs/design.md, section 2, then those that only results have: both ends of an edge, one of many
# variants, a rank, one of k, an expert, a path, a component of any kind, who writes and who reads; one of several
# attributions set side by side, the same where two are compared, and a token that was generated.
DIMS = (
    *("batch", "pos", "query", "key", "layer", "head", "kv_head", "neuron", "feature"),
    *("d_model", "d_head", "vocab"),
    *("component", "layer_to", "head_to", "variant", "rank", "k", "expert", "path", "writer", "reader"),
    *("attribution", "attribution_to", "step"),
    "example",  # of a training corpus
    *("site", "site_to"),  # a layer of a site, or a head there, by name; the same where two are compared
    # of statistics over a corpus: tokens of a kind, intervals of numbers, how a key stands to a query
    *("group", "bin", "relation"),
    "other",  # a dimension of vectors a second time, as the columns of a square matrix
    # of comparisons with chance: kinds of them, and random draws; strengths of steering
    *("control", "draw", "dose"),
    *("source", "source_to"),  # models or layers that share codes
    *("query_writer", "key_writer"),  # whose writes meet in a score
    "measure",  # several numbers of one thing, by name
    "chain",  # of random walks: one of several
    "entry",  # of a sparse result: one of the places that hold something
    # of sparse dictionaries: several beside each other; of toy models: how rare and how important features are
    *("dictionary", "sparsity", "importance"),
    *("circuit", "task"),  # whose circuit, and the task that it is run on
    "part",  # of a text: whose states are changed
    *("heuristic", "map"),  # a rule about operands, and a map of activations over their pairs
    *("length", "depth"),  # of a long prompt, and the share of it before what is asked for
)

_INT32 = range(-(2**31), 2**31)  # all that a netCDF-3 file, the format that scipy writes, can hold


class HasProvenance(Protocol):
    """Anything that can say which model it is."""

    def provenance(self) -> Mapping[str, str]:
        """Give the attributes that tell a model: its name, revision, family, dtype."""
        ...


def labelled(
    values: Any,
    dims: Sequence[str],
    coords: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    technique: Callable[..., Any] | Technique | None = None,
    model: HasProvenance | None = None,
    **attrs: Any,
) -> xr.DataArray:
    """Label an array and write down how it was made.

    Parameters
    ----------
    values
        A tensor, an array or nested lists. Tensors are detached and moved to the CPU; floats narrower than 32
        bits (bfloat16 and float16) become float32.
    dims
        One name per axis, from `DIMS`.
    coords
        What xarray takes: `{"head": ["L0H0", …]}` for a dimension, `{"token": ("pos", texts)}` beside one.
    name
        The array's own name, such as "effect".
    technique
        The registered function that made the values: its name, entries and citation become attributes.
    model
        The model they were made with: its `provenance()` becomes attributes, under the names it gives.
    **attrs
        Whatever else describes them: `target`, `foil`, `seed`, `steps`, a check's outcome. Numbers and text stay
        as they are, `None` is left out, truth values become 0 or 1, and what netCDF cannot hold (lists of
        text, mappings, integers past 32 bits) becomes JSON text.

    Returns
    -------
    xr.DataArray
        The values with their dims, coords and attrs; `.to_netcdf(path)` works.

    Raises
    ------
    ResultError
        Where a dimension is not in `DIMS` or named twice, the technique is not registered, an attribute is
        already set by the technique or the model, or no file can hold it.

    Examples
    --------
    >>> result = labelled([0.5, -1.0], ["pos"], {"token": ("pos", ["Tom", " ran"])}, target=" home", seed=0)
    >>> result.dims, result.attrs["target"], result.sel(pos=1).item()
    (('pos',), ' home', -1.0)
    """
    _check_dims(dims)
    merged: dict[str, Any] = {}
    sources = [_of_technique(technique), dict(model.provenance()) if model else {}, _versions(), attrs]
    for source in sources:
        for key in source.keys() & merged.keys():
            raise ResultError(
                f"Attribute {key}={source[key]!r} would overwrite {key}={merged[key]!r}, which the technique, "
                "the model or the library versions already set. Give it another name."
            )
        merged |= source
    storable = {key: _storable(key, value) for key, value in merged.items() if value is not None}
    labels: dict[Hashable, Any] = {key: _coordinate(value) for key, value in (coords or {}).items()}
    return xr.DataArray(_to_numpy(values), coords=labels, dims=list(dims), name=name, attrs=storable)


def labelled_set(
    arrays: Mapping[str, tuple[Any, Sequence[str]]],
    coords: Mapping[str, Any],
    *,
    technique: Callable[..., Any] | Technique,
    model: HasProvenance,
    **attrs: Any,
) -> xr.Dataset:
    """Label several arrays alike, each with the coordinates of its own dimensions.

    Parameters
    ----------
    arrays
        By name, values and their dims.
    coords
        As ``labelled`` takes them, of all arrays together.
    technique, model, **attrs
        As for ``labelled``; they are the dataset's attributes and each array's.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from caseback.behaviors import memorization
    >>> arrays = {"rank": ([[1, 2]], ["layer", "batch"]), "loss": ([0.5, 1.0], ["batch"])}
    >>> coords = {"layer": [3], "prompt": ("batch", ["a", "b"])}
    >>> table = labelled_set(arrays, coords, technique=memorization, model=SimpleNamespace(provenance=dict), seed=0)
    >>> sorted(table["loss"].coords), table.attrs["seed"]
    (['prompt'], 0)
    """

    def of(dims: Sequence[str]) -> dict[str, Any]:
        return {key: own for key, own in coords.items() if (own[0] if isinstance(own, tuple) else key) in dims}

    labeled = {
        name: labelled(values, dims, of(dims), name=name, technique=technique, model=model, **attrs)
        for name, (values, dims) in arrays.items()
    }
    return xr.Dataset(labeled, attrs=next(iter(labeled.values())).attrs)


def _check_dims(dims: Sequence[str]) -> None:
    for dim in dims:
        if dim not in DIMS:
            raise ResultError(f"{dim!r} is not a dimension of a result. {did_you_mean(dim, DIMS, most=len(DIMS))}")
    if len(set(dims)) < len(dims):
        raise ResultError(
            f"A dimension is named twice in {tuple(dims)}. The two ends of something have two names: query "
            "and key, layer and layer_to, head and head_to."
        )


def _of_technique(function: Callable[..., Any] | Technique | None) -> dict[str, str]:
    if function is None:
        return {}
    record = function if isinstance(function, Technique) else getattr(function, "technique", None)
    if not isinstance(record, Technique):
        raise ResultError(
            f"{getattr(function, '__qualname__', function)!r} is not a registered technique. Decorate it with "
            "@technique(entry=…, citation=…, cost=…)."
        )
    return {"technique": record.name, "entry": ", ".join(record.entry), "citation": record.citation}


@functools.cache
def _version_of(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _versions() -> dict[str, str]:
    return {
        "caseback_version": __version__,
        # read from the installed files: importing transformers would take seconds
        "transformers_version": _version_of("transformers"),
        "torch_version": str(torch.__version__),
    }


def _to_numpy(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.resolve_conj().resolve_neg().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    # netCDF-3 has no unsigned integers and would read large ones back as negative
    return array.astype(np.int64) if array.dtype.kind == "u" else array


def _coordinate(value: Any) -> Any:
    if isinstance(value, xr.DataArray):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return (value[0], _to_numpy(value[1]))
    return _to_numpy(value)


def _storable(key: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = _to_numpy(value).tolist()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | float) or (isinstance(value, int) and value in _INT32):
        return value
    if isinstance(value, list | tuple | range):
        numbers = list(value)
        if all(isinstance(n, float) or (isinstance(n, int) and n in _INT32) for n in numbers):
            return [int(n) if isinstance(n, bool) else n for n in numbers]
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise ResultError(
            f"Attribute {key}={value!r} is a {type(value).__name__}, which no file can hold. Give a number, "
            "text, or lists and mappings of them."
        ) from None
