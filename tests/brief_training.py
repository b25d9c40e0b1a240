"""A training of a moment, which any process can be sent: plain steps whose order is drawn from torch's global state."""

import copy

import torch

import caseback as cb
import shelf

EXAMPLES = [[5, 6, 7], [4, 2, 3], [5, 6, 9], [1, 2, 3], [8, 6, 7], [4, 2, 9]]
START = shelf.model("gpt2")  # made here: making it sets the state that the order is drawn from


def briefly_trained(kept, lr=0.1):
    hf = copy.deepcopy(START.hf)
    for at in torch.randperm(len(kept)).tolist():
        ids = torch.tensor([EXAMPLES[kept[at]]])
        loss = hf(ids, labels=ids).loss
        loss.backward()
        with torch.no_grad():
            for parameter in hf.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
                    parameter.grad = None
    return cb.load(hf)
