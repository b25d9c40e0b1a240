"""The tuned lens beside the logit lens on the bundled model: divergence, bias and agreement at every depth.

    python benchmarks/lens_curve.py [page.html]

Trains on sentences of the kinds that the model learnt from, measures on sentences kept out, prints a table and, with a
file's name, writes the curves as a page.
"""

from __future__ import annotations

import sys
import time

import caseback as cb
from caseback.decode.vocabulary import fit_translators, fit_tuned_lens, lens_quality
from caseback.organisms.prose.text import documents
from caseback.views.figure.lens_curves import lens_curves
from caseback.views.figure.page import write_figure

KINDS = ("giving", "fact", "story", "series", "agreement", "years", "pronoun", "errand")


def texts(count: int, seed: int, heldout: bool) -> list[str]:
    return [d.text for kind in KINDS for d in documents(kind, count, seed, heldout=heldout)]


def main() -> None:
    model = cb.load("meadow")
    corpus, kept_out = texts(100, 0, False), texts(20, 9, True)
    start = time.process_time()
    tuned = fit_tuned_lens(model, corpus, recipe="small", steps=60, tokens_per_step=1024, batch=32)
    seconds = time.process_time() - start
    translators = fit_translators(model, corpus, batch=32)
    measured = {
        "logit lens": lens_quality(model, kept_out, batch=32),
        "translators": lens_quality(model, kept_out, translators, batch=32),
        "tuned lens": lens_quality(model, kept_out, tuned, batch=32),
    }
    print(f"{'':14}" + "".join(f"{layer:>10}" for layer in measured["logit lens"]["layer"].values))
    for statistic in ("kl", "bias", "agreement"):
        for name, found in measured.items():
            print(f"{statistic:4.4} {name:12.12}" + "".join(f"{value:10.3f}" for value in found[statistic].values))
    tokens = measured["logit lens"]["kl"].attrs["tokens"]
    seen = tuned.provenance["tokens"]
    print(f"{tokens} tokens kept out; trained on {seen} (some seen again) in {seconds:.0f} CPU seconds")
    if sys.argv[1:]:
        write_figure(lens_curves(measured, title="Lenses on meadow, kept-out text"), sys.argv[1])


if __name__ == "__main__":
    main()
