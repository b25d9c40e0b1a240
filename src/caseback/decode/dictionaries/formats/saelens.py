"""SAELens: a folder with ``cfg.json`` and ``sae_weights.safetensors``; read and written.

    W_enc (d_in, feature)   W_dec (feature, d_out)   b_enc   b_dec   threshold (jumprelu)   W_skip (d_out, d_in)

``apply_b_dec_to_input`` says whether b_dec is subtracted. BatchTopK and Matryoshka dictionaries are saved as
``jumprelu`` with one threshold for all features. Where ``rescale_acts_by_decoder_norm`` is set codes are scores times
the norms of W_dec's rows; the norms are folded, so codes are the same here. A factor of
``expected_average_only_in`` is folded into W_enc, W_dec and b_dec; where no file has it nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.abs_topk import AbsTopK
from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.folding import as_jump_relu
from caseback.decode.dictionaries.architectures.gated import Gated
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.matching_pursuit import MatchingPursuit
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts, Normalization
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, hook_of_site, site_of_hook
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.saelens_config import current
from caseback.decode.dictionaries.formats.weights import SHAPES, build, expect, plain, recentered, scaled, unit_rows
from caseback.errors import ArgumentError, LoadError
from caseback.jobs.json_text import expect_form
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.whole_file import whole_file

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_NORMALIZATIONS: dict[str, Normalization] = {
    "none": "none",
    "expected_average_only_in": "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "unit_norm",
}
_GATED = {"b_enc": "b_gate"}
_GATE = {"b_gate": "b_enc"}
_BY_TOKEN = ("layer_norm", "unit_norm")
# how each is selected, whether it is a transcoder, and whether it has a skip
_ARCHITECTURES: dict[str, tuple[type[Dictionary], bool, bool]] = {
    "standard": (Standard, False, False),
    "topk": (TopK, False, False),
    "batchtopk": (BatchTopK, False, False),
    "jumprelu": (JumpReLU, False, False),
    "gated": (Gated, False, False),
    "abstopk": (AbsTopK, False, False),
    "matching_pursuit": (MatchingPursuit, False, False),
    "transcoder": (Standard, True, False),
    "skip_transcoder": (Standard, True, True),
    "jumprelu_transcoder": (JumpReLU, True, False),
    "jumprelu_skip_transcoder": (JumpReLU, True, True),
}


def read(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of SAELens, of any version."""
    config = current(files.json(CONFIG), files.where)
    with expect_form(f"{files.where}/{CONFIG} is no config of SAELens"):
        architecture = str(config["architecture"])
        if architecture not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise LoadError(
                f"{files.where} is of the architecture {architecture!r}, which is not read yet: {known} are"
            )
        kind, transcodes, skip = _ARCHITECTURES[architecture]
        facts = _facts(config, transcodes, files.where)
        tensors = files.tensors(WEIGHTS)
        sizes = {"d_in": int(config["d_in"]), "feature": int(config["d_sae"])}
        sizes["d_out"] = int(config.get("d_out", sizes["d_in"]))
        k = config.get("k")
        rescale = bool(config.get("rescale_acts_by_decoder_norm", False))
    return _dictionary(files, asked, kind, skip, tensors, sizes, facts, config, k, rescale)


