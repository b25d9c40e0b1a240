"""Logistic probes of many sites at once against a loop of scikit-learn's: time, and accuracy on held-out examples.

    python benchmarks/probes.py [--layers 12] [--kinds 5] [--examples 10000] [--width 768] [--loop 3] [--c 1]
    python benchmarks/probes.py --model FOLDER --texts FILE [--layers 12] [--examples 10000] [--loop 3] [--c 1]

States of a model over a text: does the next token begin a word? Without a model planted ones: two classes a shift
apart in correlated noise, at every site another, farther apart the deeper it is. Both minimize the same penalized loss
on the same three of four parts, from standardized features, to scikit-learn's own tolerance and to ours. ``--loop``
sites, spread over the depth, are fitted by scikit-learn, and its time of all sites is that many times as long as these
take on average.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import caseback as cb
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


SITES = ("resid_mid", "attn_out", "mlp_norm", "mlp_out", "resid_post")
ROW = 128


def of_model(folder: str, texts: str, layers: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (site, example, d_model) at five sites of layers from the first to the last, and whether a word begins."""
    model = cb.load(folder)
    text = Path(texts).read_text(encoding="utf-8")
    ids = torch.tensor(model.tokenizer(text[: 20 * n], add_special_tokens=False)["input_ids"])
    rows = ids[: len(ids) // ROW * ROW].view(-1, ROW)[: -(-n // (ROW - 2))]
    chosen = np.linspace(0, model.n_layers - 1, layers).round().astype(int).tolist()
    parts = []
    for some in rows.split(8):
        run = model.run(some, read=[(site, layer) for layer in chosen for site in SITES])
        # a row's first token is a sink, its last has no next one
        parts.append(torch.stack([run[site, layer][:, 1:-1].flatten(0, 1) for layer in chosen for site in SITES]))
    begins = torch.tensor([model.token_text(i)[:1].isspace() for i in range(model.d_vocab)])
    return torch.cat(parts, 1)[:, :n].float(), begins[rows[:, 2:]].flatten()[:n].long()


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
    options.add_argument("--model")
    options.add_argument("--texts")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    threadpool_limits(chosen.threads)  # scikit-learn's products are numpy's, with threads of their own
    if chosen.model is None:
        x, y = planted(chosen.layers * chosen.kinds, chosen.examples, chosen.width)
    else:
        x, y = of_model(chosen.model, chosen.texts, chosen.layers, chosen.examples)
    sites, _, width = x.shape
    held = torch.arange(chosen.examples) % 4 == 0
    n = int((~held).sum())
    known, rest, classes, truth = x[:, ~held], x[:, held], y[~held], y[held]
    del x

    loop, theirs = [], {}
    for i in np.linspace(0, sites - 1, chosen.loop).round().astype(int).tolist():
        data, judged = known[i].numpy(), rest[i].numpy()
        start = time.perf_counter()
        scaler = StandardScaler().fit(data)
        probe = LogisticRegression(C=chosen.c, max_iter=1000).fit(scaler.transform(data), classes.numpy())
        loop.append(time.perf_counter() - start)
        theirs[i] = probe.score(scaler.transform(judged), truth.numpy())

    start = time.perf_counter()
    standard = Standard.of(known, in_place=True)
    w, b = standard.folded(*fit_logistic(standard, classes, 2, l2=1 / (n * chosen.c)))
    ours = time.perf_counter() - start
    scores = (rest @ w)[..., -1] + b[:, None, -1]
    accuracy = ((scores > 0) == (truth == 1)).double().mean(1)
    whole = sites * float(np.mean(loop))
    print(f"{sites} sites of {n} x {width}: {ours:.1f} s at once, {whole:.1f} s in a loop, {whole / ours:.1f} x")
    for i, score in theirs.items():
        print(f"site {i}: accuracy {100 * float(accuracy[i]):.2f} ours, {100 * score:.2f} theirs")


if __name__ == "__main__":
    main()
