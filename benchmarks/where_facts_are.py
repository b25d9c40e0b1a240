"""Where the bundled model recalls facts: causal tracing over residents, as docs/components.md tables it.

    python benchmarks/where_facts_are.py [--residents 12] [--samples 5] [--model meadow]

Noise on the subject's embeddings, one clean state restored at a time (window 1), on facts in wordings that training
showed; what a state brings back as a share of probability, the mean over prompts.
"""

import argparse
import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np

import caseback as cb
from caseback.localize.components import causal_trace
from caseback.organisms.prose import world
from caseback.organisms.prose.text import documents

ROWS = (
    ("stream, last token of the subject", "resid_post", "last"),
    ("MLP, last token of the subject", "mlp_out", "last"),
    ("MLP, first name", "mlp_out", "first"),
    ("attention, last token of the subject", "attn_out", "last"),
    ("attention, last token of the prompt", "attn_out", "end"),
    ("MLP, last token of the prompt", "mlp_out", "end"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--residents", type=int, default=12)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--model", default="meadow")
    options = parser.parse_args()
    model = cb.load(options.model)
    names = "|".join(f"{r.name} {r.surname}" for r in world.RESIDENTS)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    clean, corrupt, seen = [], [], set()
    for told in documents("resident", 500, seed=0, heldout=False):
        subject = re.search(names, told.prompt)
        # one prompt a resident
        if subject is None or subject[0] in seen or len(seen) == options.residents:
            continue
        seen.add(subject[0])
        trace = causal_trace(
            model, told.prompt, cb.prob(told.answer), subject=subject[0], window=1, samples=options.samples
        ).isel(batch=0)
        of_subject = np.flatnonzero(trace.subject.values)
        places = {"first": of_subject[0], "last": of_subject[-1], "end": trace.sizes["pos"] - 1}
        for _, site, where in ROWS:
            at = trace.indirect.sel(component=site).isel(pos=places[where]).values
            found.setdefault((site, where), []).append(at)
        clean.append(float(trace.clean))
        corrupt.append(float(trace.corrupt))
    print(f"{len(seen)} residents, clean {np.mean(clean):.3f}, corrupted {np.mean(corrupt):.3f}")
    print("| restored | " + " | ".join(f"layer {i}" if i == 0 else str(i) for i in range(model.n_layers)) + " |")
    print("|---" * (model.n_layers + 1) + "|")
    for name, site, where in ROWS:
        means = np.mean(found[site, where], axis=0)
        print(f"| {name} | " + " | ".join(f"{x:.2f}".replace("-", "−") for x in means) + " |")


if __name__ == "__main__":
    main()
