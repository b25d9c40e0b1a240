"""Attributions take as many prompts at a time as the free memory holds: more passes, the same numbers."""

import pytest
import torch
import xarray as xr
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
import shelf
from caseback.decode.dictionaries import attached
from caseback.errors import CasebackError
from caseback.jobs import budget
from caseback.jobs.budget import override
from caseback.localize.circuits import edge_attribution, feature_effects
from caseback.localize.components import attribution_patching
from caseback.model.anatomy.sites import Site
from caseback.model.prompts import run_pair
from caseback.model.prompts.embedding_points import bytes_on_the_way_back
from caseback.model.sweeping.room import numbers_of
from exact import exact
from planted_circuits import random_dictionaries
from torch_memory import peak_bytes

CLEAN, CORRUPT = shelf.ids((7, 5, 6, 7, 4)), shelf.ids((7, 5, 6, 7, 4), seed=3)
TARGETS = cb.logit_diff([3, 4, 5, 6, 7], [8, 9, 10, 11, 12])


@pytest.fixture
def passes(monkeypatch):
    """How many prompts each pass of a pair of runs had."""
    sizes, real = [], run_pair.measured

    def counted(anatomy, tokens, metric, **options):
        sizes.append(len(tokens))
        return real(anatomy, tokens, metric, **options)

    monkeypatch.setattr(run_pair, "measured", counted)
    return sizes


def effects(model, clean, corrupt, metric, **options):
    with attached(model, random_dictionaries(model, "resid_post")):
        return feature_effects(model, clean, corrupt, metric, **options)


JOBS = {
    "attribution patching": (attribution_patching, {"sites": ["z", "mlp_out", "head_out", "resid_post"]}),
    "its integrated gradients": (attribution_patching, {"steps": 3}),
    "features": (effects, {}),
    "features' integrated gradients": (effects, {"method": "integrated_gradients", "steps": 3}),
    "edges": (edge_attribution, {}),
    "edges' integrated gradients": (edge_attribution, {"steps": 3}),
}


@pytest.mark.parametrize("metric", [TARGETS, cb.loss()], ids=["of one position", "of all positions"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("name", JOBS)
def test_little_memory_takes_more_passes_of_the_same_numbers(name, direction, metric, passes, monkeypatch):
    model, (job, options) = shelf.model("llama"), JOBS[name]
    clean, corrupt = model.tokens(CLEAN, padding="left"), model.tokens(CORRUPT, padding="right")
    with exact():
        whole = job(model, clean, corrupt, metric, direction=direction, **options)
    assert passes == [5, 5]
    passes.clear()
    monkeypatch.setattr(budget, "free_bytes", lambda device: 1)
    with exact():
        apart = job(model, clean, corrupt, metric, direction=direction, **options)
    assert passes == [1] * 10
    if name.startswith("features"):  # entries of equal effects may change places
        whole, apart = (x.sortby(["node", "batch_index"]) for x in (whole, apart))
    xr.testing.assert_allclose(whole, apart, atol=1e-10, rtol=1e-10)


def test_less_of_a_budget_takes_less_memory():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 192}
    model = cb.load(LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, vocab_size=300, **sizes)).eval())
    clean, corrupt = (shelf.ids((48,) * 16, seed=seed) for seed in (1, 2))
    options: dict = {"sites": ["z", "mlp_out", "resid_post"]}
    peaks = {}
    for tokens in (96, 192, 384):
        with override(gradient_tokens=tokens):
            peaks[tokens] = peak_bytes(
                lambda: attribution_patching(model, clean, corrupt, cb.logit_diff(3, 5), **options)
            )
        # beside the pass, the estimates of all prompts, and copies of them while they are stacked
        assert peaks[tokens] < 2 * tokens * bytes_on_the_way_back(model, 48) + 3 * 16 * 48 * 16 * 10, peaks
    assert peaks[96] < peaks[192] < peaks[384]


def test_a_dictionary_counts_its_features():
    model = shelf.model("llama")
    dictionaries = random_dictionaries(model, "resid_post")
    with attached(model, dictionaries):
        assert numbers_of(model.anatomy, Site("feature", 1), 9) == dictionaries[1].n_features


def test_a_flat_metric_is_refused_by_the_number_of_its_prompt(monkeypatch):
    """Counted over all prompts, whichever of them run together."""
    model = shelf.model("llama")
    flat = cb.logit_diff([3, 4, 5, 6, 7], [8, 9, 10, 6, 12])
    monkeypatch.setattr(budget, "free_bytes", lambda device: 1)
    for job in (attribution_patching, edge_attribution):
        with pytest.raises(CasebackError, match=r"no gradient at .*prompts \[3\]"):
            job(model, CLEAN, CORRUPT, flat)
