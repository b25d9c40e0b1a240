"""Features of the bundled model: which concepts do they stand for, and do they steer what they stand for?

    python benchmarks/dictionary_features.py [--tokens 2000000]

A BatchTopK dictionary of each of two layers is trained on the model's own kind of text. For each concept (names,
places, numbers, praise, brackets) the feature that tells best which tokens are about to be of it is found on one half
of a corpus of other documents, and judged on the other half by F1, beside the best feature for shuffled labels, and
beside the best neuron. Then the feature is added to prompts that do not ask for the concept, as strong as it ever was,
and the probability of the concept's tokens compared with that under random features of the same dictionary, as strong.
"""

import argparse
import random

import torch
from torch import Tensor

import caseback as cb
from caseback import lexicon
from caseback.decode.dictionaries import Recipe, attached, train_dictionaries
from caseback.organisms.prose.text import KINDS, documents

SITES = ("resid_post.1", "resid_post.2")
PROMPTS = ["The boy looked at the", "She said that the", "Then they went to see a", "The dog ran and"]


def texts(count: int, seed: int, *, heldout: bool) -> list[str]:
    """Documents of every kind, in a drawn order."""
    drawn = [d.text for i, kind in enumerate(KINDS) for d in documents(kind, count, seed=seed + i, heldout=heldout)]
    random.Random(seed).shuffle(drawn)
    return drawn


def concepts(model: cb.Model) -> dict[str, Tensor]:
    """By name, which vocabulary entries are of it."""
    words = {
        "names": [*lexicon.WOMEN, *lexicon.MEN],
        "places": lexicon.PLACES,
        "numbers": [str(n) for n in range(100)],
        "praise": lexicon.PRAISE,
        "closing brackets": [")", "]", "}"],
    }
    masks = {}
    for name, listed in words.items():
        ids = {
            model.tokenizer(f"{space}{w}", add_special_tokens=False)["input_ids"][0]
            for w in listed
            for space in (" ", "")
        }
        masks[name] = torch.isin(torch.arange(model.d_vocab), torch.tensor(sorted(ids)))
    return masks


def best(codes: Tensor, label: Tensor) -> tuple[int, float]:
    """The feature whose activity at all has the best F1 with a label on the first half, and its F1 on the second."""
    half = len(label) // 2
    active = (codes > 0).float()

    def f1(rows: slice) -> Tensor:
        hits = active[rows].T @ label[rows].float()
        return 2 * hits / (active[rows].sum(0) + label[rows].sum()).clamp_min(1)

    chosen = int(f1(slice(0, half)).argmax())
    return chosen, float(f1(slice(half, None))[chosen])


def main() -> None:
    """Train, look, steer, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2_000_000)
    asked = parser.parse_args()
    model = cb.load("meadow")
    recipes = [Recipe(site=site, architecture="batch_topk", options={"k": 12}) for site in SITES]
    train_on = texts(700, 100, heldout=False)
    trained = train_dictionaries(model, train_on, recipes, n_tokens=asked.tokens, progress=True)
    rows = texts(20, 7, heldout=True)
    masks = concepts(model)
    for one, site in zip(trained, SITES, strict=True):
        dictionary = one.dictionary
        layer = int(site[-1])
        codes, neurons, following = [], [], []
        for start in range(0, len(rows), 64):
            run = model.run(rows[start : start + 64], read=["resid_post", "mlp_post"])
            keep = run.tokens.mask & run.tokens.mask.roll(-1, 1) & (run.tokens.mask.cumsum(1) > 1)
            keep[:, -1] = False
            codes.append(dictionary.encode(run["resid_post", layer][keep]).detach())
            neurons.append(run["mlp_post", layer][keep])
            following.append(run.tokens.ids.roll(-1, 1)[keep])
        active, neuron, after = torch.cat(codes), torch.cat(neurons), torch.cat(following)
        print(f"{one!r}\n  on {len(after):,} tokens of other documents")
        for name, mask in masks.items():
            label = mask[after]
            feature, f1 = best(active, label)
            _, chance = best(active, label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))])
            _, of_neuron = best(neuron, label)
            strength = float(active[:, feature].max())
            with attached(model, dictionary):
                plain = mass(model, mask)
                steered = mass(model, mask, cb.Add("feature", strength, layer=layer, unit=feature, pos=-1))
                draw = torch.randperm(dictionary.n_features, generator=torch.Generator().manual_seed(1))[:20].tolist()
                others = [mass(model, mask, cb.Add("feature", strength, layer=layer, unit=u, pos=-1)) for u in draw]
            print(
                f"  before {name:17} feature {feature:4}: F1 {f1:.2f} (shuffled {chance:.2f}, neuron {of_neuron:.2f}); "
                f"P {plain:.3f} -> {steered:.3f} when added, {sum(others) / 20:.3f} (at most {max(others):.3f}) others"
            )


def mass(model: cb.Model, mask: Tensor, edit: cb.Edit | None = None) -> float:
    """The probability of a concept's tokens next, a mean over the prompts."""
    own = 0.0
    for prompt in PROMPTS:
        logits = model.run(prompt, edits=[] if edit is None else [edit]).logits[0, -1]
        own += float(logits.softmax(-1)[mask].sum()) / len(PROMPTS)
    return own


if __name__ == "__main__":
    main()
