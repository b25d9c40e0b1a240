"""dictionary_learning: ``ae.pt`` and ``config.json``; a pickle, so read only on request.

    AutoEncoder              encoder.weight (feature, d)  encoder.bias  decoder.weight (d, feature)  bias
    TopK, BatchTopK          the same with b_dec for bias, k, and a threshold
    JumpReLU, Matryoshka     W_enc (d, feature)  b_enc  W_dec (feature, d)  b_dec  threshold

b_dec is subtracted but in JumpReLU. A TopK file has a threshold too, which its own inference does not use. ``ae.pt`` is
a dictionary's weights where training ended; where it was interrupted it holds ``{"ae": weights, "norm_factor": ...}``,
whose biases are still those of normalized states: they are multiplied by the factor here, as the end of training does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.gated import Gated
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.matryoshka import Matryoshka
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import Files
from caseback.decode.dictionaries.formats.hook_names import site_of_module
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect, widened
from caseback.errors import LoadError
from caseback.jobs.json_text import expect_form

CONFIG, WEIGHTS = "config.json", "ae.pt"
LONG_TRAINED = 10_000  # batches after which a threshold hardly moves, should training go on
_LINEAR = {"encoder.weight": "feature d", "encoder.bias": "feature", "decoder.weight": "d feature"}
_MATRICES = {"W_enc": "d feature", "b_enc": "feature", "W_dec": "feature d", "b_dec": "d"}
_GATED = {
    **{name: dims for name, dims in _LINEAR.items() if name != "encoder.bias"},
    **{"decoder_bias": "d", "r_mag": "feature", "gate_bias": "feature", "mag_bias": "feature"},
}
_CLASSES: dict[str, tuple[type[Dictionary], dict[str, str]]] = {
    "AutoEncoder": (Standard, {**_LINEAR, "bias": "d"}),
    "AutoEncoderTopK": (TopK, {**_LINEAR, "b_dec": "d", "k?": "", "threshold?": ""}),
    "BatchTopKSAE": (BatchTopK, {**_LINEAR, "b_dec": "d", "k?": "", "threshold": ""}),
    "MatryoshkaBatchTopKSAE": (Matryoshka, {**_MATRICES, "k?": "", "threshold": "", "group_sizes": "group"}),
    "GatedAutoEncoder": (Gated, _GATED),
    "JumpReluAutoEncoder": (JumpReLU, {**_MATRICES, "threshold": "feature"}),
}
_OURS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "bias": "b_dec"}
_OURS |= {"decoder_bias": "b_dec", "gate_bias": "b_enc", "mag_bias": "b_mag"}


def read(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of dictionary_learning."""
    config = files.json(CONFIG) if CONFIG in files.inside else {}
    held, factor = _weights(files)
    with expect_form(f"{files.where}/{CONFIG} is no config of dictionary_learning"):
        trainer, buffer = dict(config.get("trainer") or {}), dict(config.get("buffer") or {})
        name = str(trainer.get("dict_class") or _class_of(held, files.where))
        sizes = {"d": trainer.get("activation_dim"), "feature": trainer.get("dict_size")}
        module = str(trainer.get("submodule_name") or "")
        layer = trainer.get("layer")
    if name not in _CLASSES:
        raise LoadError(f"{files.where} is a {name}, which is not read yet: {', '.join(_CLASSES)} are")
    kind, layout = _CLASSES[name]
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)}
    expect(tensors, layout, f"{files.where}/{WEIGHTS}", **{key: int(n) for key, n in sizes.items() if n is not None})
    tensors = {_OURS.get(key, key): value for key, value in tensors.items()}
    for name, linear in (("W_enc", "encoder.weight"), ("W_dec", "decoder.weight")):
        rows_are_features = (name == "W_enc") == (linear in held)
        tensors[name] = tensors[name] if rows_are_features else tensors[name].T.contiguous()
    tensors |= {key: tensors[key] * factor for key in ("b_enc", "b_dec", "b_mag") if key in tensors}
    sizes_of_groups, k = tensors.pop("group_sizes", None), tensors.pop("k", trainer.get("k"))
    threshold, options = tensors.pop("threshold", None), {}
    if kind in (TopK, BatchTopK, Matryoshka):
        options["k"] = _count(k, files.where)
    if sizes_of_groups is not None:
        options["prefixes"] = sizes_of_groups.cumsum(0).tolist()
    if threshold is not None and kind is not TopK:
        threshold = threshold * factor if kind is JumpReLU or float(threshold) >= 0 else threshold
        tensors["threshold"] = threshold.double() if issubclass(kind, BatchTopK) else threshold.clamp_min(0)
        if issubclass(kind, BatchTopK):
            tensors["batches"] = torch.tensor(LONG_TRAINED if float(threshold) >= 0 else 0)
    provenance = {"format": "dictionary_learning", "trainer": trainer, "buffer": buffer}
    if factor != 1.0:
        provenance["folded"] = f"biases times {factor}, the norm of states in an interrupted training"
    facts = Facts(
        site=_site(module, layer, asked),
        model=str(trainer.get("lm_name") or ""),
        centered=kind is not JumpReLU,
        unit_rows=kind in (TopK, BatchTopK, Matryoshka),
        tokens=f"contexts of {buffer['ctx_len']} tokens" if "ctx_len" in buffer else "",
        provenance=provenance,
    )
    return build(kind, tensors, facts, files.where, **options)


def _weights(files: Files) -> tuple[Mapping[str, Any], float]:
    """The weights, and what their biases are still to be multiplied by."""
    held = files.pickle(WEIGHTS)
    if "ae" not in held:
        return held, 1.0
    with expect_form(f"{files.where}/{WEIGHTS} is of an interrupted training, but not in its form"):
        weights = {name: widened(value) for name, value in dict(held["ae"]).items()}
        return weights, float(1.0 if held.get("norm_factor") is None else held["norm_factor"])


def _class_of(held: Mapping[str, Any], where: str) -> str:
    """Which class has these names, where no config says it."""
    if "group_sizes" in held:
        return "MatryoshkaBatchTopKSAE"
    if "gate_bias" in held:
        return "GatedAutoEncoder"
    if "bias" in held:
        return "AutoEncoder"
    if "W_enc" in held:
        return "JumpReluAutoEncoder"
    raise LoadError(f"{where} has no {CONFIG}: its weights alone do not say whether it is TopK or BatchTopK")


def _count(k: Any, where: str) -> int:
    if k is None or (isinstance(k, Tensor) and k.numel() != 1) or not float(k) >= 1:
        raise LoadError(f"{where}: neither {WEIGHTS} nor {CONFIG} says how many features are active (k)")
    return int(k)


def _site(module: str, layer: Any, asked: Asked) -> str:
    """From a submodule's name such as ``resid_post_layer_12``; without one the layer's output is meant."""
    if module and not module.startswith("resid_post"):
        return site_of_module(module if module.endswith((".input", ".output")) else f"{module}.output", asked.model)
    return "" if layer is None else f"resid_post.{int(layer)}"


LAYOUT = Layout(
    "dictionary_learning",
    f"{WEIGHTS}, with {CONFIG}",
    lambda files: files.has(WEIGHTS) or files.has(WEIGHTS, CONFIG),
    read,
)
