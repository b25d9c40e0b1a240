"""Lenses, attention lenses and future prompts in our files come back to the bit; what is no such file is named."""

import copy
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import caseback as cb
import shelf
from caseback.decode.vocabulary import (
    fit_attention_lens,
    fit_future_prompt,
    fit_translators,
    load_attention_lens,
    load_future_prompt,
    load_lens,
    read_attention_lens,
    read_future_prompt,
    read_lens,
    save_lens,
)
from caseback.errors import CasebackError, LoadError

# grouped heads, post-norms, parallel blocks
NAMES = ("gpt2", "llama", "gemma2", "gptj")
READ = {"lens": load_lens, "free": load_attention_lens, "low_rank": load_attention_lens, "prompt": load_future_prompt}
USE = {"lens": read_lens, "free": read_attention_lens, "low_rank": read_attention_lens, "prompt": read_future_prompt}


def fitted(model, which):
    corpus = shelf.ids((6, 8), seed=1)
    if which == "lens":
        return fit_translators(model, corpus, rows=[0, 2])
    if which == "prompt":
        return fit_future_prompt(model, corpus, row=2, target_row=1, size=3, steps=2, states_per_step=4)
    rank = 2 if which == "low_rank" else None
    return fit_attention_lens(model, corpus, layer=1, rank=rank, steps=2, tokens_per_step=8)


def other(model):
    """The same shape with another unembedding."""
    hf = copy.deepcopy(model.hf)
    with torch.no_grad():
        hf.get_output_embeddings().weight.add_(0.1)
    return cb.load(hf)


def parts(made):
    tensors = {name: value for name, value in vars(made).items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in vars(made).items() if name not in tensors}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", READ)
def test_it_comes_back_to_the_bit_and_reads_the_same(name, which, tmp_path):
    model, path = shelf.model(name), tmp_path / "a.safetensors"
    made = fitted(model, which)
    save_lens(made, path)
    back = READ[which](path, model)
    (tensors, said), (own, told) = parts(back), parts(made)
    assert said == told and tensors.keys() == own.keys() and tensors
    for key, value in own.items():
        assert tensors[key].dtype == value.dtype and torch.equal(tensors[key], value)
    prompts = shelf.ids((5, 3), seed=2)
    assert USE[which](model, prompts, back).identical(USE[which](model, prompts, made))
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("which", READ)
def test_another_model_is_refused_when_it_is_read_and_when_it_is_used(which, tmp_path):
    model, path = shelf.model("gpt2"), tmp_path / "a.safetensors"
    save_lens(fitted(model, which), path)
    for wrong in (other(model), cb.load("meadow"), shelf.model("llama")):
        with pytest.raises(CasebackError, match="fit one on this model|train one on this model"):
            READ[which](path, wrong)
        with pytest.raises(CasebackError, match="fit one on this model|train one on this model"):
            USE[which](wrong, [1, 2, 3], READ[which](path))


def test_a_lens_of_a_layer_or_depth_that_is_not_there_is_refused(tmp_path):
    model, path = shelf.model("gpt2"), tmp_path / "a.safetensors"
    for which, key in (("low_rank", "layer"), ("prompt", "row"), ("prompt", "target_row")):
        rewritten(fitted(model, which), path, said={key: "99"})
        with pytest.raises(CasebackError, match="99"):
            READ[which](path, model)


def rewritten(made, path, said=None, tensors=None):
    """The file with some of its description and tensors replaced; None takes one away."""
    save_lens(made, path)
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
        told = file.metadata() | (said or {})
    keep = lambda d: {k: v for k, v in d.items() if v is not None}  # noqa: E731
    save_file(keep(held), path, keep(told))


@pytest.mark.parametrize(
    ("which", "said", "tensors", "says"),
    [
        ("lens", {}, {"bias": None}, "lacks the tensor 'bias' (row, d_model)"),
        ("free", {}, {"weight": None}, "lacks the tensor 'down'"),
        ("low_rank", {}, {"up": None}, "lacks the tensor 'up'"),
        ("prompt", {}, {"vectors": None}, "lacks the tensor 'vectors'"),
        ("lens", {"rows": "[0, 1, 2]"}, {}, "expected (row 3, d_model, d_model)"),
        ("lens", {}, {"weight": torch.zeros(2, 5, 4)}, "'weight' has the shape (2, 5, 4)"),
        ("lens", {}, {"bias": torch.zeros(2, 3)}, "'bias' has the shape (2, 3)"),
        ("low_rank", {}, {"up": torch.zeros(1, 2, 3)}, "'up' has the shape (1, 2, 3)"),
        ("free", {}, {"weight": torch.zeros(3)}, "'weight' has the shape (3,), expected (head, d_model, vocab)"),
        ("prompt", {}, {"vectors": torch.zeros(3)}, "expected (pos, d_model)"),
        ("free", {}, {"down": torch.zeros(1)}, "not of its format: down"),
        ("lens", {"rows": None}, {}, "'rows'"),
        ("lens", {"n_layers": "few"}, {}, "few"),
        ("low_rank", {"layer": None}, {}, "does not say what an attention lens says"),
        ("prompt", {"made": "{"}, {}, "does not say what a future prompt says"),
        ("low_rank", {"format": "caseback attention lens 2"}, {}, "reads 'caseback attention lens 1'"),
        ("prompt", {"format": "another"}, {}, "no future prompt"),
        ("prompt", {"format": None}, {}, "no future prompt"),
    ],
)
def test_a_malformed_file_is_refused_with_what_is_wrong(which, said, tensors, says, tmp_path):
    path = tmp_path / "a.safetensors"
    rewritten(fitted(shelf.model("gpt2"), which), path, said, tensors)
    with pytest.raises(LoadError) as told:
        READ[which](path)
    assert says in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize("which", READ)
def test_a_file_of_another_kind_names_what_reads_it(which, tmp_path):
    path = tmp_path / "a.safetensors"
    save_lens(fitted(shelf.model("gpt2"), which), path)
    for read in {*READ.values()} - {READ[which]}:
        with pytest.raises(LoadError, match=f"{READ[which].__name__} reads it"):
            read(path)


@pytest.mark.parametrize("read", dict.fromkeys(READ.values()), ids=lambda read: read.__name__)
def test_what_is_no_safetensors_file_is_refused(read, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(LoadError, match="cannot be read as"):
        read(path)
    for content in (b"no tensors", b""):
        path.write_bytes(content)
        with pytest.raises(LoadError, match="cannot be read as"):
            read(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(LoadError, match="cannot be read as"):
        read(path)


def test_a_writing_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    import safetensors.torch

    path, made = tmp_path / "a.safetensors", fitted(shelf.model("gpt2"), "prompt")
    save_lens(made, path)
    before = path.read_bytes()

    def interrupted(tensors, draft, said):
        draft.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_lens(fitted(shelf.model("llama"), "prompt"), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]
    with pytest.raises(CasebackError, match="expected a lens"):
        save_lens({}, path)


def test_the_description_is_readable_by_itself(tmp_path):
    model, path = shelf.model("gpt2"), tmp_path / "a.safetensors"
    made = fitted(model, "low_rank")
    save_lens(made, path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["format"] == "caseback attention lens 1" and said["fingerprint"] == made.fingerprint
    assert json.loads(said["made"]) == made.provenance and int(said["layer"]) == 1
