"""How many bytes of tensors are alive at most while something is computed."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """While active, counts the storages that operations make until the last tensor on each is gone."""

    def __init__(self):
        super().__init__()
        self.users, self.now, self.peak = Counter(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self._count(x, given)
        return made

    def _count(self, x, given):
        place, size = x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()
        if place in given and not self.users[place]:
            return  # a view of something older than the count
        if not self.users[place]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.users[place] += 1
        weakref.finalize(x, self._gone, place, size)

    def _gone(self, place, size):
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= size
