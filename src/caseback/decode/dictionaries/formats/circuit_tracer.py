"""circuit-tracer: a set of transcoders, one a layer, ``layer_{i}.safetensors`` from 0 on, and ``config.yaml``.

    W_enc (feature, d)   W_dec (feature, d)   b_enc   b_dec   W_skip (d, d), used as x W_skip^T
    activation_function.threshold (feature): JumpReLU; without it ReLU, or TopK where the config says ``topk``

b_dec is not subtracted. TopK has no ReLU here: codes may be negative. A config may name files of other repositories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import Files, open_files, within
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, hook_of_site, place_of, site_of_hook
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect, plain, recentered
from caseback.errors import ArgumentError, LoadError
from caseback.jobs.json_text import shortened
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.text_file import read_text
from caseback.jobs.whole_file import whole_file

CONFIG, THRESHOLD = "config.yaml", "activation_function.threshold"
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_LAYOUT = {"W_enc": "feature d", "b_enc": "feature", "W_dec": "feature d", "b_dec": "d", "W_skip?": "d d"}


def read(files: Files, asked: Asked) -> Dictionary:
    """The transcoder of one layer."""
    names = [name for name in files.here if _LAYER.fullmatch(name)]
    if len(names) != 1:
        raise LoadError(f"{files.where} is a set of {len(layers_of(files))} transcoders: load_set reads them all")
    return read_layer(files, names[0], config_of(files))


def config_of(files: Files) -> dict[str, Any]:
    """What ``config.yaml`` says, empty where there is none."""
    if CONFIG not in files.inside:
        return {}
    path = files.path(CONFIG)
    try:
        config = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {shortened(str(error))}") from None
    if not isinstance(config, dict):
        raise LoadError(f"{path} holds a {type(config).__name__}, expected keys and values")
    return config


def layers_of(files: Files) -> dict[int, str]:
    """The files of the layers: those in the folder, or those that the config names.

    Raises
    ------
    LoadError
        Where layers are missing.
    """
    named = config_of(files).get("transcoders") or []
    if not isinstance(named, list | dict):
        raise LoadError(f"{files.where}/{CONFIG}: transcoders is {shortened(repr(named))}, expected a list of files")
    texts = named if isinstance(named, list) else [named[key] for key in sorted(named)]
    layers = {layer: str(text) for layer, text in enumerate(texts)}
    if not layers:
        layers = {int(match[1]): name for name in files.inside if (match := _LAYER.fullmatch(name))}
    if sorted(layers) != list(range(len(layers))):
        raise LoadError(f"{files.where} has transcoders of the layers {sorted(layers)}: expected all from 0 on")
    return dict(sorted(layers.items()))


def files_of_layer(files: Files, name: str) -> Files:
    """The file of a layer, in the folder or at another repository's address."""
    return open_files(name, None, None, files.allow_pickle) if name.startswith("hf://") else within(files, name)


def read_layer(files: Files, name: str, config: Mapping[str, Any]) -> Dictionary:
    """A transcoder of its file, with what the set's config says."""
    match = _LAYER.fullmatch(name.rpartition("/")[2])
    layer = int(match[1]) if match else None
    where = files.where if files.file else f"{files.where}/{name}"
    tensors = files.tensors(name)
    threshold = tensors.get(THRESHOLD)
    if threshold is not None and threshold.ndim == 2 and len(threshold) == 1:
        tensors[THRESHOLD] = threshold[0]
    expect(tensors, {**_LAYOUT, f"{THRESHOLD}?": "feature"}, where)
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    activation, options = str(config.get("activation", "relu")), {}
    if THRESHOLD in tensors:
        kind: type[Dictionary] = JumpReLU
        tensors["threshold"] = tensors.pop(THRESHOLD)
    elif activation == "topk":
        kind, options = TopK, {"k": _count(config, where), "relu": False}
    elif activation == "relu":
        kind = Standard
    else:
        raise LoadError(f"{where} has the activation {activation!r}: relu and topk are read, or a threshold")
    return build(kind, tensors, facts_of(config, layer), where, **options)


