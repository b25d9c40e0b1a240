"""Valid calls of the doors of truth: statements, detectors and scores."""

import json
from pathlib import Path
from typing import Any

import torch

from caseback.behaviors import truth_plane, world_statements
from caseback.tasks import Pair, Text


def statements_file(folder: Path) -> Path:
    """True and false statements of four topics."""
    rows = [
        f"{name} went to the {place},{int(i % 2 == j % 2)},{place}\n"
        for i, name in enumerate(("Mary", "Anna", "John", "Paul"))
        for j, place in enumerate(("store", "park", "school", "house"))
    ]
    file = folder / "statements.csv"
    file.write_text("statement,label,topic\n" + "".join(rows), encoding="utf-8")
    return file


def calls_of_truth(room: Path) -> dict[str, dict[str, Any]]:
    """Arguments by door."""
    statements = world_statements(["capital", "language", "plural"], each=4)
    samples = [{"subject": "Mary", "object": "store"}, {"subject": "John", "object": "park"}]
    relation = room / "went.json"
    relation.write_text(json.dumps({"name": "went", "prompt_templates": ["{} went to the"], "samples": samples}))
    pairs = [
        Pair.of(Text(f"{s} went to the", {"subject": (0, 4)}), f"{s} went to the", f" {o}", group="went")
        for s, o in (("Mary", "store"), ("John", "park"))
    ]
    many = torch.arange(40)
    states = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    plane = truth_plane(states, many % 2 == 0, many % 4 > 1)
    text, start = "Mary went to the store", 4
    return {
        "truth_detection": {
            **{"statements": statements, "methods": ["mass_mean"], "samples": None, "hold_out": "topics"},
            **{"n_folds": 3, "untrained": False, "resamples": 3},
        },
        "truth_plane": {"x": states, "true": many % 2 == 0, "negated": many % 4 > 1, "topics": many % 5},
        "plane.TruthPlane": {name: getattr(plane, name) for name in ("general", "polar", "polarity", "weight", "bias")},
        "confidence_scores": {"tokens": text, "start": start},
        "constraint_attention": {"tokens": text, "subject": [[0]], "reduce": "max"},
        "lookback_ratio": {"tokens": text, "start": start, "sink_free": True},
        "in_context_sharpness": {"tokens": text, "start": start, "layer": 0},
        "attribute_scores": {"tokens": text, "start": start},
        "translation_scores": {"tokens": [text, text], "source": [[0], [0, 1]], "start": start, "layer": -1, "k": 1},
        "eigenscore.eigenscore": {"states": torch.randn(2, 3, 8), "alpha": 0.1, "form": "paper"},
        "semantic_entropy.semantic_entropy": {"samples": [["a", "b"]], "log_probs": [[-1.0, -2.0]], "same": None},
        "sample_answers": {
            **{"prompts": ["Mary went to"], "k": 2, "max_new_tokens": 1, "temperature": 1.0, "top_p": 0.9, "top_k": 3},
        },
        "model_answers": {"facts": pairs, "each": 2, "max_new_tokens": 1},
        "world_facts": {"topics": ["capital"]},
        "world_statements": {"topics": ["capital"], "each": 4, "negated": True},
        "statements_of": {"pairs": pairs, "each": 2, "negated": True},
        "statements_of_files": {"paths": [relation], "each": 2, "negated": False},
        "facts_of_files": {"paths": [relation]},
        "load_statements": {"path": statements_file(room)},
        "truth_document": {"title": "the world"},
    }
