"""Does each architecture find the features that states were made of? One table, three seeds.

    python benchmarks/dictionary_recovery.py [--seeds 0 1 2] [--only topk,temporal] [--products bfloat16]

64 directions in 48 dimensions, two of them active in each of 200,000 states; as many features; a million tokens of
training in steps of 512. A number is the mean cosine of each direction and a feature of its own, matched one to one; a
feature that is never active finds nothing. Shuffled states have the same histograms and no features: with them, what is
found is what random rows would have. ``defaults`` is a recipe with nothing but the width and k, or the target l0;
``chosen`` has the options that are printed beside it.

``temporal`` has a truth of its own, texts with features that stay and features that do not (see ``Slow``). Its numbers
are the shares of both that are high-level, of which there is room for a third, and the mean cosine; without the
contrast, and with the same tokens in any order, the first two are what chance gives.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from planted_features import CHOSEN, Slow, found, recovered, trained_on_texts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default=",".join([*CHOSEN, "temporal"]))
    parser.add_argument("--products", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.only.split(","):
        if kind == "temporal":
            of_texts(asked.seeds, asked.products)
            continue
        for name, more in (("defaults", {}), *([("chosen", CHOSEN[kind])] if CHOSEN[kind] else [])):
            row = [found(kind, seed, products=asked.products, **more) for seed in asked.seeds]
            print(f"{kind:17} {name:9} {' '.join(f'{x:.3f}' for x in row)}  {more or ''}", flush=True)
    if "topk" in asked.only.split(","):
        chance = [found("topk", seed, shuffled=True, **CHOSEN["topk"]) for seed in asked.seeds]
        print(f"{'topk':17} {'shuffled':9} {' '.join(f'{x:.3f}' for x in chance)}")


def of_texts(seeds: Sequence[int], products: str) -> None:
    """The rows of temporal dictionaries."""
    rows = {"contrast": {}, "without": {"options": {"contrast": 0.0}}, "any order": {"in_any_order": True}}
    for name, more in rows.items():
        found_high = []
        for seed in seeds:
            planted = Slow(seed)
            one = trained_on_texts(planted, seed, products=products, **more)
            found_high.append("{:.3f} {:.3f} {:.3f}".format(*planted.high(one), recovered(one, planted)))
        print(f"{'temporal':17} {name:9} {' | '.join(found_high)}  slow, fast, cosine", flush=True)


if __name__ == "__main__":
    main()
