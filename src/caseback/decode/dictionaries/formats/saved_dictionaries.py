"""Dictionaries in files of our own: an artifact with the weights by their names, and what they do not tell as JSON.

W_enc (feature, d_in), W_dec (feature, d_out), b_enc, b_dec, ...     architecture, sizes, options, facts: facts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import DICTIONARY
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.hook_names import place_of
from caseback.decode.dictionaries.registry import architecture_of
from caseback.errors import CasebackError, LoadError
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_dictionary(dictionary: Dictionary, path: str | Path) -> None:
    """Write a dictionary to one safetensors file, whole or not at all.

    Parameters
    ----------
    dictionary
        Of any registered architecture.
    path
        Where.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.decode.dictionaries import TopK
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_dictionary(TopK(8, 32, k=4), f"{folder}/a.safetensors")
    ...     load_dictionary(f"{folder}/a.safetensors")
    TopK(8 -> 32 features -> 8, k=4, relu=True, k_aux=4, aux_coefficient=0.03125)
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in dictionary.state_dict().items()}
    shape = {"sizes": [dictionary.d_in, dictionary.n_features, dictionary.d_out], "skip": "W_skip" in tensors}
    facts = {
        "architecture": dictionary.architecture,
        "shape": json.dumps({**shape, "options": dictionary.own_options()}),
        "facts": json.dumps(asdict(dictionary.facts)),
    }
    save(Artifact(tensors, facts), DICTIONARY, path)


@checked
def load_dictionary(path: str | Path, *, model: Model | None = None) -> Dictionary:
    """Read what ``save_dictionary`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model whose states it is to read, if it is to be held against it.

    Raises
    ------
    LoadError
        For a file that holds none or a damaged one; with ``model``, for one that was made for another.
    """

    def build(artifact: Artifact) -> Dictionary:
        shape = json.loads(artifact.facts["shape"])
        (d_in, n_features, d_out), options = shape["sizes"], shape["options"]
        facts = Facts(**json.loads(artifact.facts["facts"]))
        dtype = artifact.tensors["W_dec"].dtype
        kind = architecture_of(artifact.facts["architecture"])
        empty = kind(d_in, n_features, d_out, facts=facts, skip=shape["skip"], dtype=dtype, **options)
        return with_weights(empty, artifact.tensors, path)

    def expect(dictionary: Dictionary) -> None:
        if model is not None:
            expect_model(dictionary, model, str(path))

    return load(path, DICTIONARY, build, expect)


def with_weights(dictionary: Dictionary, tensors: dict[str, Tensor] | Any, what: str | Path) -> Dictionary:
    """Put weights into a dictionary; those that do not fit are refused by name.

    Raises
    ------
    LoadError
    """
    try:
        dictionary.load_state_dict(dict(tensors))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise LoadError(f"{what} does not fit {dictionary!r}: {' '.join(lines)}") from None
    return dictionary.eval()


def expect_model(dictionary: Dictionary, model: Model, what: str, sources: Sequence[str] = ()) -> None:
    """Refuse a model that lacks a dictionary's sites (or those of its ``sources``), or has another width there.

    Raises
    ------
    LoadError
    """
    facts = dictionary.facts
    ends = [(facts.site, dictionary.d_in), (facts.target or facts.site, dictionary.d_out)]
    if len(sources) > 1:  # their facts have no layer
        ends = [(source, dictionary.d_in) for source in sources]
    for name, width in dict.fromkeys(ends):
        if not name:
            continue
        try:
            run = model.run([[1]], read=[name])
        except CasebackError as error:
            raise LoadError(f"{what} is of another model: {error}") from None
        own = run[place_of(name).key][0, 0].numel()  # heads side by side
        if own != width:
            raise LoadError(
                f"{what} is of width {width}: {name} of {model.name!r} is of width {own}. Give the model whose states "
                "it was trained on"
            )
