"""Every technique says of a model under edits what it says of a copy with other weights, or refuses in words.

z_h = 0          rows of W_O are zeros            c mlp            c W_out
mlp + v          b_out = v                        g final_norm     its gain times g
"""

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import caseback as cb
from bad_inputs import python_doors
from bad_inputs.valid import Valid
from caseback.errors import CasebackError

pytestmark = pytest.mark.slow
D, HEAD = 16, 8
VECTOR = torch.linspace(-0.5, 0.5, D)
GAIN = torch.linspace(0.4, 1.8, D)


def zeroed(hf):
    hf.model.layers[1].self_attn.o_proj.weight[:, HEAD:] = 0.0


def scaled(hf):
    hf.model.layers[0].mlp.down_proj.weight *= 0.5


def biased(hf):
    old = hf.model.layers[1].mlp.down_proj
    new = torch.nn.Linear(old.in_features, old.out_features, bias=True)
    new.weight.copy_(old.weight)
    new.bias.copy_(VECTOR)
    hf.model.layers[1].mlp.down_proj = new


def regained(hf):
    hf.model.norm.weight *= GAIN


CHANGES = {
    "head": (cb.Zero("z", layer=1, head=1), zeroed),
    "mlp": (cb.Scale("mlp_out", 0.5, layer=0), scaled),
    "bias": (cb.Add("mlp_out", VECTOR, layer=1), biased),
    "norm": (cb.Scale("final_norm", GAIN), regained),
}

OTHERWISE = {
    "behaviors.atlas",  # some kinds look at weights alone, in which an edit of activations is not
    "localize.inputs.randomisation_test",  # draws the weights anew, and edits stay
    "localize.circuits.attribution_graph",  # shares of an edited write are others: that they sum is tested with graphs
}


@pytest.fixture(scope="module")
def plain():
    tokenizer = AutoTokenizer.from_pretrained(cb.organisms.path("meadow"))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": D,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3, **sizes)
    hf = LlamaForCausalLM(config)
    with torch.no_grad():
        hf.model.embed_tokens.weight *= 3.0  # so that the norms do not decide alone
    return cb.load(hf.eval(), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def valid(plain, tmp_path_factory):
    return Valid(plain, tmp_path_factory.mktemp("valid"))


def changed(plain, change):
    hf = copy.deepcopy(plain.hf)
    with torch.no_grad():
        change(hf)
    return cb.load(hf, tokenizer=plain.tokenizer)


def own(value, plain, model):
    """An argument as it is for another model: the model itself, and its runs."""
    if value is plain:
        return model
    if isinstance(value, cb.Run):
        return model.run(value.tokens, read=value.sites)
    return value


def numbers(value, depth=0):
    """All numbers of a result, in its own order."""
    if isinstance(value, cb.Model | cb.Run | str | bytes | type(None)) or callable(value) or depth > 6:
        return []
    if isinstance(value, xr.Dataset):
        value = list(value.data_vars.values())
    if isinstance(value, torch.Tensor | xr.DataArray | np.ndarray | np.generic | int | float):
        x = value.detach().double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return [x.astype(float).ravel()] if x.dtype.kind in "biuf" else []
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "provenance"]
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=str)]
    return [x for item in value for x in numbers(item, depth + 1)] if isinstance(value, list | tuple) else []


def answer(function, arguments):
    torch.manual_seed(0)
    try:
        return numbers(python_doors.given_by(function, arguments))
    except CasebackError:
        return None


def off(ours, theirs):
    """By how much two results differ, as a share of the largest number of each part."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return np.inf
    shares = [0.0]
    for one, other in zip(ours, theirs, strict=True):
        if not np.array_equal(np.isnan(one), np.isnan(other)):
            return np.inf
        finite = np.isfinite(one) & np.isfinite(other)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return np.inf
        if finite.any():
            most = max(np.abs(one[finite]).max(), np.abs(other[finite]).max(), 1e-3)
            shares.append(float(np.abs(one - other)[finite].max() / most))
    return max(shares)


@pytest.mark.parametrize("change", CHANGES)
def test_as_a_copy_with_other_weights(change, plain, valid, monkeypatch):
    monkeypatch.chdir(valid.room)
    edit, of_weights = CHANGES[change]
    edited, other = plain.edited(edit), changed(plain, of_weights)
    differ, compared = {}, []
    for technique in cb.techniques():
        if technique.name in OTHERWISE:
            continue
        function = technique.function
        door = f"{function.__module__}.{function.__qualname__}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given, why = python_doors.valid_call(door, function, valid)
            if why is not None or not any(value is plain for value in given.values()):
                continue
            ours, theirs = (
                answer(function, {name: own(value, plain, model) for name, value in given.items()})
                for model in (edited, other)
            )
        if ours is None or theirs is None:
            continue
        compared.append(technique.name)
        if (share := off(ours, theirs)) > 1e-4:
            differ[technique.name] = share
    assert not differ
    assert len(compared) > 100
