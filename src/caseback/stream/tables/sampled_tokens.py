"""A sample of tokens that does not depend on the order in which they come: by a hash of each one's place.

sample = the n tokens i with the smallest h(i, seed),    h: splitmix64
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def hash_of(index: Int[Tensor, " token"], seed: int) -> Int[Tensor, " token"]:
    """Splitmix64 of each place, 63 bits of it.

    Parameters
    ----------
    index
        Places in the corpus.
    seed
        Same seed, same result.

    Examples
    --------
    >>> hash_of(torch.arange(3), 0).argsort().tolist() != hash_of(torch.arange(3), 5).argsort().tolist()
    True
    """
    x = index.cpu().numpy().astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)).to(index.device)
