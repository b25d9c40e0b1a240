"""Tuned and Jacobian lenses in files: fixtures written from the published descriptions of two layouts."""

import json

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import (
    load_jacobian_lens,
    load_tuned_lens,
    read_lens,
    save_jacobian_lens,
    save_tuned_lens,
)
from caseback.decode.vocabulary.lenses.lens import Lens
from caseback.errors import CasebackError, LoadError
from exact import exact


@pytest.fixture
def model():
    return shelf.model("gpt2")


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) / 4


def test_a_published_tuned_lens_gives_its_numbers(model, tmp_path):
    n, d = model.n_layers, model.d_model
    params = {f"{i}.weight": drawn(d, d) for i in range(n)} | {f"{i}.bias": drawn(d) for i in range(n)}
    torch.save(params, tmp_path / "params.pt")
    config = {"base_model_name_or_path": "x", "d_model": d, "num_hidden_layers": n, "bias": True,
              "lens_type": "linear_tuned_lens", "unembed_hash": "0", "something": 1}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="pickle=True"):
        load_tuned_lens(tmp_path, model)
    with pytest.warns(UserWarning, match="unembed_hash"):
        lens = load_tuned_lens(tmp_path, model, pickle=True)
    prompt = shelf.ids((6,), seed=1)
    with exact():
        read = read_lens(model, prompt, lens, targets=list(range(model.d_vocab)))
        hidden = model.hf(torch.tensor(prompt), output_hidden_states=True).hidden_states
        for i in range(n):
            h = hidden[i].double()
            h = h + h @ params[f"{i}.weight"].double().T + params[f"{i}.bias"].double()
            logits = model.hf.lm_head(model.hf.transformer.ln_f(h))
            assert np.allclose(read["logit"].values[i], logits.detach(), atol=1e-8)


def test_the_tuned_layout_comes_back_and_a_malformed_one_is_named(model, tmp_path):
    n, d = model.n_layers, model.d_model
    lens = Lens("tuned", tuple(range(n)), torch.eye(d) + drawn(n, d, d), drawn(n, d), n)
    save_tuned_lens(lens, tmp_path, model)
    back = load_tuned_lens(tmp_path, model, pickle=True)
    assert torch.allclose(back.weight, lens.weight, atol=1e-6) and torch.equal(back.bias, lens.bias)
    with pytest.raises(CasebackError, match="width"):
        load_tuned_lens(tmp_path, cb.load("meadow"), pickle=True)
    (tmp_path / "params.pt").write_bytes(b"no pickle")
    with pytest.raises(LoadError, match="weights_only"):
        load_tuned_lens(tmp_path, model, pickle=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadError):
        load_tuned_lens(tmp_path, model, pickle=True)
    with pytest.raises(LoadError, match="cannot be read"):
        load_tuned_lens(tmp_path / "absent", model)


def test_a_published_jacobian_lens_reads_the_stream_after_its_layer(model, tmp_path):
    d, path = model.d_model, tmp_path / "x_jacobian_lens.pt"
    matrix = drawn(d, d)
    torch.save({"J": {1: matrix.half()}, "n_prompts": 7, "source_layers": [1], "d_model": d}, path)
    with pytest.raises(LoadError, match="pickle=True"):
        load_jacobian_lens(path, model)
    lens = load_jacobian_lens(path, model, pickle=True)
    assert lens.rows == (2,) and lens.provenance["prompts"] == 7
    h = drawn(3, d)
    assert torch.allclose(lens.transport(2, h), h @ matrix.half().float().T, atol=1e-6)
    save_jacobian_lens(lens, tmp_path / "again.pt")
    assert torch.equal(load_jacobian_lens(tmp_path / "again.pt", model, pickle=True).weight, lens.weight)
    with pytest.raises(CasebackError, match="layer 0"):
        save_jacobian_lens(Lens("jacobian", (0,), matrix[None], torch.zeros(1, d), model.n_layers), path)
