"""Published dictionaries that are one pickle each: OpenAI, Qwen Scope, Goodfire, DeepSeek R1; read only on request.

    OpenAI        encoder.weight (feature, d)   latent_bias   decoder.weight (d, feature)   pre_bias   activation
    Qwen Scope    W_enc (feature, d)   b_enc   W_dec (d, feature)   b_dec       TopK; k stands in the repository's name
    Goodfire      encoder_linear.weight (feature, d) .bias   decoder_linear.weight (d, feature) .bias            ReLU
    DeepSeek R1   encoder.weight (feature, d) .bias   decoder.weight (d, feature) .bias                           ReLU

OpenAI's subtract b_dec (``pre_bias``), the others do not. Their TopK ones normalize each token: mean and standard
deviation with 1 / (n - 1), 1e-5 added to it, and multiplied back without it. No file says the model or the place.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.formats.files import PICKLES, Files
from caseback.decode.dictionaries.formats.layout import Asked, Layout
from caseback.decode.dictionaries.formats.weights import build, expect
from caseback.errors import LoadError
from caseback.jobs.json_text import expect_form

_STATS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_OPENAI = {"pre_bias": "d", "encoder.weight": "feature d", "latent_bias": "feature", "decoder.weight": "d feature"}
_OPENAI_SITES = {
    "resid_delta_attn": "attn_out",
    "resid_delta_mlp": "mlp_out",
    "resid_post_attn": "resid_mid",
    "resid_post_mlp": "resid_post",
    "mlp_post_act": "mlp_post",
}
_QWEN = {"W_enc": "feature d", "b_enc": "feature", "W_dec": "d feature", "b_dec": "d"}


def read_openai(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of OpenAI's."""
    held = _only(files)
    with expect_form(f"{files.where} is no dictionary of OpenAI"):
        name, state = str(held.get("activation", "ReLU")), dict(held.get("activation_state_dict") or {})
        if name not in ("ReLU", "TopK"):
            raise LoadError(f"{files.where} has the activation {name!r}: ReLU and TopK are read")
        k = int(state["k"]) if name == "TopK" else 0
        relu = state.get("postact_fn", "ReLU") == "ReLU"
    tensors = _tensors(held)
    expect(tensors, {**_OPENAI, **{f"{stat}?": "feature" for stat in _STATS}}, files.where)
    ours = {"W_enc": tensors["encoder.weight"], "b_enc": tensors["latent_bias"], "b_dec": tensors["pre_bias"]}
    ours["W_dec"] = tensors["decoder.weight"].T.contiguous()
    path = "/".join(reversed(files.parts))
    place, layer = re.search("|".join(_OPENAI_SITES), path), re.search(r"autoencoders/(\d+)\.pt", path)
    facts = Facts(
        site=f"{_OPENAI_SITES[place[0]]}.{layer[1]}" if place and layer else "",
        model="gpt2" if "gpt2-small" in path else "",
        normalization="layer_norm" if k else "none",
        provenance={"format": "openai", "file": path},
    )
    options = {"k": k, "relu": relu} if k else {}
    return build(TopK if k else Standard, ours, facts, files.where, **options)


def read_qwen_scope(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of Qwen Scope."""
    tensors = _tensors(_only(files))
    expect(tensors, _QWEN, files.where)
    path = "/".join(reversed(files.parts))
    release, layer = re.search(r"SAE-Res-(.+?)-W\d+K-L0_(\d+)", path), re.search(r"layer(\d+)\.sae", path)
    if release is None:
        raise LoadError(
            f"{files.where} does not say how many features are active: keep it in a folder named as its repository "
            "is, such as SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
        )
    facts = Facts(
        site=f"resid_post.{layer[1]}" if layer else "",
        model=f"Qwen/{release[1]}",
        centered=False,
        provenance={"format": "qwen_scope", "file": path},
    )
    tensors["W_dec"] = tensors["W_dec"].T.contiguous()
    return build(TopK, tensors, facts, files.where, k=int(release[2]))


def read_goodfire(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of Goodfire's."""
    return _of_linear(files, "goodfire", "_linear")


def read_deepseek_r1(files: Files, asked: Asked) -> Dictionary:
    """A dictionary of DeepSeek R1's distilled models."""
    return _of_linear(files, "deepseek_r1", "")


def _of_linear(files: Files, name: str, ending: str) -> Dictionary:
    reads, writes = f"encoder{ending}", f"decoder{ending}"
    tensors = _tensors(_only(files))
    layout = {f"{reads}.weight": "feature d", f"{reads}.bias": "feature", f"{writes}.weight": "d feature"}
    expect(tensors, {**layout, f"{writes}.bias": "d"}, files.where)
    ours = {"W_enc": tensors[f"{reads}.weight"], "b_enc": tensors[f"{reads}.bias"]}
    ours |= {"W_dec": tensors[f"{writes}.weight"].T.contiguous(), "b_dec": tensors[f"{writes}.bias"]}
    release = re.fullmatch(r"(.+)-SAE-l(\d+)", (files.file or files.parts[0]).rpartition(".")[0])
    facts = Facts(
        site=f"resid_post.{release[2]}" if release else "",
        model=release[1] if release else "",
        centered=False,
        provenance={"format": name, "file": "/".join(reversed(files.parts))},
    )
    return build(Standard, ours, facts, files.where)


def pickle_of(files: Files) -> str | None:
    """The one pickle of a folder, or the one that was meant."""
    names = [name for name in files.here if name.endswith(PICKLES)]
    return names[0] if len(names) == 1 else None


def _only(files: Files) -> dict[str, Any]:
    if (name := pickle_of(files)) is None:
        raise LoadError(f"{files.where} has not one pickle but several, or none: name the one that is meant")
    return files.pickle(name)


def _tensors(held: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}


def _by_keys(name: str, where: str, keys: list[str], read: Any) -> Layout:
    return Layout(name, where, lambda files: False, read, keys=frozenset(keys))


LAYOUTS = (
    _by_keys("openai", "a .pt file of OpenAI", ["pre_bias", "latent_bias", "encoder.weight"], read_openai),
    _by_keys("qwen_scope", "layer*.sae.pt of Qwen Scope", list(_QWEN), read_qwen_scope),
    _by_keys("goodfire", "a .pt file of Goodfire", ["encoder_linear.weight", "decoder_linear.weight"], read_goodfire),
    _by_keys(
        "deepseek_r1",
        "a .pt file of DeepSeek R1",
        ["encoder.weight", "decoder.weight", "decoder.bias"],
        read_deepseek_r1,
    ),
)
