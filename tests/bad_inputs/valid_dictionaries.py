"""Valid calls of the doors of dictionaries, of what is said of their features, and of weights between them."""

from pathlib import Path
from typing import Any

import torch

import caseback as cb
from caseback.decode.dictionaries import (
    Facts,
    FeatureExample,
    FeatureExplanation,
    FeatureRecord,
    JumpReLU,
    Recipe,
    TopK,
    TopKCrosscoder,
    save,
    write_explanations,
    write_features,
)
from caseback.localize.abstraction import EntityExamples, Interchanges
from caseback.localize.circuits import virtual_weights

TEXT = "Mary and John went"
OTHER = "Mary and Tom went"


def _crosscoder() -> TopKCrosscoder:
    facts = Facts(by_norm=True, provenance={"sites": ["resid_post.0", "resid_post.1"]})
    return TopKCrosscoder(16, 20, n_sources=2, k=3, facts=facts)


def calls_of_dictionaries(model: cb.Model, room: Path, effects: Any) -> dict[str, dict[str, Any]]:
    """Arguments by door; files that are read lie in the room."""
    save(dictionary := TopK(8, 16, k=2), room / "published")
    own = TopK(16, 32, k=2, facts=Facts(site="resid_post.0")).to(model.device)
    of_mlp = [Facts(site=f"mlp_in.{layer}", target=f"mlp_out.{layer}") for layer in (0, 1)]
    transcoders = [TopK(16, 20, k=3, facts=facts).to(model.device) for facts in of_mlp]
    notes = cb.Notes().put("L0H1", "repeats names", by="ann")
    notes.save(room / "notes.json")
    explained = FeatureExplanation(3, "names")
    write_explanations([explained], room / "explanations", model="m", layer=0, dictionary="d")
    save([JumpReLU(8, 16)], room / "transcoders", format="circuit_tracer")
    record = FeatureRecord(index=3, examples={"Top": [FeatureExample([" a"], [1.0], 0)]})
    write_features([record], room / "features", transcoder="t")
    swapped = Interchanges(
        model.tokens([TEXT, OTHER]), {"entity": model.tokens([OTHER, TEXT])}, torch.tensor([5, 6]), torch.tensor([6, 6])
    )
    place = torch.tensor([1, 1])
    entities = {
        **{"data": swapped, "attribute": "job", "asked": ["job", "city"], "base": ["Mary", "Tom"]},
        **{"source": ["Tom", "Mary"], "pos": place, "source_pos": place},
    }
    answered = [(TEXT, int(model.run(TEXT).logits[0, -1].argmax()))]
    states = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    active = transcoders[1].encode(model.run(TEXT, read=["mlp_in.1"])["mlp_in", 1][0, -1:])[0].argmax()
    one_feature = {"feature": f"L1F{int(active)}", "dictionaries": transcoders}
    return {
        "EntityExamples": entities,
        "entity_examples": {
            "entities": {"Mary": {"a": "went", "b": "gave"}, "John": {"a": "gave", "b": "went"}},
            "templates": {"a": "{entity} and", "b": "{entity} gave"},
            **{"attribute": "a", "known": False, "count": 2},
        },
        "disentangling.disentangling": {
            **{"trained": EntityExamples(**entities), "judged": EntityExamples(**entities), "features": (), "k": 2},
        },
        "unlearning.unlearning": {
            **{"dictionaries": own, "forget": states, "retain": states, "rare": 1.0, "k": [2], "strengths": [1.0]},
            **{"forget_questions": answered, "retain_questions": answered},
        },
        "source_measures": {"dictionaries": {"one": _crosscoder()}},
        "judge_explanations": {
            **{"dictionary": own, "explanations": {1: "names"}, "judge": _always, "n": 1, "window": 4},
        },
        "local_judge": {"batch_size": 2},
        "explanations_to_judge": {"dictionary": own, "given": None, "features": None, "count": 2},
        "judged_document": {"dictionary": own},
        "feature_attribution": one_feature,
        "feature_graph_document": one_feature,
        "score_attribution": {"head": "L1H0", "dictionaries": transcoders},
        "virtual_scores": {"query": transcoders[0], "key": transcoders[0], "head": "L1H0"},
        "loading.load": {"source": room / "published", "model": None, "format": "saelens", "subfolder": None},
        "loading.load_set": {"source": room / "transcoders", "model": None, "subfolder": None},
        "dictionaries.architectures.": {
            **{"d_in": 16, "n_features": 32, "k": 2, "n_sources": 2, "n_layers": 2, "skip": False, "d_out": None},
            **{"threshold": 0.1, "facts": None, "seed": 0},
        },
        "dictionary.Dictionary": {"d_in": 16, "n_features": 32, "skip": False},
        "dictionary.Losses": dict.fromkeys(
            ("total", "error", "penalty", "auxiliary", "l0", "fired", "errors"), torch.zeros(())
        ),
        "attach.attach": {"dictionaries": own, "name": "seen"},
        "save_dictionary": {"dictionary": own},
        "architecture_of": {"name": "topk"},
        "recipe.Recipe": {"site": "resid_post.0", "skip": False, "target": None, "name": "one"},
        "attach.attached": {"dictionaries": own, "name": "looked_at"},
        "curves.Trained": {"dictionary": own, "curve": effects},
        "train_dictionaries": {"corpus": [TEXT, OTHER], "recipes": [Recipe(site="resid_post.0", width=32)]},
        "train_end_to_end": {
            **{"corpus": [TEXT, OTHER], "recipes": [Recipe(site="resid_post.0", width=32)], "start": None},
            **{"n_tokens": 40, "step_tokens": 20},
        },
        "reading.": {"dictionary": own, "features": [1]},
        "explain_features": {"dictionary": own, "rules": 2, "window": 4, "least_windows": 1, "features": [1]},
        "neuron_factors": {"n_factors": 2, "steps": 20},
        "first_letter_absorption": {"dictionaries": own, "n_words": 150, "shots": 1},
        "absorption.absorption": {"labels": [0, 1] * 20, "held_out": 0.3},
        "perturbation.": {**{"labels": [0, 1] * 20, "spurious": [0, 0, 1, 1] * 10, "n_features": [2], "held_out": 0.3}},
        "Note": {"unit": "L0H1", "label": "repeats names"},
        "notes.Notes": {"notes": (cb.Note("L0H1", "ann", "repeats names"),), "model": "", "dictionary": ""},
        "Notes.": {
            **{"self": notes, "other": notes, "unit": "L0H1", "label": "a head", "by": "ann", "dictionary": ""},
            "path": room / "notes.json",
        },
        "explanations_of_notes": {"notes": notes},
        "FeatureExplanation": {"index": 3, "description": "names"},
        "write_explanations": {
            **{"explanations": [explained], "folder": room / "explanations", "model": "m", "dictionary": "d"},
        },
        "read_explanations": {"path": room / "explanations"},
        "print_notes": {"notes": {"model": "m", "notes": [{"unit": "L0H1", "label": "a", "text": "", "by": ""}]}},
        "loading.save": {"dictionary": dictionary, "folder": room / "saved", "format": "saelens"},
        "write_dashboards": {
            "records": [record],
            "folder": room / "dashboards",
            "dictionary": "d",
            "model": "m",
            "layer": 1,
        },
        "FeatureExample": {"tokens": [" a"], "activations": [1.0], "at": 0},
        "write_features": {"records": [record], "folder": room / "features"},
        "read_feature": {"path": room / "features" / "3.json"},
        "virtual_weights": {"source": transcoders[0], "target": transcoders[1]},
        "expected_weights": {
            **{"source": transcoders[0], "target": transcoders[1], "texts": [TEXT, OTHER]},
            "virtual": virtual_weights(model, *transcoders, top=3),
        },
    }


def _always(questions: Any) -> list[float]:
    return [0.5] * len(questions)
