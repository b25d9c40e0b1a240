"""EAP and EAP-IG hold what the budget of a pass forward and back allows, however many prompts and points there are."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
import shelf
from caseback.jobs.budget import override
from caseback.localize.circuits import edge_attribution
from caseback.model.prompts.embedding_points import bytes_on_the_way_back
from torch_memory import peak_bytes

VOCAB, WIDTH = 300, 48


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 192}
    return cb.load(LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, vocab_size=VOCAB, **sizes)).eval())


@pytest.mark.parametrize(
    ("prompts", "steps", "along"),
    [(16, None, "inputs"), (16, 5, "inputs"), (16, 12, "inputs"), (1, 24, "inputs"), (6, 3, "activations")],
)
def test_less_of_a_budget_takes_less_memory(model, prompts, steps, along):
    a, b = (shelf.ids((WIDTH,) * prompts, seed=seed) for seed in (1, 2))
    peaks, scores = {}, {}

    def job(tokens):
        scores[tokens] = edge_attribution(model, a, b, cb.logit_diff(3, 5), steps=steps, along=along)

    for tokens in (96, 192, 384):
        with override(gradient_tokens=tokens):
            peaks[tokens] = peak_bytes(lambda: job(tokens))  # noqa: B023
        # once for the pass and once for the gradients that it leaves
        assert peaks[tokens] < 2 * tokens * bytes_on_the_way_back(model, WIDTH), (tokens, peaks)
    if prompts == 16:
        assert peaks[96] < peaks[192] < peaks[384] and peaks[96] < 0.6 * peaks[384], peaks
    for tokens in (96, 192):
        np.testing.assert_allclose(scores[tokens].values, scores[384].values, rtol=2e-3, atol=1e-5)


def test_blocks_of_points_add_up():
    model = shelf.model("gpt2")
    a, b = shelf.ids((7, 5), seed=1), shelf.ids((7, 5), seed=2)
    options = {"steps": 9, "rule": "gauss_legendre"}
    whole = edge_attribution(model, a, b, cb.logit_diff(3, 5), **options)
    for tokens in (1, 20):
        with override(gradient_tokens=tokens):
            parts = edge_attribution(model, a, b, cb.logit_diff(3, 5), batch_size=2, **options)
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-10, rtol=1e-10)
