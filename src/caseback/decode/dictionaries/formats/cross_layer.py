"""Cross-layer transcoders of circuit-tracer, Gemma Scope 2 and Llamascopium, whose files group decoders each otherwise.

    circuit-tracer    W_enc_{s}.safetensors: W_enc_s (F, d)  b_enc_s  b_dec_s  threshold_s     by source
                      W_dec_{s}.safetensors: W_dec_s (F, L - s, d)
    Gemma Scope 2     one file a layer: w_enc (d, F)  w_dec (F, L, d)  b_enc  b_dec  threshold  by source, all targets
    Llamascopium      W_E (L, d, F)  b_E (L, F)  W_D.{t} (t + 1, F, d)  b_D.{t}                by target

The first's is written too: the rows of a feature stand side by side there, so readers can take those of a few.
Entries of Gemma Scope 2 for layers below the source are dropped. Skips, which no class here holds, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from caseback.decode.dictionaries.architectures.cross_layer import (
    CrossLayerBatchTopK,
    CrossLayerJumpReLU,
    CrossLayerStandard,
    CrossLayerTopK,
    CrossLayerTranscoder,
)
from caseback.decode.dictionaries.architectures.folding import as_jump_relu
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.circuit_tracer import CONFIG, config_of
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, hook_of_site, place_of, site_of_hook
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect, plain
from caseback.errors import ArgumentError, LoadError
from caseback.jobs.json_text import expect_form
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.whole_file import whole_file

_ENCODER = re.compile(r"W_enc_(\d+)\.safetensors")
_OF_LAYER = re.compile(r".*layer_(\d+).*\.safetensors")
_LOG = "activation_function.log_jumprelu_threshold"


def read_circuit_tracer(files: Files, asked: Asked) -> Dictionary:
    """A cross-layer transcoder of circuit-tracer."""
    layers = _numbered(files, _ENCODER)
    parts: list[dict[str, Tensor]] = []
    for layer, name in layers.items():
        held = files.tensors(name) | files.tensors(f"W_dec_{layer}.safetensors")
        known = {key.removesuffix(f"_{layer}"): value for key, value in held.items()}
        layout = {"W_enc": "feature d", "b_enc": "feature", "b_dec": "d", "W_dec": "feature target d"}
        _no_skip(known, files)
        expect(known, {**layout, "threshold?": "feature"}, f"{files.where}/{name}", target=len(layers) - layer)
        parts.append(known)
    config = config_of(files)
    site, bare = site_of_hook(str(config.get("feature_input_hook") or ""), 0)
    target, _ = site_of_hook(str(config.get("feature_output_hook") or ""), 0)
    provenance = {"format": "circuit_tracer_clt", "scan": config.get("scan")} | ({WITHOUT_GAIN: True} if bare else {})
    facts = _facts(site, target, str(config.get("model_name") or ""), provenance)
    return _built(parts, facts, files.where)


def read_gemma_scope_2(files: Files, asked: Asked) -> Dictionary:
    """A cross-layer transcoder of Gemma Scope 2, one file a layer."""
    layers, parts = _numbered(files, _OF_LAYER), []
    for layer, name in layers.items():
        held = files.tensors(name)
        _no_skip(held, files)
        layout = {"w_enc": "d feature", "b_enc": "feature", "b_dec": "d", "w_dec": "feature layer d"}
        expect(held, {**layout, "threshold": "feature"}, f"{files.where}/{name}", layer=len(layers))
        own = {key: held[key] for key in ("b_enc", "b_dec")} | {"threshold": held["threshold"].clamp_min(0)}
        parts.append({**own, "W_enc": held["w_enc"].T, "W_dec": held["w_dec"][:, layer:]})
    return _built(parts, _facts("mlp_norm.0", "mlp_out.0", "", {"format": "gemma_scope_2_clt"}), files.where)


def read_llamascopium(files: Files, asked: Asked) -> Dictionary:
    """A cross-layer transcoder of Llamascopium."""
    config, held = files.json("config.json"), files.tensors("sae_weights.safetensors")
    with expect_form(f"{files.where} is no cross-layer transcoder of Llamascopium"):
        n_layers, d, _ = held["W_E"].shape
        means = {name.partition("norm.")[2]: held.pop(name) for name in list(held) if "activation_norm." in name}
        layout = {"W_E": "layer d feature", "b_E": "layer feature", f"{_LOG}?": "layer feature"}
        for target in range(n_layers):
            layout |= {f"W_D.{target}": f"sources_{target} feature d", f"b_D.{target}": "d"}
        expect(held, layout, files.where, **{f"sources_{target}": target + 1 for target in range(n_layers)})
        if config.get("norm_activation", "none") not in ("inference", "none"):
            by = [d**0.5 / float(means[name]) for name in config["hook_points_in"]]
            out_by = [d**0.5 / float(means[name]) for name in config["hook_points_out"]]
        else:
            by = out_by = [1.0] * n_layers
        site, bare = site_of_hook(str(config["hook_points_in"][0]))
        target, _ = site_of_hook(str(config["hook_points_out"][0]))
        activation = str(config["act_fn"]).lower()
        logs = held[_LOG] if activation == "jumprelu" else None
        by_norm = bool(config.get("sparsity_include_decoder_norm", True))
    if activation not in ("jumprelu", "relu") or (by_norm and activation == "jumprelu"):
        what = f"{activation} of scores times norms" if by_norm else activation
        raise LoadError(f"{files.where} selects by {what}, which is not read yet: jumprelu and relu of scores are")
    parts = []
    for source in range(n_layers):
        rows = [held[f"W_D.{target}"][source] * (by[source] / out_by[target]) for target in range(source, n_layers)]
        part = {
            "W_enc": held["W_E"][source].T,
            "b_enc": held["b_E"][source] / by[source],
            "W_dec": torch.stack(rows, 1),
            "b_dec": held[f"b_D.{source}"] / out_by[source],
        }
        parts.append(part if logs is None else {**part, "threshold": logs[source].exp() / by[source]})
    provenance = {"format": "llamascopium_clt", **config} | ({WITHOUT_GAIN: True} if bare else {})
    return _built(parts, _facts(site, target, str(config.get("model_name") or ""), provenance), files.where)


def _built(parts: list[dict[str, Tensor]], facts: Facts, where: str) -> Dictionary:
    """From what stands at each source layer, ``W_dec`` (feature, target, d) among it."""
    if len({"threshold" in part for part in parts}) > 1 or len({part["W_enc"].shape for part in parts}) > 1:
        raise LoadError(f"{where} has layers of several widths, or only some that have thresholds")
    tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in ("W_enc", "b_enc")}
    tensors["W_dec"] = torch.cat([part["W_dec"].flatten(0, 1) for part in parts])
    tensors["b_dec"] = torch.stack([part["b_dec"] for part in parts])
    kind: type[Dictionary] = CrossLayerStandard
    if "threshold" in parts[0]:
        kind, tensors["threshold"] = CrossLayerJumpReLU, torch.cat([part["threshold"] for part in parts])
    return build(kind, tensors, facts, where, n_layers=len(parts))


def _facts(site: str, target: str, model: str, provenance: Mapping[str, Any]) -> Facts:
    """Sites are those of all layers."""
    names = [place_of(name).name if name else "" for name in (site, target)]
    return Facts(site=names[0], target=names[1], model=model, centered=False, provenance=dict(provenance))


def _numbered(files: Files, pattern: re.Pattern[str]) -> dict[int, str]:
    layers = {int(match[1]): name for name in files.here if (match := pattern.fullmatch(name))}
    if sorted(layers) != list(range(len(layers))):
        raise LoadError(f"{files.where} has the layers {sorted(layers)} of a transcoder: expected all from 0 on")
    return dict(sorted(layers.items()))


def _no_skip(tensors: Mapping[str, Tensor], files: Files) -> None:
    if any("skip" in name for name in tensors):
        raise LoadError(f"{files.where} adds a map of its input (a skip), which no cross-layer transcoder here has")


def write(dictionary: Dictionary, folder: Path) -> None:
    """A cross-layer transcoder as circuit-tracer reads it; what a threshold selects, as JumpReLU."""
    if not isinstance(dictionary, CrossLayerTranscoder) or isinstance(dictionary, CrossLayerTopK) or dictionary.shared:
        raise ArgumentError(f"circuit-tracer's layout holds no {dictionary!r}: cross-layer ReLU and thresholds it does")
    one = as_jump_relu(dictionary) if isinstance(dictionary, CrossLayerBatchTopK) else dictionary
    tensors, facts = plain(one)
    if facts.normalization != "none" or dictionary.d_in != dictionary.d_out:
        raise ArgumentError(f"circuit-tracer's layout holds no normalization and one width: this is {dictionary!r}")
    n_layers, width = dictionary.n_layers, dictionary.per_layer
    rows = tensors["W_dec"].split([width * reach for reach in dictionary.reach])
    for layer in range(n_layers):
        own = slice(layer * width, (layer + 1) * width)
        held = {f"{name}_{layer}": tensors[name][own] for name in ("W_enc", "b_enc", "threshold") if name in tensors}
        write_tensors(folder / f"W_enc_{layer}.safetensors", {**held, f"b_dec_{layer}": tensors["b_dec"][layer]})
        block = rows[layer].view(width, n_layers - layer, dictionary.d_out)
        write_tensors(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": block})
    hooks = [hook_of_site(f"{site}.0").removeprefix("blocks.0.") if site else "" for site in (facts.site, facts.target)]
    config = {"model_name": facts.model, "model_kind": "cross_layer_transcoder", "scan": facts.provenance.get("scan")}
    config |= {"feature_input_hook": hooks[0], "feature_output_hook": hooks[1]}
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _is_gemma_scope_2(files: Files) -> bool:
    return bool(files.parts) and "clt" in files.parts[0] and any(_OF_LAYER.fullmatch(name) for name in files.here)


def _is_llamascopium(files: Files) -> bool:
    return files.has("config.json", "sae_weights.safetensors") and files.json("config.json").get("sae_type") == "clt"


LAYOUTS = (
    Layout(
        "circuit_tracer_clt",
        "W_enc_{i}.safetensors and W_dec_{i}.safetensors",
        lambda files: any(_ENCODER.fullmatch(name) for name in files.here),
        read_circuit_tracer,
        write,
    ),
    Layout("gemma_scope_2_clt", "a folder clt* with one file a layer", _is_gemma_scope_2, read_gemma_scope_2),
    Layout("llamascopium_clt", "config.json of sae_type clt", _is_llamascopium, read_llamascopium),
)
