"""Packed rows carry their own positions, also where attention counts them from its cache (Llama 4's NoPE layers)."""

import pytest
import torch

import caseback as cb
import shelf
from exact import exact


@pytest.mark.parametrize("name", ["llama4_text", "xglm", "hyperclovax_post_norm", "nanochat"])
def test_a_sweep_equals_runs_in_families_with_positions_of_their_own(name):
    model = shelf.model(name)
    tokens = model.tokens(shelf.ids((9, 6), d_vocab=model.d_vocab))
    metric = cb.logit_diff(3, 5)
    variants = [cb.Scale("resid_pre", 0.5, layer=i, pos=p) for i in range(model.n_layers) for p in (0, 3, -1)]
    variants += [cb.Zero("z", layer=i, head=1) for i in range(model.n_layers)]
    tolerance = 1e-10 if model.dtype == torch.float64 else 1e-4
    with exact():
        swept = model.sweep(tokens, variants, metric, token_budget=40)
        for i, variant in enumerate(variants):
            alone = metric(model.run(tokens, edits=variant))
            torch.testing.assert_close(
                torch.tensor(swept.values[i]).to(alone), alone, rtol=tolerance, atol=tolerance, msg=variant.describe()
            )
