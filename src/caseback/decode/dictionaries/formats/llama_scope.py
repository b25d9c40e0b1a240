"""Llama Scope, and its library's later layout (Llamascopium); dictionaries of one site, read only.

    hyperparams.json, checkpoints/final.safetensors   encoder.weight (feature, d) .bias, decoder.weight (d, feature)
    config.json, sae_weights.safetensors              the same, log_jumprelu_threshold (feature); or
                                                      W_E (d, feature)  b_E  W_D (feature, d)  b_D,
                                                      activation_function.log_jumprelu_threshold

With ``norm_activation: dataset-wise`` states are read times s = sqrt(d) / (their mean norm) and targets are written
times s', that of their own norm. Both are folded, and codes are in the units of the states, as the library gives them:
W_enc, b_enc / s, W_dec s / s', b_dec / s'. With ``sparsity_include_decoder_norm`` the threshold, or TopK, judges codes
times the norms of decoder rows. The first layout's one threshold is for these units; a learned one is for normalized
states, so it is divided by s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, site_of_hook
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect, unit_rows
from caseback.errors import LoadError
from caseback.jobs.json_text import expect_form

FIRST, FIRST_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
LATER, LATER_WEIGHTS = "config.json", "sae_weights.safetensors"
_LINEAR = {
    "encoder.weight": "feature d_in",
    "encoder.bias": "feature",
    "decoder.weight": "d_out feature",
    "decoder.bias": "d_out",
}
_MATRICES = {"W_E": "d_in feature", "b_E": "feature", "W_D": "feature d_out", "b_D": "d_out"}
_LOGS = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
_NORM = "dataset_average_activation_norm."


def read_first(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of Llama Scope."""
    config = files.json(FIRST)
    tensors = files.tensors(FIRST_WEIGHTS)
    with expect_form(f"{files.where}/{FIRST} is not of Llama Scope"):
        means = dict(config.get("dataset_average_activation_norm") or {})
        return _read(files, config, tensors, means.get("in"), means.get("out"), asked)