def _count(config: Mapping[str, Any], where: str) -> int:
    k = config.get("k")
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise LoadError(f"{where} is TopK, and its config's k is {k!r}: expected how many features are active")
    return k


def facts_of(config: Mapping[str, Any], layer: int | None) -> Facts:
    """Where the transcoder of a layer reads and writes."""
    site, bare = site_of_hook(str(config.get("feature_input_hook") or ""), layer)
    target, _ = site_of_hook(str(config.get("feature_output_hook") or ""), layer)
    provenance: dict[str, Any] = {"format": "circuit_tracer"}
    provenance |= {key: config[key] for key in ("scan", "feature_input_hook", "feature_output_hook") if key in config}
    return Facts(
        site=site,
        target=target,
        model=str(config.get("model_name") or ""),
        centered=False,
        tokens="not the first token",
        provenance=provenance | ({WITHOUT_GAIN: True} if bare else {}),
    )


def write(dictionary: Dictionary, folder: Path) -> None:
    """A set of one: the transcoder of layer 0."""
    write_set([dictionary], folder)


def write_set(transcoders: list[Dictionary], folder: Path) -> None:
    """Transcoders of all layers, from the first to the last."""
    held = [_held(dictionary) for dictionary in transcoders]
    first = transcoders[0]
    config: dict[str, Any] = {"model_name": first.facts.model, "model_kind": "transcoder_set"}
    for key, sites in (
        ("feature_input_hook", [d.facts.site for d in transcoders]),
        ("feature_output_hook", [d.facts.target or d.facts.site for d in transcoders]),
    ):
        config[key] = _hook(sites)
    config["scan"] = first.facts.provenance.get("scan")
    config["transcoders"] = [f"layer_{layer}.safetensors" for layer in range(len(held))]
    if isinstance(first, TopK):
        config |= {"activation": "topk", "k": first.k}
    if any(type(d) is not type(first) or (isinstance(d, TopK) and d.k != config["k"]) for d in transcoders):
        raise ArgumentError("the transcoders of a set are of one architecture, with one k: these are not")
    for name, tensors in zip(config["transcoders"], held, strict=True):
        write_tensors(folder / name, tensors)
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _held(dictionary: Dictionary) -> dict[str, Any]:
    tensors, facts = plain(dictionary)
    if facts.normalization != "none" or dictionary.d_in != dictionary.d_out:
        raise ArgumentError(f"circuit-tracer's layout holds no normalization and one width: this is {dictionary!r}")
    if facts.centered:
        tensors, facts = recentered(tensors, False), replace(facts, centered=False)
    match dictionary:
        case JumpReLU():
            tensors[THRESHOLD] = tensors.pop("threshold")
        case Standard():
            pass
        case TopK() if not dictionary.relu and not dictionary.signed and not facts.by_norm:
            pass
        case _:
            raise ArgumentError(
                f"circuit-tracer's layout holds JumpReLU, ReLU, and TopK without ReLU: not {dictionary!r}"
            )
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    return tensors


def _hook(sites: list[str]) -> str:
    """The hook of all layers' sites, without its block."""
    hooks = {hook_of_site(site).removeprefix(f"blocks.{layer}.") for layer, site in enumerate(sites)}
    if len(hooks) != 1 or any(site and place_of(site).layer != layer for layer, site in enumerate(sites)):
        raise ArgumentError(f"a set has one site in every layer, from layer 0 on: these have {', '.join(sites)}")
    return hooks.pop()


def _matches(files: Files) -> bool:
    return any(_LAYER.fullmatch(name) for name in files.here) or (
        CONFIG in files.here and config_of(files).get("model_kind") == "transcoder_set"
    )


LAYOUT = Layout("circuit_tracer", "layer_{i}.safetensors and config.yaml", _matches, read, write)
