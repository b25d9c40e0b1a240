"""Is truth a direction? True and false statements of known relations, judged on relations that were not seen.

    python benchmarks/truth_direction.py MODEL ASSETS

A statement is true with its object and false with another object of the same relation. Directions are found on some
relations and judged on others, on the same sentences negated ("is not"), beside what words alone tell, shuffled labels,
the model's own probability of the object, and the embedding layer.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import caseback as cb
from caseback.decode import States, read_states
from caseback.decode.directions import consistent_directions, find_directions
from caseback.decode.directions.find import auroc
from caseback.decode.probes import linear_probe
from caseback.decode.probes.baselines import bag_of_tokens
from caseback.tasks import formats

EACH = 40  # statements of a relation


def statements(assets: Path) -> list[dict]:
    """A true and a false statement of each fact, both negated as well where the sentence can be."""
    found = []
    for pair in formats.relations(assets / "data/relations_lre/factual", corruption="subject", template=0):
        text, right, wrong = pair.clean.text, pair.target[0], pair.corrupt_target[0]
        found.append({"stem": text, "objects": (wrong, right), "relation": pair.group})
    rng = np.random.default_rng(0)
    chosen = []
    for relation in dict.fromkeys(record["relation"] for record in found):
        own = [record for record in found if record["relation"] == relation]
        chosen += [own[i] for i in rng.permutation(len(own))[:EACH]]
    return chosen


def main() -> None:
    """Print the table."""
    model, assets = cb.load(sys.argv[1]), Path(sys.argv[2])
    records = statements(assets)
    relations = [record["relation"] for record in records]
    print(f"{len(records)} facts of {len(set(relations))} relations, a true and a false statement each; {model.name}")
    order = np.random.default_rng(1).permutation(sorted(set(relations)))
    held = set(order[: len(order) // 4])
    test = np.array([relation in held for relation in relations])
    print("held out:", ", ".join(sorted(held)))

    def texts(which: int, negated: bool = False) -> list[str]:
        stems = [record["stem"].replace(" is", " is not", 1) if negated else record["stem"] for record in records]
        return [stem + record["objects"][which] + "." for stem, record in zip(stems, records, strict=True)]

    halves = [read_states(model, texts(which), progress=True) for which in (0, 1)]
    names = halves[0].names
    x = _interleaved(halves[0].x, halves[1].x)  # false, true, false, true ...
    y = np.tile([0, 1], len(records))
    of = np.repeat(np.array(relations), 2)
    known, unseen = ~np.repeat(test, 2), np.repeat(test, 2)
    truth = torch.from_numpy(y[unseen] == 1)
    can_negate = np.array([" is " in record["stem"] + " " for record in records])
    some = [[t for t, ok in zip(texts(which, True), can_negate, strict=True) if ok] for which in (0, 1)]
    negated = _interleaved(*(read_states(model, part).x for part in some))
    neg_unseen = np.repeat(test[can_negate], 2)
    neg_truth = torch.arange(int(neg_unseen.sum())) % 2 == 0  # "is not" with the wrong object is true

    print(
        "\n| direction | layer (best on inner relations) | held-out relations | the same negated |\n|---|---|---|---|"
    )
    for method in ("mean_difference", "lda", "logistic", "pca"):
        pairs = np.repeat(np.arange(len(records)), 2)[known] if method == "pca" else None
        states = States(x[:, known], halves[0].places, torch.arange(int(known.sum())))
        found = find_directions(states, y[known], method=method, groups=of[known], pairs=pairs)
        best = int(found.table.auroc.values.argmax())
        scores = [data[best].double() @ found.detect[best] for data in (x[:, unseen], negated[:, neg_unseen])]
        plain, flipped = (float(auroc(s[None], t)[0]) for s, t in zip(scores, (truth, neg_truth), strict=True))
        print(f"| {method} | {names[best]} | {plain:.3f} | {flipped:.3f} |", flush=True)
        if method == "mean_difference":
            print(
                f"| the same for shuffled labels | {names[best]} | {float(found.table.shuffled[best]):.3f} (inner) | |"
            )
    swap = torch.rand(len(records), generator=torch.Generator().manual_seed(0)) < 0.5
    a, b = (
        torch.where(swap[None, :, None], *pair) for pair in ((halves[0].x, halves[1].x), (halves[1].x, halves[0].x))
    )
    on, off = torch.from_numpy(~test), torch.from_numpy(test)
    for method in ("ccs", "crc"):
        found = consistent_directions(a[:, on], b[:, on], ~swap[on], method=method)
        best = int(found.table.accuracy.values.argmax())
        right = (found.probability(a[:, off], b[:, off])[best] > 0.5) == ~swap[off]
        print(f"| {method}: accuracy of pairs, .5 by chance | {names[best]} | {float(right.double().mean()):.3f} | |")
    every = [text for pair in zip(texts(0), texts(1), strict=True) for text in pair]
    baselines = {
        "words alone (bag of tokens, logistic)": bag_of_tokens(model.tokens(every), 1000)[None],
        "embeddings alone (their mean, logistic)": read_states(model, every, sites="embed", pos=None, reduce="mean").x,
    }
    for name, data in baselines.items():
        probe = linear_probe(data[:, known], y[known], groups=of[known])
        print(f"| {name} | | {float(auroc(probe.scores(data[:, unseen])[..., 1], truth)[0]):.3f} | |")
    own = torch.from_numpy(_own_probability(model, records)[unseen])[None]
    print(f"| the model's own log probability of the object | | {float(auroc(own, truth)[0]):.3f} | |")


def _interleaved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.stack([a, b], 2).flatten(1, 2)


def _own_probability(model: cb.Model, records: list[dict]) -> np.ndarray:
    """The log probability of each object after its stem: wrong, right, wrong, right ..."""
    values = []
    for first in range(0, len(records), 16):
        some = records[first : first + 16]
        for which in (0, 1):
            answers = [record["objects"][which] for record in some]
            tokens = model.with_answer([record["stem"] for record in some], answers)
            run = model.run(tokens)
            values.append(cb.answer_log_prob(answers)(run).detach().double().numpy())
    wrong = np.concatenate(values[::2])
    right = np.concatenate(values[1::2])
    return np.stack([wrong, right], 1).reshape(-1)


if __name__ == "__main__":
    main()
