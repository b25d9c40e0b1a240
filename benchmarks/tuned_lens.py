"""What a step of training a tuned lens costs, at GPT-2-small shape with random weights.

    python benchmarks/tuned_lens.py [--rounds 3] [--batch 2] [--tokens 32]

The gradient through the vocabulary as this package writes it out, against the published recipe's: for each layer the
lens, the model's own final norm and unembedding, KL by log_softmax, and ``backward``. Both get the same streams and the
same predictions, alternate in one process, and are divided by a plain forward; how far the gradients are apart is
printed too.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import caseback as cb
from caseback.decode.vocabulary.lenses.lens import streams
from caseback.decode.vocabulary.lenses.tuned_lens import _Training


def published(hf, hidden, log_p, lenses) -> None:
    """One step's gradients as the recipe forms them, layer by layer to save memory."""
    for h, lens in zip(hidden, lenses, strict=True):
        lens.zero_grad()
        log_q = hf.lm_head(hf.transformer.ln_f(h + lens(h))).float().log_softmax(-1)
        (log_p.exp() * (log_p - log_q)).sum(-1).mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    model = cb.load(hf)
    tokens = model.tokens(torch.randint(0, 50257, (options.batch, options.tokens)))
    training = _Training(model, "paper", 1.0, 1, True, 2**24)
    training.a.normal_(std=0.01)
    lenses = [nn.Linear(model.d_model, model.d_model) for _ in range(model.n_layers)]
    with torch.no_grad():
        for i, lens in enumerate(lenses):
            lens.weight.copy_(training.a[i].T)
            lens.bias.zero_()
    for p in hf.parameters():
        p.requires_grad_(False)
    at = streams(model, tokens, range(model.n_layers + 1))
    h = torch.stack([at[row][tokens.mask] for row in range(model.n_layers)])
    final = at[model.n_layers][tokens.mask]

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        log_p = training.kl.log_probs(final)
        _, at_stream = training.kl(torch.baddbmm(training.b[:, None], h, training.a) + h, log_p)
        return h.transpose(1, 2) @ at_stream / len(final), at_stream.sum(1) / len(final)

    def theirs() -> None:
        with torch.no_grad():
            log_p = hf.lm_head(hf.transformer.ln_f(final)).float().log_softmax(-1)
        published(hf, h, log_p, lenses)

    def forward() -> None:
        with torch.no_grad():
            hf(tokens.ids)

    (a, b), _ = ours(), theirs()
    pairs = [(a[i], lens.weight.grad.T) for i, lens in enumerate(lenses)]
    pairs += [(b[i], lens.bias.grad) for i, lens in enumerate(lenses)]
    apart = max(((x - y).norm() / y.norm()).item() for x, y in pairs)
    times: dict[str, list[float]] = {"ours": [], "published": [], "forward": []}
    for _ in range(options.rounds):
        for name, job in (("forward", forward), ("published", theirs), ("ours", ours)):
            start = time.process_time()
            job()
            times[name].append(time.process_time() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(t / o for t, o in zip(times["published"], times["ours"], strict=True))
    print(f"{options.batch} x {options.tokens} tokens, {model.n_layers} layers, {torch.get_num_threads()} threads")
    for name in ("published", "ours"):
        print(f"  {name:10s} {median[name] / median['forward']:6.1f} plain forwards")
    print(f"  published / ours {ratio:.2f}; gradients differ by at most {apart:.1e} of their norm")


if __name__ == "__main__":
    main()
