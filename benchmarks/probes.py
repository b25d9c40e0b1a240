"""Logistic probes of many sites at once against a loop of scikit-learn's: time, and accuracy on held-out examples.

    python benchmarks/probes.py [--layers 12] [--kinds 5] [--examples 10000] [--width 768] [--loop 3] [--c 1]

Planted states: two classes a shift apart in correlated noise, at every site another, farther apart the deeper it is.
Both minimize the same penalized loss on the same three of four parts, from standardized features, to scikit-learn's
own tolerance and to ours. ``--loop`` sites, spread over the depth, are fitted by scikit-learn, and its time of all
sites is that many times as long as these take on average.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from caseback.decode.probes.logistic import fit_logistic
from caseback.decode.probes.standard import Standard


def planted(sites: int, n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (site, example, d) whose variances fall as those of a model do, and their classes."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (n,), generator=draw)
    scales = torch.arange(1, d + 1).float().pow(-0.5)
    x = torch.empty(sites, n, d)
    for i in range(sites):  # one at a time, or the draws would take as much memory again
        turn = torch.linalg.qr(torch.randn(d, d, generator=draw))[0]
        shift = torch.randn(d, generator=draw) * scales
        away = (0.5 + 2.5 * i / max(sites - 1, 1)) / d**0.5
        x[i] = (torch.randn(n, d, generator=draw) * scales + away * y[:, None] * shift) @ turn
    return x, y


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name, value in (
        ("layers", 12),
        ("kinds", 5),
        ("examples", 10_000),
        ("width", 768),
        ("loop", 3),
        ("threads", 1),
    ):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--c", type=float, default=1.0, help="scikit-learn's C; its default")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    sites = chosen.layers * chosen.kinds
    x, y = planted(sites, chosen.examples, chosen.width)
    held = torch.arange(chosen.examples) % 4 == 0
    n = int((~held).sum())
    known, rest, classes, truth = x[:, ~held], x[:, held], y[~held], y[held]
    del x

    start = time.perf_counter()
    standard = Standard.of(known)
    w, b = standard.folded(*fit_logistic(standard, classes, 2, l2=1 / (n * chosen.c)))
    ours = time.perf_counter() - start
    scores = (rest @ w)[..., -1] + b[:, None, -1]
    accuracy = ((scores > 0) == (truth == 1)).double().mean(1)

    loop, gaps = [], []
    for i in np.linspace(0, sites - 1, chosen.loop).round().astype(int).tolist():
        data, judged = known[i].numpy(), rest[i].numpy()
        start = time.perf_counter()
        scaler = StandardScaler().fit(data)
        probe = LogisticRegression(C=chosen.c, max_iter=1000).fit(scaler.transform(data), classes.numpy())
        loop.append(time.perf_counter() - start)
        theirs = probe.score(scaler.transform(judged), truth.numpy())
        gaps.append(100 * (float(accuracy[i]) - theirs))
        print(f"site {i}: accuracy {100 * float(accuracy[i]):.2f} ours, {100 * theirs:.2f} theirs, {loop[-1]:.2f} s")
    whole = sites * float(np.mean(loop))
    print(f"{sites} sites of {n} x {chosen.width}: {ours:.1f} s at once, {whole:.1f} s in a loop, {whole / ours:.1f} x")
    print(f"accuracies differ by {max(map(abs, gaps)):.2f} points at most")


if __name__ == "__main__":
    main()
