"""Dictionaries for tiny models and for organisms whose variables are known."""

import copy

import torch

import caseback as cb
import shelf
from caseback.decode.dictionaries import Facts, Standard, TopK

METRIC = cb.logit_diff([3, 8], [5, 11])
CLEAN, CORRUPT = shelf.ids((7, 5)), shelf.ids((7, 5), seed=1)


def random_dictionaries(model, site, target="", layers=None, normalization="none"):
    """TopK of random rows at every layer, with a bias, in float64."""
    ones = []
    for layer in range(model.n_layers) if layers is None else layers:
        facts = Facts(
            site=f"{site}.{layer}",
            target=target and f"{target}.{layer}",
            normalization=normalization,
            centered=not target,
        )
        one = TopK(model.d_model, 3 * model.d_model, k=5, facts=facts, dtype=torch.float64, seed=layer)
        one.b_dec.data = 0.1 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)).double()
        ones.append(one)
    return ones


def in_float64(organism):
    """An organism's model in float64, loaded anew."""
    hf = copy.deepcopy(organism.model.hf).double()
    return cb.load(hf, tokenizer=organism.model.tokenizer)


def planted(organism, layer):
    """A dictionary of the stream behind a layer whose features are the organism's variables, and what each stands for."""
    names, rows = [], []
    for variable in organism.variables:
        site = variable.site
        if variable.head is None and site.name.startswith("resid") and (site.layer or 0) <= layer:
            for row, value in zip(variable.basis, variable.values or ("+", "-"), strict=False):
                names.append((variable.name, value))
                rows.append(row)
            if not variable.values:
                names.append((variable.name, "-"))
                rows.append(-variable.basis[0])
    both = torch.stack(rows).double()
    one = Standard(both.shape[1], len(both), facts=Facts(site=f"resid_post.{layer}"), dtype=torch.float64)
    one.W_enc.data, one.W_dec.data = both.clone(), both.clone()
    return one, names
