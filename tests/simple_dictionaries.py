"""Dictionaries whose every measure is known, and noise to measure them on."""

import torch

from caseback.decode.dictionaries import Facts, Standard


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(d, **facts):
    one = Standard(d, 2 * d, dtype=torch.float64, facts=Facts(**facts))
    both = torch.cat([torch.eye(d), -torch.eye(d)]).double()
    one.W_enc.data, one.W_dec.data = both.clone(), both.clone()
    return one


def scaled(d, factor, **facts):
    one = identity(d, **facts)
    one.W_dec.data *= factor
    return one
