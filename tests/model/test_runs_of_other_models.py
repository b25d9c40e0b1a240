"""Edits that hold arrays: another model's run stands in where sites are of one size, and is refused in words elsewhere."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.errors import EditError

IDS = [[3, 1, 4, 1, 5]]


def _model(width, heads):
    torch.manual_seed(width)
    sizes = {"hidden_size": width, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": heads}
    return cb.load(LlamaForCausalLM(LlamaConfig(vocab_size=20, max_position_embeddings=16, **sizes)).eval())


@pytest.fixture(scope="module")
def model():
    return _model(16, 2)


@pytest.fixture(scope="module")
def wider():
    return _model(24, 3).run(IDS, read=["resid_post", "z", "pattern"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda run: cb.Resample("resid_post", run, layer=1),
        lambda run: cb.Resample("z", run, layer=1, pos=-1),
        lambda run: cb.Resample("pattern", run, layer=0),
        lambda run: cb.Freeze("z", run, layer=1),
        lambda run: cb.Mean("z", run, layer=1),
        lambda run: cb.Mean("resid_post", run, per_position=True, layer=1),
        lambda run: cb.Swap("resid_post", torch.eye(16)[:2], run, layer=1),
    ],
)
def test_a_run_of_another_size_is_refused(edit, model, wider):
    with pytest.raises(EditError, match="the other run has .* numbers at each position there, expected"):
        model.run(IDS, edits=edit(wider))


def test_what_is_of_one_size_stands_in(model, wider):
    """Heads of both models have eight numbers, and a head is addressed by itself."""
    made = model.run(IDS, edits=cb.Resample("z", wider, layer=1, head=1), read=["z"])
    assert torch.equal(made["z", 1][:, :, 1], wider["z", 1][:, :, 1])


def test_a_mean_at_each_position_needs_these_positions(model):
    short = model.run([[3, 1], [4]], read=["resid_post"])
    with pytest.raises(EditError, match="the longest prompt of `over` has 2 tokens, 5 needed"):
        model.run(IDS, edits=cb.Mean("resid_post", short, per_position=True, layer=0))


def test_noise_may_differ_by_unit(model):
    """Each unit's noise is that of a deviation of one, times its own."""
    clean, one, each = (
        model.run(IDS, edits=edits, read=["resid_post"])["resid_post", 0]
        for edits in (
            [],
            [cb.Noise("resid_post", 1.0, layer=0)],
            [cb.Noise("resid_post", torch.arange(16.0), layer=0)],
        )
    )
    torch.testing.assert_close(each - clean, (one - clean) * torch.arange(16.0))
