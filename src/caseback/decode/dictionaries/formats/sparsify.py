"""sparsify: a folder named after a module, with ``cfg.json`` and ``sae.safetensors``; read and written.

    encoder.weight (feature, d)   encoder.bias   W_dec (feature, d)   b_dec   W_skip (d, d), used as x W_skip^T

b_dec is subtracted but in transcoders, whose site is the module's input and whose target is its output. ``num_latents``
0 means d times ``expansion_factor``. Older files hold ``W_enc`` (d, feature) or ``decoder.weight`` (d, feature).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import hookpoint_of_site, site_of_module
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect, plain, recentered, unit_rows
from caseback.errors import ArgumentError, LoadError
from caseback.jobs.json_text import expect_form
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.whole_file import whole_file

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_LAYOUT = {
    "encoder.weight": "feature d",
    "encoder.bias": "feature",
    "W_dec": "feature d",
    "b_dec": "d",
    "W_skip?": "d d",
}


def read(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of sparsify, of any version."""
    config, above = files.json(CONFIG), files.json_above("config.json")
    with expect_form(f"{files.where}/{CONFIG} is no config of sparsify"):
        d, k = int(config["d_in"]), int(config["k"])
        n_features = int(config.get("num_latents") or 0) or d * int(config["expansion_factor"])
        activation, signed = config.get("activation", "topk"), bool(config.get("signed", False))
        transcodes, unit = bool(config.get("transcode", False)), bool(config.get("normalize_decoder", True))
        module = str(config.get("hookpoint") or files.where.replace("\\", "/").rpartition("/")[2] * (not files.file))
        module = module or (files.parts[1] if len(files.parts) > 1 else "")
    if activation != "topk" or signed:
        what = "the k of largest absolute value" if signed else f"by {activation!r}"
        raise LoadError(f"{files.where} selects features {what}, which is not read yet: topk is")
    tensors = _renamed(files.tensors(WEIGHTS))
    expect(tensors, _LAYOUT, f"{files.where}/{WEIGHTS}", d=d, feature=n_features)
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T.contiguous()
    tensors |= {"W_enc": tensors.pop("encoder.weight"), "b_enc": tensors.pop("encoder.bias")}
    output = site_of_module(f"{module}.output", asked.model)
    facts = Facts(
        site=site_of_module(f"{module}.input", asked.model) if transcodes else output,
        target=output if transcodes else "",
        model=str(above.get("model") or config.get("model") or ""),
        centered=not transcodes,
        unit_rows=unit and not transcodes,
        tokens=f"contexts of {above['ctx_len']} tokens" if "ctx_len" in above else "",
        provenance={"format": "sparsify", "hookpoint": module, **config},
    )
    return build(TopK, tensors, facts, files.where, k=k)


def _renamed(held: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names and orientation of the current version."""
    tensors = dict(held)
    if "W_enc" in tensors:
        tensors["encoder.weight"] = tensors.pop("W_enc").T.contiguous()
    if "decoder.weight" in tensors:
        tensors["W_dec"] = tensors.pop("decoder.weight").T.contiguous()
    for new, old in (("encoder.bias", "b_enc"), ("b_dec", "decoder.bias")):
        if old in tensors:
            tensors[new] = tensors.pop(old)
    return tensors


def write(dictionary: Dictionary, folder: Path) -> None:
    """A TopK dictionary as sparsify reads it; selection by norms is folded into unit rows."""
    if not isinstance(dictionary, TopK) or not dictionary.relu or dictionary.d_in != dictionary.d_out:
        raise ArgumentError(
            f"sparsify's layout holds TopK dictionaries with ReLU and one width: this is {dictionary!r}"
        )
    tensors, facts = plain(dictionary)
    if facts.normalization != "none":
        raise ArgumentError(f"sparsify's layout holds no normalization, and this dictionary has {facts.normalization}")
    if facts.by_norm:
        tensors = unit_rows(tensors)
    transcodes = facts.is_transcoder
    if facts.centered == transcodes:
        tensors = recentered(tensors, not transcodes)
    facts = replace(facts, centered=not transcodes)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, dictionary.n_features // dictionary.d_in),
        "normalize_decoder": facts.unit_rows,
        "num_latents": dictionary.n_features,
        "k": dictionary.k,
        "multi_topk": False,
        "skip_connection": "W_skip" in tensors,
        "transcode": transcodes,
        "d_in": dictionary.d_in,
        "model": facts.model,
        "hookpoint": hookpoint_of_site(facts.target or facts.site) if facts.site else "",
    }
    held = {"encoder.weight": tensors["W_enc"], "encoder.bias": tensors["b_enc"]}
    held |= {name: tensors[name] for name in ("W_dec", "b_dec")}
    held |= {"W_skip": tensors["W_skip"].T} if "W_skip" in tensors else {}
    write_tensors(folder / WEIGHTS, held)
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


LAYOUT = Layout("sparsify", f"{CONFIG} and {WEIGHTS}", lambda files: files.has(CONFIG, WEIGHTS), read, write)
