"""Every technique says of a model under edits what it says of a copy with other weights, or refuses in words.

z_h, head_h = 0   rows of W_O are zeros            c mlp, c attn    c W_out, c W_O
mlp + v           b_out = v                        g norm           its gain times g
embed + v         W_E + v                          c logits         c W_U
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
from caseback.model.algebra.decompose import logit_parts
from caseback.model.algebra.sources import source_parts

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
    new = torch.nn.Linear(old.in_features, old.out_features, bias=True, dtype=old.weight.dtype)
    new.weight.copy_(old.weight)
    new.bias.copy_(VECTOR)
    hf.model.layers[1].mlp.down_proj = new


def regained(hf):
    hf.model.norm.weight *= GAIN


def attention_scaled(hf):
    hf.model.layers[1].self_attn.o_proj.weight *= 0.5


def attention_regained(hf):
    hf.model.layers[1].input_layernorm.weight *= GAIN


def shifted(hf):
    hf.model.embed_tokens.weight += VECTOR


def cooled(hf):
    hf.lm_head.weight *= 0.5


CHANGES = {
    "head": (cb.Zero("z", layer=1, head=1), zeroed),
    "mlp": (cb.Scale("mlp_out", 0.5, layer=0), scaled),
    "bias": (cb.Add("mlp_out", VECTOR, layer=1), biased),
    "norm": (cb.Scale("final_norm", GAIN), regained),
    "write": (cb.Zero("head_out", layer=1, head=1), zeroed),
    "attention": (cb.Scale("attn_out", 0.5, layer=1), attention_scaled),
    "attention norm": (cb.Scale("attn_norm", GAIN, layer=1), attention_regained),
    "embedding": (cb.Add("embed", VECTOR), shifted),
    "logits": (cb.Scale("logits", 0.5), cooled),
}

OTHERWISE = {
    "behaviors.atlas",  # below: it leaves out single kinds
    "localize.inputs.randomisation_test",  # draws the weights anew, and edits stay
    "localize.circuits.attribution_graph",  # shares of an edited write are others: that they sum is tested with graphs
    "decode.vocabulary.contrastive_decoding",  # a model against itself: what is left is rounding
}
ALSO = {"embedding": {"localize.components.causal_trace"}}
"""Techniques that say something else under one edit: noise as large as the embedding's own rows differ."""


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
    return cb.load(hf.double().eval(), tokenizer=tokenizer)


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
        if technique.name in OTHERWISE | ALSO.get(change, set()):
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


OF_HEADS = {"copying", "anti-copying", "successor", "anti-induction", "copy suppression"}
OF_NEURONS = {
    "entropy",
    "token frequency",
    "partition",
    "super weight",
    "attention switch",
    "prediction",
    "suppression",
}
REFUSED = {"head": OF_HEADS, "mlp": OF_NEURONS | {"erasing", "amplifying", "grammatical"}, "bias": {"grammatical"}}
"""Kinds that put matrices together which an edit of activations is not in."""
TEXTS = [
    f"{text} {word}."
    for text in (
        "Mary and John went to the store. Mary gave a book to John, and the dog ran to the park with",
        "The capital of France is Paris. The capital of Italy is Rome, and the cat sat there with",
        "One two three four five six. The dog and the cat went to the garden with",
        "John gave the ball to Mary. Then Mary went to the house of John and sat with",
    )
    for word in ("him", "her", "Mary", "John", "the dog", "the cat")
]


def test_an_atlas_of_edited_logits_is_refused(plain):
    with pytest.raises(CasebackError, match="logits is edited"):
        cb.behaviors.atlas(plain.edited(CHANGES["logits"][0]), TEXTS, length=24, top=1)


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "logits"])
def test_an_atlas_as_of_a_copy_without_kinds_that_weights_alone_would_decide(change, plain):
    edit, of_weights = CHANGES[change]
    models = plain.edited(edit), changed(plain, of_weights)
    ours, theirs = (cb.behaviors.atlas(model, TEXTS, length=24, top=1) for model in models)
    refused = {one.kind for one in ours.kinds if one.missing} - {one.kind for one in theirs.kinds if one.missing}
    assert refused >= REFUSED.get(change, set())
    assert len(theirs.scores) > 50 and len(ours.scores) > 30
    if change in ("norm", "bias"):
        assert refused == REFUSED.get(change, set())
    assert all("is edited" in one.missing or "an edit of" in one.missing for one in ours.kinds if one.kind in refused)
    differ = {}
    for kind, frame in ours.scores.items():
        for column in ("score", "control", "ranked_by", "band"):
            one, other = (x[column].to_numpy(float) for x in (frame, theirs.scores[kind]))
            if not np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True):  # shares of attention are of size 1
                differ[kind, column] = float(np.abs(one - other).max())
    effects = {(one.kind, one.component): one.effect for one in theirs.candidates}
    for one in ours.candidates:
        other = effects.get((one.kind, one.component))
        if one.effect is not None and other is not None and abs(one.effect - other) > 1e-5:
            differ[one.kind, one.component] = one.effect - other
    for one, other in zip(ours.facts, theirs.facts, strict=True):
        if not one.missing and off(numbers(one.values), numbers(other.values)) > 1e-4:
            differ[one.name, "fact"] = one.values
    assert not differ


@pytest.mark.parametrize("edit", [cb.Zero("head_out", layer=1, head=1), cb.Scale("attn_out", 0.5, layer=0)])
def test_splits_refuse_edits_behind_what_they_read(edit, plain):
    edited, prompt = plain.edited(edit), "Mary and John went to the"
    components, algebra = cb.localize.components, (logit_parts, source_parts)
    for split in (*algebra, lambda *given: components.logit_attribution(*given[:2], cb.logit(" store"))):
        with pytest.raises(CasebackError, match="is edited"):
            split(edited, prompt, [" store"])