def read_later(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of the library's later layout."""
    config = files.json(LATER)
    tensors = files.tensors(LATER_WEIGHTS)
    with expect_form(f"{files.where}/{LATER} is not of Llamascopium"):
        kind = config.get("sae_type", "sae")
        if kind != "sae" or config.get("use_glu_encoder"):
            what = kind if kind != "sae" else "a dictionary with a gated linear encoder"
            raise LoadError(f"{files.where} is {what!r}, which is not read yet: dictionaries of one site ('sae') are")
        means = {name: float(tensors.pop(name)) for name in list(tensors) if name.startswith(_NORM)}
        means |= {f"{_NORM}{k}": v for k, v in dict(config.get("dataset_average_activation_norm") or {}).items()}
        mean_in, mean_out = (
            means.get(f"{_NORM}{config[f'hook_point_{end}']}", means.get(f"{_NORM}{end}")) for end in ("in", "out")
        )
        return _read(files, config, tensors, mean_in, mean_out, asked)


def _read(
    files: Files, config: Mapping[str, Any], tensors: dict[str, Tensor], mean_in: Any, mean_out: Any, asked: Asked
) -> Dictionary:
    linear = "encoder.weight" in tensors
    layout = _LINEAR if linear else _MATRICES
    logs = {f"{name}?": "feature" if tensors.get(name, torch.zeros(1)).ndim else "" for name in _LOGS}
    if not config.get("use_decoder_bias", True):
        layout = {name: dims for name, dims in layout.items() if name not in ("decoder.bias", "b_D")}
    expect(
        tensors, {**layout, **logs}, files.where, **({"d_in": int(config["d_model"])} if "d_model" in config else {})
    )
    names = list(layout)
    ours: dict[str, Tensor] = dict(
        zip(("W_enc", "b_enc", "W_dec", "b_dec"), (tensors[name] for name in names), strict=False)
    )
    swapped = "W_dec" if linear else "W_enc"
    ours[swapped] = ours[swapped].T.contiguous()
    ours.setdefault("b_dec", ours["W_dec"].new_zeros(ours["W_dec"].shape[1]))

    norms = ours["W_dec"].double().norm(dim=1)
    by, out_by = _factors(files, config, ours, mean_in, mean_out, asked)
    folds = {"b_enc": 1 / by, "W_dec": by / out_by, "b_dec": 1 / out_by}
    ours = {name: (value.double() * folds.get(name, 1.0)).to(value.dtype) for name, value in ours.items()}

    log = next((tensors[name] for name in _LOGS if name in tensors), None)
    by_norm = bool(config.get("sparsity_include_decoder_norm", True))
    learned = None if log is None else log.double().exp() / (by * norms if by_norm else by)
    return _selected(files, config, ours, learned, by_norm)


def _factors(
    files: Files, config: Mapping[str, Any], ours: Mapping[str, Tensor], mean_in: Any, mean_out: Any, asked: Asked
) -> tuple[float, float]:
    how = config.get("norm_activation", "none")
    if how in ("inference", "none"):
        return 1.0, 1.0
    if how != "dataset-wise":
        raise LoadError(f"{files.where} normalizes states {how!r}, which is not read: dataset-wise and inference are")
    means = (mean_in, mean_in if mean_out is None else mean_out)
    if mean_in is None and asked.force:
        return 1.0, 1.0
    if any(mean is None or not 0 < float(mean) < float("inf") for mean in means):
        raise LoadError(
            f"{files.where} normalizes states by their mean norm over a dataset, which none of its files says "
            f"({means[0]!r}): force=True (in commands --force) reads it as if they had norm sqrt(d)"
        )
    widths = (ours["W_enc"].shape[1], ours["W_dec"].shape[1])
    by, out_by = (width**0.5 / float(mean) for width, mean in zip(widths, means, strict=True))
    return by, out_by


def _selected(
    files: Files, config: Mapping[str, Any], ours: dict[str, Tensor], learned: Tensor | None, by_norm: bool
) -> Dictionary:
    activation = str(config["act_fn"]).lower()
    if config.get("apply_decoder_bias_to_pre_encoder", False):
        raise LoadError(f"{files.where} subtracts its decoder's bias from normalized states, which is not read yet")
    facts = _facts(config, by_norm and activation == "topk")
    if activation == "topk":
        return build(TopK, ours, facts, files.where, k=int(config["top_k"]))
    if activation == "relu":
        return build(Standard, ours, facts, files.where)
    if activation != "jumprelu":
        raise LoadError(f"{files.where} has the activation {activation!r}: jumprelu, topk and relu are read")
    if learned is None and FIRST not in files.inside:
        raise LoadError(f"{files.where} has no {' or '.join(_LOGS)}, and is of the activation jumprelu")
    if learned is None:  # codes of the first layout are in units of what their rows write, and so is its threshold
        learned = torch.tensor(float(config["jump_relu_threshold"]), dtype=torch.float64)
        ours = unit_rows(ours) if by_norm else ours
    ours["threshold"] = learned.expand(len(ours["b_enc"])).to(ours["b_enc"].dtype).contiguous()
    return build(JumpReLU, ours, facts, files.where)


def _facts(config: Mapping[str, Any], by_norm: bool) -> Facts:
    site, bare = site_of_hook(str(config.get("hook_point_in") or ""))
    target, _ = site_of_hook(str(config.get("hook_point_out") or ""))
    return Facts(
        site=site,
        target="" if target == site else target,
        model=str(config.get("model_name") or ""),
        centered=False,
        by_norm=by_norm,
        provenance={"format": "llama_scope", **config} | ({WITHOUT_GAIN: True} if bare else {}),
    )


LAYOUT_1 = Layout(
    "llama_scope", f"{FIRST} and {FIRST_WEIGHTS}", lambda files: files.has(FIRST, FIRST_WEIGHTS), read_first
)
LAYOUT_2 = Layout(
    "llamascopium", f"{LATER} and {LATER_WEIGHTS}", lambda files: files.has(LATER, LATER_WEIGHTS), read_later
)
