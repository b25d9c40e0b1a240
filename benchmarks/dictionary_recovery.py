"""Does each architecture find the features that states were made of? One table, three seeds.

    python benchmarks/dictionary_recovery.py [--seeds 0 1 2] [--only topk,gated]

64 directions in 48 dimensions, two of them active in each of 200,000 states; as many features; a million tokens of
training in steps of 512. A number is the mean cosine of each direction and a feature of its own, matched one to one; a
feature that is never active finds nothing. Shuffled states have the same histograms and no features: with them, what is
found is what random rows would have. ``defaults`` is a recipe with nothing but the width and k, or the target l0;
``chosen`` has the options that are printed beside it.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from planted_features import CHOSEN, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default=",".join(CHOSEN))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.only.split(","):
        for name, more in (("defaults", {}), *([("chosen", CHOSEN[kind])] if CHOSEN[kind] else [])):
            row = [found(kind, seed, **more) for seed in asked.seeds]
            print(f"{kind:17} {name:9} {' '.join(f'{x:.3f}' for x in row)}  {more or ''}", flush=True)
    chance = [found("topk", seed, shuffled=True, **CHOSEN["topk"]) for seed in asked.seeds]
    print(f"{'topk':17} {'shuffled':9} {' '.join(f'{x:.3f}' for x in chance)}")


if __name__ == "__main__":
    main()
