"""Gemma Scope: ``params.npz`` of the first, ``params.safetensors`` of the second; JumpReLU, read only.

    w_enc (d_in, feature)   w_dec (feature, d_out)   b_enc   b_dec   threshold (feature)      w_ or W_
    affine_skip_connection (d_in, d_out)                                                      the second's

b_dec is not subtracted, and no first tokens (BOS) were trained on. Neither file says where it reads: the second's
``config.json`` does where there is one, else the folders' names do (``layer_20/width_16k/average_l0_71``), which are
also those of the repositories. Embedding dictionaries of the first were trained on embeddings before Gemma's factor
sqrt(d), and are read for those after it. Transcoders of the first read the normalized stream without its gain.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, site_of_module
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import SHAPES, build, expect
from caseback.errors import LoadError

FIRST, SECOND = "params.npz", "params.safetensors"
_LAYOUT = {**SHAPES, "W_enc": "d_in feature", "threshold": "feature"}
_TOKENS = "no first tokens (BOS)"


def read_first(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of Gemma Scope."""
    return _read(files, FIRST, _facts_of_names(files))


def read_second(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of Gemma Scope 2."""
    return _read(files, SECOND, _facts_of_config(files, asked))


def _read(files: Files, name: str, facts: Facts) -> Dictionary:
    where = f"{files.where}/{name}" if not files.file else files.where
    held = files.tensors(name)
    tensors = {f"W_{key[2:]}" if key[:2] in ("w_", "W_") else key: value for key, value in held.items()}
    if getattr(tensors.get("W_dec"), "ndim", 2) == 3:
        raise LoadError(f"{where} is one layer of a cross-layer transcoder: give the folder of all of them")
    skips = bool(facts.provenance.get("affine_connection"))
    expect(tensors, {**_LAYOUT, f"affine_skip_connection{'' if skips else '?'}": "d_in d_out"}, where)
    if (skip := tensors.pop("affine_skip_connection", None)) is not None:
        tensors["W_skip"] = skip
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    tensors["threshold"] = tensors["threshold"].clamp_min(0)
    if facts.site == "embed":
        root = tensors["W_dec"].shape[1] ** 0.5
        tensors |= {
            "W_enc": tensors["W_enc"] / root,
            "W_dec": tensors["W_dec"] * root,
            "b_dec": tensors["b_dec"] * root,
        }
    return build(JumpReLU, tensors, facts, where)


def _facts_of_names(files: Files) -> Facts:
    path = "/".join(reversed(files.parts))
    repository = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)", path)
    layer = re.search(r"layer_(\d+)", path)
    model = f"gemma-2-{repository[1]}" + ("-it" if repository[2] == "it" else "") if repository else ""
    facts = Facts(model=model, centered=False, tokens=_TOKENS, provenance={"format": "gemma_scope", "folder": path})
    kind = repository[3] if repository else ""
    if "embedding" in files.parts:
        return replace(facts, site="embed")
    if layer is None or not kind:
        return facts
    sites = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "mlp_norm"}
    facts = replace(facts, site=f"{sites[kind]}.{layer[1]}")
    if kind == "transcoders":
        facts = replace(facts, target=f"mlp_out.{layer[1]}", provenance={**facts.provenance, WITHOUT_GAIN: True})
    return facts


def _facts_of_config(files: Files, asked: Asked) -> Facts:
    config = files.json("config.json") if "config.json" in files.inside else _config_of_names(files)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise LoadError(f"{files.where} is of the architecture {config['architecture']!r}: Gemma Scope 2 has jump_relu")
    reads, writes = (str(config.get(f"hf_hook_point_{end}") or "") for end in ("in", "out"))
    site = site_of_module(reads, asked.model) if reads else ""
    target = site_of_module(writes, asked.model) if writes else ""
    model = str(config.get("model_name") or "").replace("-v3-", "-3-")
    provenance = {"format": "gemma_scope_2", **config}
    return Facts(
        site=site,
        target="" if target == site else target,
        model=model,
        centered=False,
        tokens=_TOKENS,
        provenance=provenance,
    )


_MODULES = {
    "resid_post": ("output", ""),
    "attn_out": ("self_attn.o_proj.input", ""),
    "mlp_out": ("post_feedforward_layernorm.output", ""),
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}


def _config_of_names(files: Files) -> dict[str, Any]:
    """What a config would say, from folders such as ``gemma-scope-2-1b-pt/resid_post/layer_17_width_16k_l0_medium``."""
    path = "/".join(reversed(files.parts))
    layer, size = re.search(r"layer_(\d+)", path), re.search(r"gemma-scope-2-(\w+-(?:pt|it))", path)
    config: dict[str, Any] = {"model_name": f"gemma-3-{size[1]}" if size else ""}
    kind = next((kind for kind in _MODULES for part in PurePosixPath(path).parts if part.startswith(kind)), None)
    if layer and kind:
        reads, writes = (f"model.layers.{layer[1]}.{end}" if end else "" for end in _MODULES[kind])
        config |= {"hf_hook_point_in": reads, "hf_hook_point_out": writes}
    return config


LAYOUT_1 = Layout("gemma_scope", FIRST, lambda files: files.has(FIRST), read_first)
LAYOUT_2 = Layout(
    "gemma_scope_2", f"{SECOND}, config.json beside it or not", lambda files: files.has(SECOND), read_second
)
