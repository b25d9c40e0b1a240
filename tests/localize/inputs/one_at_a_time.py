"""Gradients of one text after another by plain autograd: what the batched ones are held against."""

import torch

from caseback.localize.inputs.training.examples import Example
from caseback.localize.inputs.training.matrices import matrices_of


def log_likelihood(hf, ids, first=1):
    """Sum of log p of the tokens from ``first`` on."""
    row = torch.tensor([list(ids)])
    log_p = hf(row, use_cache=False).logits[0, :-1].log_softmax(-1)
    return log_p.gather(-1, row[0, 1:, None])[first - 1 :].sum()


def margin(hf, ids):
    row = torch.tensor([list(ids)])
    p = hf(row, use_cache=False).logits[0, :-1].softmax(-1).gather(-1, row[0, 1:, None])
    return (p / (1 - p)).log().sum()


def gradient(model, parts, value):
    """d value() / d W of each matrix, (d_in, d_out) with the bias as last row, flattened and joined."""
    made = []
    matrices = matrices_of(model.anatomy, parts)
    weights = [m.uses[0].module.weight for m in matrices]
    biases = [m.uses[0].module.bias if m.bias else None for m in matrices]
    wanted = [p for p in (*weights, *biases) if p is not None]
    for p in wanted:
        p.requires_grad_(True)
    got = dict(zip(map(id, wanted), torch.autograd.grad(value(), wanted), strict=True))
    for m, w, b in zip(matrices, weights, biases, strict=True):
        g = got[id(w)]
        turned = g.T if isinstance(m.uses[0].module, torch.nn.Linear) else g
        made.append((turned if b is None else torch.cat([turned, got[id(b)][None]])).flatten())
    return torch.cat(made)


def rows(model, prompts, parts=("attn", "mlp"), value=log_likelihood):
    """One gradient a prompt."""
    return torch.stack([gradient(model, parts, lambda p=p: value(model.hf, p)) for p in prompts])


def examples(prompts):
    return [Example(tuple(p), i) for i, p in enumerate(prompts)]