def _dictionary(
    files: Files,
    asked: Asked,
    kind: type[Dictionary],
    skip: bool,
    tensors: dict[str, Tensor],
    sizes: dict[str, int],
    facts: Facts,
    config: Mapping[str, Any],
    k: Any,
    rescale: bool,
) -> Dictionary:
    layout = {**SHAPES, "W_enc": "d_in feature", "scaling_factor?": "feature"}
    if kind is MatchingPursuit:
        layout = {"W_dec": "feature d_out", "b_dec": "d_out"}
    if kind is Gated:
        layout = {
            **{_GATED.get(name, name): dims for name, dims in layout.items()},
            "b_mag": "feature",
            "r_mag": "feature",
        }
    layout |= {"threshold": "feature"} if kind is JumpReLU else {}
    layout |= {"topk_threshold": ""} if kind is BatchTopK else {}
    layout |= {"W_skip": "d_out d_in"} if skip else {}
    expect(tensors, layout, f"{files.where}/{WEIGHTS}", **sizes)
    factors = tensors.pop("scaling_factor", None)
    if factors is not None and not torch.allclose(factors, torch.ones_like(factors)):
        raise LoadError(f"{files.where} has a scaling_factor for each feature, as fine-tuned ones had: it is not read")
    tensors = {_GATE.get(name, name): value for name, value in tensors.items()}
    for name in ("W_enc", "W_skip"):
        if name in tensors:
            tensors[name] = tensors[name].T.contiguous()
    if config["normalize_activations"] == "expected_average_only_in":
        tensors = scaled(tensors, _factor(files, config, asked.force))
    options: dict[str, Any] = {}
    if kind in (TopK, BatchTopK, AbsTopK):
        options["k"] = _count(k, files.where)
    if kind is MatchingPursuit:
        options = _pursuit(config, sizes["d_in"], facts, files.where)
    if kind is JumpReLU:
        tensors["threshold"] = tensors["threshold"].clamp_min(0)  # their ReLU drops what is below 0
    if kind is BatchTopK:
        tensors["threshold"] = tensors.pop("topk_threshold").double()
    if rescale:
        if kind is BatchTopK:
            raise LoadError(f"{files.where} is of training, selects by norms and has a threshold: it is not read yet")
        tensors = unit_rows(tensors)
        facts = replace(facts, provenance={**facts.provenance, "folded": "norms of decoder rows"})
    return build(kind, tensors, facts, files.where, **options)


def _pursuit(config: Mapping[str, Any], d: int, facts: Facts, where: str) -> dict[str, Any]:
    if not facts.centered or config["normalize_activations"] == "expected_average_only_in":
        raise LoadError(f"{where} is a pursuit that subtracts no b_dec, or of scaled states: it is not read")
    if config.get("stop_on_duplicate_support", True):
        raise LoadError(
            f"{where} is a pursuit that takes a feature a second time and then ends, which no architecture here does"
        )
    with expect_form(f"{where}/{CONFIG} is no config of matching pursuit"):
        most, enough = config.get("max_iterations"), float(config.get("residual_threshold", 1e-2))
        return {"k": d if most is None else int(most), "enough": enough, "repeat": True}


def _count(k: Any, where: str) -> Any:
    if isinstance(k, bool) or not isinstance(k, int | float) or k <= 0:
        raise LoadError(f"{where}/{CONFIG}: k is {k!r}, expected how many features are active")
    return k


def _facts(config: Mapping[str, Any], transcodes: bool, where: str) -> Facts:
    metadata = dict(config["metadata"])
    own = dict(metadata.pop("caseback", None) or {})
    how = config["normalize_activations"]
    if how not in _NORMALIZATIONS:
        raise LoadError(f"{where} normalizes states by {how!r}, which is not read: {', '.join(_NORMALIZATIONS)} are")
    normalization = _NORMALIZATIONS[how]
    centered = bool(config["apply_b_dec_to_input"])
    if transcodes and (centered or normalization in _BY_TOKEN):
        what = "subtracts b_dec from its input" if centered else "normalizes each token"
        raise LoadError(f"{where} is a transcoder that {what}: SAELens has none, so what it means is not known")
    site, bare = site_of_hook(str(metadata.get("hook_name") or ""))
    target, _ = site_of_hook(str(metadata.get("hook_name_out") or "")) if transcodes else ("", False)
    provenance = {"format": "saelens", **{key: value for key, value in metadata.items() if value is not None}}
    provenance |= {WITHOUT_GAIN: True} if bare else {}
    return Facts(
        site=site,
        target=target,
        model=str(metadata.get("model_name") or ""),
        centered=centered,
        normalization=normalization,
        unit_rows=bool(own.get("unit_rows", False)),
        tokens=str(own.get("tokens") or _tokens(metadata)),
        provenance=provenance,
    )


def _tokens(metadata: Mapping[str, Any]) -> str:
    words = []
    if metadata.get("prepend_bos") is not None:
        words.append("texts start with BOS" if metadata["prepend_bos"] else "no BOS is put before texts")
    if metadata.get("context_size"):
        words.append(f"contexts of {metadata['context_size']} tokens")
    if metadata.get("seqpos_slice") not in (None, [None], [None, None], (None,)):
        words.append(f"positions {metadata['seqpos_slice']}")
    return ", ".join(words)


