"""Which training texts bear on a prediction, by any method of the registry, called in one way (3.1.24 to 3.1.27).

A method's word is its function's name, or, where one function is several methods, the one of its choices that the word
names: ``ekfac`` is ``influence_functions(curvature="ekfac")``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.training.influence import CURVATURES
from caseback.localize.inputs.training.projection import Projection
from caseback.localize.inputs.training.tracin import KINDS
from caseback.model.arguments import checked
from caseback.model.registry import Technique, with_role
from caseback.model.running.model import Model

__all__ = ["TrainingMethod", "bearing_scores", "training_methods"]

_CHOICES = {"influence_functions": ("curvature", CURVATURES), "gradient_similarity": ("kind", KINDS)}
_SHORTER = {"representation_similarity": "representation"}
_TITLES = {
    "ekfac": "influence, EK-FAC",
    "kfac": "influence, K-FAC",
    "fisher": "influence, Fisher matrix of projected gradients",
    "gauss_newton": "influence, exact Gauss-Newton",
    "identity": "influence, no curvature",
    "trak": "TRAK",
    "tracin": "TracIn",
    "datainf": "DataInf",
    "cosine": "cosine of gradients",
    "dot": "dot product of gradients",
    "bm25": "BM25",
    "representation": "likeness of representations",
}
_PROJECTED = {"fisher": ("logra", 16), "trak": ("sparse", 4096)}
_FACTORED = ("ekfac", "kfac")
_STORED_RANK = 32


@dataclass(frozen=True)
class TrainingMethod:
    """A way to score training texts.

    Attributes
    ----------
    name
        Its word.
    technique
        The technique that it is, or one choice of.
    settings
        What the word stands for beyond the function's defaults.
    """

    name: str
    technique: Technique
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def takes(self) -> set[str]:
        """The options that it has."""
        return set(inspect.signature(self.technique.function).parameters)

    @property
    def title(self) -> str:
        """Its name for people."""
        return _TITLES.get(self.name, self.name.replace("_", " "))


def training_methods() -> dict[str, TrainingMethod]:
    """All methods that score a corpus, by their words.

    Examples
    --------
    >>> {"ekfac", "trak", "cosine", "bm25"} <= set(training_methods())
    True
    """
    methods = {}
    for technique in with_role("training-data attribution", "caseback.localize.inputs"):
        name = technique.function.__name__
        if list(inspect.signature(technique.function).parameters)[:3] != ["model", "queries", "corpus"]:
            continue  # learns from logs, not from a corpus
        option, choices = _CHOICES.get(name, ("", ()))
        for choice in choices:
            methods[choice] = TrainingMethod(choice, technique, {option: choice})
        if not choices:
            word = _SHORTER.get(name, name)
            methods[word] = TrainingMethod(word, technique)
    return methods


@checked
def bearing_scores(
    model: Model,
    query: str | tuple[str, str],
    lines: Sequence[str] | None,
    *,
    method: str = "ekfac",
    parts: Sequence[str] = ("attn", "mlp"),
    rank: int | None = None,
    dim: int | None = None,
    checkpoints: Sequence[str] | None = None,
    rates: float | Sequence[float] | None = None,
    max_length: int | None = None,
    store: Path | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How each training text bears on a prediction.

    Parameters
    ----------
    model
        The model.
    query
        A text whose likelihood is explained, or a pair (prompt, completion).
    lines
        The training texts; None where ``store`` has their gradients.
    method
        One of ``training_methods()``.
    parts, rank, checkpoints, rates, max_length, store, progress
        As the techniques take them. The rank is whole, or 32 with a store.
    dim
        Dimensions of a random projection.

    Returns
    -------
    xr.DataArray
        (query, example).

    Raises
    ------
    CasebackError
        For an unknown method, and for an option that it does not have.

    Examples
    --------
    >>> import caseback as cb
    >>> texts = ["The cat sat.", "The capital of France is Paris."]
    >>> bearing_scores(cb.load("meadow"), "The capital of France", texts, method="bm25").values.argmax()
    np.int64(1)
    """
    known = training_methods()
    if method not in known:
        raise CasebackError(f"--method {method!r} is unknown. {did_you_mean(method, known)}")
    chosen = known[method]
    if dim and method not in _PROJECTED:
        raise CasebackError(f"--dim with --method {method}: it projects nothing; {' and '.join(_PROJECTED)} do")
    if rank is None and store is not None and method in _FACTORED:
        rank = _STORED_RANK
    given = {"rank": rank, "checkpoints": checkpoints, "rates": rates, "store": store}
    for name, value in given.items():
        if value is not None and name not in chosen.takes:
            raise CasebackError(f"--{name} with --method {method}: {_why_not(name, known.values())}")
    given |= {"parts": list(parts), "max_length": max_length, "progress": progress}
    if method in _PROJECTED:
        kind, usual = _PROJECTED[method]
        given["projection"] = Projection(kind, dim or usual)
    options = {name: value for name, value in given.items() if name in chosen.takes and value is not None}
    return chosen.technique.function(model, query, lines, **chosen.settings, **options)


def _why_not(name: str, methods: Iterable[TrainingMethod]) -> str:
    if name == "store":
        return "it keeps no gradients"
    takers = list(dict.fromkeys(method.name for method in methods if name in method.takes))
    verb = "take" if len(takers) > 1 else "takes"
    return f"only {' and '.join(takers)} {verb} {'several' if name == 'checkpoints' else 'it'}"
