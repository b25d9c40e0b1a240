"""Features of the bundled model's residents: RAVEL's scores of one attribute, and what is forgotten without a job.

    python benchmarks/dictionary_attributes.py [--tokens 1000000] [--layer 0]

A BatchTopK dictionary is trained on the model's own kind of text. Then, for each of a resident's four independent
attributes (job, city, sport, instrument), ways to swap it at the surname are compared by cause and isolation on
residents that no search has seen; a dictionary of random directions, and one whose decoder is random and frozen, stand
beside. Last, twelve residents are to be forgotten, and the others retained.
"""

import argparse
import contextlib

import torch
from dictionary_features import texts

import caseback as cb
from caseback.decode.dictionaries import Recipe, attached, train_dictionaries
from caseback.decode.dictionaries.measures import frozen_decoder, random_dictionary, unlearning
from caseback.decode.states import read_states
from caseback.localize.abstraction import disentangling, entity_examples
from caseback.organisms.prose.world import RESIDENTS

ASKED = {
    "job": "{entity} earns money as a",
    "city": "The home of {entity} is in",
    "sport": "The favorite sport of {entity} is",
    "instrument": "The instrument of {entity} is the",
}


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--examples", type=int, default=800)
    asked = parser.parse_args()
    model = cb.load("meadow")
    site = f"resid_post.{asked.layer}"
    recipe = Recipe(site=site, architecture="batch_topk", options={"k": 16})
    corpus = texts(3000, 1, heldout=False)
    (trained,) = train_dictionaries(model, corpus, [recipe], n_tokens=asked.tokens)
    states = read_states(model, corpus[:1500], sites=site, pos=slice(1, None)).x[0]
    several = {
        "feature": trained.dictionary,
        "random": random_dictionary(trained.dictionary, states),
        "frozen": frozen_decoder(trained.dictionary, states),
    }
    people = {f"{who.name} {who.surname}": {one: getattr(who, one) for one in ASKED} for who in RESIDENTS}
    for attribute in ASKED:
        drawn = entity_examples(model, people, ASKED, attribute, count=asked.examples)
        parts = drawn.split()
        with contextlib.ExitStack() as stack:
            for name, one in several.items():
                stack.enter_context(attached(model, one, name=name))
            table = disentangling(model, *parts, "resid_post", asked.layer, features=list(several), epochs=asked.epochs)
        print(f"{attribute}: {len(parts[0])} examples to search on, {len(parts[1])} judged")
        print(table.drop_vars(("kept_answer", "group")).to_dataframe().round(3).to_string(), flush=True)
    some, others = list(people)[:12], list(people)[12:]
    sides = [
        [(ASKED[a].replace("{entity}", who), f" {people[who][a]}") for who in side for a in ASKED]
        for side in (some, others)
    ]
    about = [read_states(model, [q + a for q, a in side], sites=site, pos=slice(1, None)) for side in sides]
    (forget, retain), (lost, answered) = about, sides
    table = unlearning(
        model, several, forget, retain, lost, answered, k=[5, 10, 20, 40], strengths=[1.0, 3.0, 10.0], rare=0.05
    )
    print(table.attrs["forget_questions"], table.attrs["retain_questions"], "questions are answered")
    with torch.no_grad():
        print(table.to_dataframe().round(3).to_string())


if __name__ == "__main__":
    main()
