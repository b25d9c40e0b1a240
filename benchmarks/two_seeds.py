"""What two seeds of one organism share: units, families of neurons, layers, and heads by what they are proved to do.

    python benchmarks/two_seeds.py [--model meadow] [--other meadow_1] [--count 150]

``--count`` texts of each of six domains of meadow's world, drawn afresh; both models read the same tokens.
"""

import argparse

import caseback as cb
from caseback.behaviors import atlas, layer_similarity, universal_families, universality
from caseback.behaviors.seeds.families import FAMILIES
from caseback.organisms.prose import text

DOMAINS = {
    "people": "giving",
    "residents": "resident",
    "facts": "fact",
    "numbers": "series",
    "code": "docstring",
    "reviews": "sentiment",
}
HEADS = ("previous token", "duplicate token", "induction", "copying", "copy suppression", "successor")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="meadow")
    options.add_argument("--other", default="meadow_1")
    options.add_argument("--count", type=int, default=150)
    chosen = options.parse_args()
    models = [cb.load(chosen.model), cb.load(chosen.other)]
    texts = [
        (document.text, {"domain": i})
        for i, kind in enumerate(DOMAINS.values())
        for document in text.documents(kind, chosen.count, seed=11)
    ]

    for units in ("neuron", "head"):
        matched = universality(*models, texts, units=units)
        best = matched.excess.argmax("component")
        print(
            f"{units}s: {matched.attrs['universal']:.1%} universal; best {matched.component[best].item()} r "
            f"{matched.correlation[best]:.2f} rotated {matched.control[best]:.2f}; median r "
            f"{matched.correlation.median():.2f} rotated {matched.control.median():.2f}"
        )
        if units == "neuron":
            kinds = sorted({kind for some in FAMILIES.values() for kind in some} - set(FAMILIES["syntax"]))
            looks = [atlas(model, texts, kinds=kinds, proofs=False) for model in models]
            print(universal_families(matched, *looks).to_dataframe().round(3).to_string())
    alike = layer_similarity(*models, texts)
    print(alike.to_dataframe().round(3).to_string())
    for model in models:
        found = atlas(model, [one for one, _ in texts], kinds=list(HEADS))
        proved = sorted((f.kind, f.component) for f in found.findings if f.grade == "proved")
        print(model, proved)


if __name__ == "__main__":
    main()