def _factor(files: Files, config: Mapping[str, Any], force: bool) -> float:
    """What states are to be multiplied by, from wherever it stands."""
    given = config.get("norm_scaling_factor")
    if given is None and files.has("activation_scaler.json"):
        given = files.json("activation_scaler.json").get("scaling_factor")
    if given is None and force:
        return 1.0
    if given is None:
        raise LoadError(
            f"{files.where} expects states that were multiplied by a factor, which none of its files has: write it as "
            "norm_scaling_factor into cfg.json, or give force=True (in commands --force) to read it as if it were 1"
        )
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < float("inf"):
        raise LoadError(f"{files.where}: the factor of states is {given!r}, expected a number above 0")
    return float(given)


def write(dictionary: Dictionary, folder: Path) -> None:
    """A dictionary as SAELens of version 6 reads it.

    Selection by norms is folded: codes are then scores times norms. A BatchTopK dictionary is written as ``jumprelu``.
    """
    tensors, facts = plain(dictionary)
    transcodes = facts.is_transcoder or dictionary.d_in != dictionary.d_out or "W_skip" in tensors
    config: dict[str, Any] = {"rescale_acts_by_decoder_norm": False} if isinstance(dictionary, TopK) else {}
    match dictionary:
        case Standard():
            name = "transcoder" if transcodes else "standard"
        case TopK() if dictionary.relu and not transcodes:
            name = "topk"
            config["k"] = dictionary.k
            tensors = unit_rows(tensors) if facts.by_norm else tensors
        case AbsTopK() if not transcodes and not facts.by_norm:
            name, config["k"] = "abstopk", dictionary.k
        case JumpReLU() | BatchTopK():
            name = "jumprelu_transcoder" if transcodes else "jumprelu"
            tensors, facts = plain(_with_thresholds(dictionary))
        case Gated() if not transcodes:
            name = "gated"
            tensors["b_gate"] = tensors.pop("b_enc")
        case _:
            raise ArgumentError(f"SAELens's layout holds no {dictionary!r}: format='caseback' does")
    if transcodes and facts.normalization in _BY_TOKEN:
        raise ArgumentError(f"SAELens's transcoders normalize no tokens, and this one does: {facts.normalization}")
    if transcodes and facts.centered:
        tensors, facts = recentered(tensors, False), replace(facts, centered=False)
    if "W_skip" in tensors:
        name = name.replace("transcoder", "skip_transcoder")
        tensors["W_skip"] = tensors["W_skip"].T
    tensors["W_enc"] = tensors["W_enc"].T
    config |= {
        "architecture": name,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_features,
        "dtype": str(tensors["W_enc"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": facts.centered,
        "normalize_activations": {"layer_norm": "layer_norm", "unit_norm": "constant_norm_rescale"}.get(
            facts.normalization, "none"
        ),
        "reshape_activations": "hook_z" if facts.site.partition(".")[0] == "z" else "none",
        "metadata": _metadata(facts, transcodes),
    }
    config |= {"d_out": dictionary.d_out} if transcodes else {}
    write_tensors(folder / WEIGHTS, tensors)
    with whole_file(folder / CONFIG) as draft:
        draft.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _with_thresholds(dictionary: JumpReLU | BatchTopK) -> JumpReLU:
    one = dictionary if isinstance(dictionary, JumpReLU) else as_jump_relu(dictionary)
    if bool((one.threshold < 0).any()):
        raise ArgumentError("SAELens's layout drops codes below 0, and this dictionary has thresholds below 0")
    return one


def _metadata(facts: Facts, transcodes: bool) -> dict[str, Any]:
    """What SAELens's readers look up, and our facts beside it."""
    own = asdict(facts)
    own["provenance"] = {key: value for key, value in facts.provenance.items() if key != "format"}
    metadata = {
        "sae_lens_version": "6.0.0",
        "model_name": facts.model,
        "hook_name": hook_of_site(facts.site),
        "model_from_pretrained_kwargs": {"fold_ln": False, "center_writing_weights": False, "center_unembed": False},
        "caseback": own,
    }
    return metadata | ({"hook_name_out": hook_of_site(facts.target)} if transcodes else {})


LAYOUT = Layout("saelens", f"{CONFIG} and {WEIGHTS}", lambda files: files.has(CONFIG, WEIGHTS), read, write)
