"""Published dictionaries of every layout by one door each: read, read all of a set, and write.

The layout is found by the names of the files, for pickles by the names in them. Where it reads, what it normalizes and
what else layouts leave unsaid is in ``Facts``; a width, place or model that does not fit a given model is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.formats import (
    circuit_tracer,
    cross_layer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    own,
    pickled,
    saelens,
    sparsify,
)
from caseback.decode.dictionaries.formats.files import Files, open_files, within
from caseback.decode.dictionaries.formats.fitting import expect_fit, with_gain
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.errors import ArgumentError, LoadError, did_you_mean
from caseback.jobs.whole_file import make_folder
from caseback.model.arguments import checked
from caseback.model.running.model import Model

LAYOUTS: tuple[Layout, ...] = (
    own.LAYOUT,
    *cross_layer.LAYOUTS,
    saelens.LAYOUT,
    gemma_scope.LAYOUT_1,
    gemma_scope.LAYOUT_2,
    sparsify.LAYOUT,
    dictionary_learning.LAYOUT,
    circuit_tracer.LAYOUT,
    llama_scope.LAYOUT_1,
    llama_scope.LAYOUT_2,
    *pickled.LAYOUTS,
)
_BY_NAME = {layout.name: layout for layout in LAYOUTS}
FORMATS: Mapping[str, str] = {layout.name: layout.files for layout in LAYOUTS}
"""The layouts that are read, with the files that each is known by."""


@checked
def load(
    source: str | Path,
    *,
    format: str | None = None,
    allow_pickle: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    model: Model | None = None,
    force: bool = False,
) -> Dictionary:
    """Read a dictionary of any published layout (``FORMATS``).

    Parameters
    ----------
    source
        A folder, a file, or a hub id (``"google/gemma-scope-2b-pt-res"``).
    format
        The layout, where the files do not tell it.
    allow_pickle
        Whether a pickle may be read; it is with ``weights_only=True``.
    revision
        Of a hub repository: a branch, tag or commit.
    subfolder
        A folder or file in the source (``"layer_20/width_16k/average_l0_71"``).
    model
        The model whose states are to be read. Places, widths and its name are held against it.
    force
        Read a dictionary of a model of another name than ``model``'s, or one that expects scaled states and does not
        say by how much. It is then ``model``'s, and ``provenance["made_for"]`` says whose it was.

    Returns
    -------
    The dictionary, in float32 at least. Its ``facts.provenance`` has what else the files say.

    Raises
    ------
    LoadError
        In one line: no such file, no known layout, missing or unknown tensors, another shape, no numbers, a pickle
        that was not asked for, a hub that cannot be reached, another model's dictionary.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.decode.dictionaries import JumpReLU, load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(JumpReLU(8, 32), folder, format="saelens")
    ...     load(folder).facts.provenance["format"]
    'saelens'
    """
    files = open_files(source, revision, subfolder, allow_pickle)
    asked = Asked(model, force)
    return _fitted(_layout_of(files, format).read(files, asked), files, asked)


@checked
def load_set(
    source: str | Path,
    *,
    allow_pickle: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    model: Model | None = None,
    force: bool = False,
) -> dict[str, Dictionary]:
    """Read all dictionaries of a set: circuit-tracer's transcoders, or one in each folder, as sparsify has them.

    Parameters
    ----------
    source, allow_pickle, revision, subfolder, model, force
        As for ``load``.

    Returns
    -------
    By file or folder, layers in order.

    Raises
    ------
    LoadError
        As for ``load``, and for a folder that holds no set.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.decode.dictionaries import JumpReLU, load_set, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save([JumpReLU(8, 32), JumpReLU(8, 32)], folder, format="circuit_tracer")
    ...     list(load_set(folder))
    ['layer_0.safetensors', 'layer_1.safetensors']
    """
    files = open_files(source, revision, subfolder, allow_pickle)
    asked = Asked(model, force)
    if circuit_tracer.LAYOUT.matches(files):
        return _set_of_layers(files, asked)
    folders = dict.fromkeys(name.partition("/")[0] for name in files.inside if "/" in name)
    units = {name: unit for name in folders if _matching(unit := within(files, name))}
    if not units:
        raise LoadError(
            f"{files.where} holds no set: no transcoders of circuit-tracer, and no folder with a dictionary"
        )
    return {name: _fitted(_layout_of(unit, None).read(unit, asked), unit, asked) for name, unit in units.items()}


def load_all(
    source: str | Path,
    *,
    format: str | None = None,
    allow_pickle: bool = False,
    subfolder: str | None = None,
    model: Model | None = None,
    force: bool = False,
) -> dict[str, Dictionary]:
    """All dictionaries of a source, by name: the one that it is, or those of a set, or of a folder of our own files.

    Raises
    ------
    LoadError
        As for ``load``.
    """
    more: dict[str, Any] = {"allow_pickle": allow_pickle, "model": model, "force": force}
    files = open_files(source, None, subfolder, allow_pickle)
    ours = own.ours(files)
    if format is None and len(ours) > 1:
        at = f"{subfolder}/" if subfolder else ""
        return {name.removesuffix(".safetensors"): load(source, subfolder=at + name, **more) for name in ours}
    try:
        one = load(source, format=format, subfolder=subfolder, **more)
    except LoadError:
        try:
            return load_set(source, subfolder=subfolder, **more)
        except LoadError:
            pass
        raise
    name = files.where.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return {name.removesuffix(".safetensors"): one}


def _set_of_layers(files: Files, asked: Asked) -> dict[str, Dictionary]:
    config, transcoders = circuit_tracer.config_of(files), {}
    for layer, name in circuit_tracer.layers_of(files).items():
        unit = circuit_tracer.files_of_layer(files, name)
        layout = _layout_of(unit, None)
        facts = circuit_tracer.facts_of(config, layer)
        if layout is circuit_tracer.LAYOUT:
            one = circuit_tracer.read_layer(unit, unit.file, config)
            one.facts = replace(facts, provenance={**one.facts.provenance, **facts.provenance})
        else:  # a set may name dictionaries of other layouts, such as Gemma Scope's transcoders
            one = layout.read(unit, asked)
        transcoders[name] = _fitted(one, unit, asked)
    return transcoders


@checked
def save(dictionary: Dictionary | list[Dictionary], folder: str | Path, format: str = "saelens") -> None:
    """Write a dictionary in a published layout, or our own (``"caseback"``).

    Parameters
    ----------
    dictionary
        One, or for ``"circuit_tracer"`` those of all layers from the first on.
    folder
        Is there afterwards.
    format
        ``"saelens"``, ``"sparsify"``, ``"circuit_tracer"``, ``"circuit_tracer_clt"`` or ``"caseback"``.

    Raises
    ------
    ArgumentError
        For a dictionary that the layout cannot hold; nothing that it cannot hold is dropped.

    Examples
    --------
    >>> import tempfile
    >>> from caseback.decode.dictionaries import TopK, load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(TopK(8, 32, k=4), folder, format="sparsify")
    ...     load(folder).k
    4
    """
    writers = {layout.name: layout.write for layout in LAYOUTS if layout.write is not None}
    write = writers.get(format)
    if write is None:
        raise ArgumentError(f"no dictionary is written as {format!r}. {did_you_mean(format, writers)}")
    several = isinstance(dictionary, list)
    if several and (format != circuit_tracer.LAYOUT.name or not dictionary):
        raise ArgumentError(f"{format!r} holds one dictionary, and a set one or more: {len(dictionary)} are given")
    one = dictionary[0] if isinstance(dictionary, list) else dictionary
    if isinstance(one, SeveralSources) and format not in ("caseback", "circuit_tracer_clt"):
        raise ArgumentError(f"{format!r} holds dictionaries of one place, and this one is of several: {one!r}")
    place = make_folder(folder, "the dictionary")
    if isinstance(dictionary, list):
        circuit_tracer.write_set(dictionary, place)
    else:
        write(dictionary, place)


def _fitted(dictionary: Dictionary, files: Files, asked: Asked) -> Dictionary:
    if asked.model is None:
        return dictionary
    expect_fit(dictionary, asked.model, files.where, force=asked.force)
    made_for = dictionary.facts.model
    if asked.force and made_for not in ("", asked.model.name):  # whoever uses it next need not ask again
        provenance = {**dictionary.facts.provenance, "made_for": made_for}
        dictionary.facts = replace(dictionary.facts, model=asked.model.name, provenance=provenance)
    return with_gain(dictionary, asked.model, files.where)


def _matching(files: Files) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.matches(files)]


def _layout_of(files: Files, name: str | None) -> Layout:
    if name is not None:
        if name not in _BY_NAME:
            raise LoadError(f"no layout is called {name!r}. {did_you_mean(name, _BY_NAME)}")
        return _BY_NAME[name]
    if matching := _matching(files):
        return matching[0]
    if (file := pickled.pickle_of(files)) is not None:
        held = set(files.pickle(file))
        known = [layout for layout in pickled.LAYOUTS if layout.keys <= held]
        if known:
            return known[0]
        raise LoadError(f"{files.where} holds {', '.join(sorted(map(str, held))[:8])}, which is no known dictionary's")
    if files.file.endswith(".safetensors"):
        files.tensors(files.file)  # one that is cut short says so: its header would have told its layout
    folders = dict.fromkeys(name.rpartition("/")[0] for name in files.inside if "/" in name)
    held_by = [folder for folder in folders if _matching(within(files, folder))]
    hint = f". Its folders hold some: give subfolder={held_by[0]!r}, or another of {len(held_by)}" if held_by else ""
    listed = "; ".join(f"{layout.files} ({layout.name})" for layout in LAYOUTS)
    raise LoadError(f"{files.where} holds no dictionary of a known layout{hint or f': looked for {listed}'}")
