"""Valid calls of the doors of knowledge editing."""

import json
from pathlib import Path
from typing import Any

import torch

import caseback as cb
from caseback.edit import Fact, KnowledgeEdit, Search, fit_mend, key_moments, scores
from caseback.edit.places import write_site
from caseback.edit.rome import rome


def calls_of_editing(model: cb.Model, room: Path) -> dict[str, dict[str, Any]]:
    """Arguments by door."""
    fact = Fact("{} went to the", "Mary", "store", neighbors=[("John went to the", "park")])
    moments = key_moments(model, ["Mary went to the store", "John gave it to Mary"], [0])
    how: dict[str, Any] = {"contexts": [], "check": False, "search": Search(steps=1)}
    common: dict[str, Any] = {"facts": [fact], **how}
    joint = {**common, "moments": moments, "layers": [0], "ridge": 0.1}
    edit = rome(model, [fact], 0, **how)[0]
    editor = fit_mend(model, [fact], [0], rank=2, epochs=1)
    site, width = write_site(model, 0).name, moments.moment.shape[1]
    record = {
        "requested_rewrite": {
            "prompt": "{} went to the",
            "subject": "Mary",
            "target_new": {"str": "store"},
            "target_true": {"str": "park"},
        }
    }
    (room / "counterfact.json").write_text(json.dumps([record]), encoding="utf-8")
    asked = {"src": "Where is Mary?", "subject": "Mary", "alt": "here", "answers": ["there"]}
    (room / "zsre.json").write_text(json.dumps([asked]), encoding="utf-8")
    listed = [
        {"subject": who, "attribute": who, "prompt": f"{who} went", "relation_id": "P"} for who in ("Mary", "Tom")
    ]
    (room / "known.json").write_text(json.dumps(listed), encoding="utf-8")
    return {
        "affine.SideTerm": {"site": site, "left": torch.ones(1, 16), "right": torch.ones(1, width)},
        "affine.Codebook": {
            "site": site,
            "keys": torch.ones(1, width),
            "values": torch.ones(1, 16),
            "radii": torch.ones(1),
        },
        "affine.SideMemory": {"site": site, "change": torch.ones(16, width), "threshold": torch.ones(1)},
        "facts.Fact": {"prompt": "{} went to the", "subject": "Mary", "new": "store"},
        "relation_facts": {"relation": "capital", "count": 1},
        "load_counterfact": {"path": room / "counterfact.json"},
        "load_zsre": {"path": room / "zsre.json"},
        "load_known": {"path": room / "known.json"},
        "key_moments.key_moments": {"corpus": ["Mary went to the store"], "layers": [0]},
        "key_moments.KeyMoments": {
            "layers": [0],
            "moment": moments.moment,
            "n_tokens": 5,
            "model": "a digest",
            "corpus": "another",
        },
        "KeyMoments.at": {"self": moments, "layer": 0},
        "save_key_moments": {"moments": moments},
        "KnowledgeEdit.on": {"self": edit},
        "knowledge_edit.KnowledgeEdit": {"edits": edit.edits, "facts": [fact], "method": "ROME"},
        "save_knowledge_edit": {"edit": edit},
        "knowledge_edit.applied": {"edit": edit},
        "rome.rome": {**common, "layer": 0},
        "memit.memit": joint,
        "memit.emmet": joint,
        "memit.stream_values": {**common, "layer": 0},
        "memit.alphaedit": {**{name: value for name, value in joint.items() if name != "ridge"}, "share": 0.5},
        "fine_tuned": {"facts": [fact], "layer": 0, "steps": 1, "check": False},
        "grace.grace": {"facts": [fact], "layer": 0, "check": False, "search": Search(steps=1)},
        "wise.wise": {"facts": [fact], "layer": 0, "texts": ["Mary went to the store"], "check": False, "steps": 2},
        "mend.mend": {"facts": [fact], "editor": editor, "check": False},
        "mend.MEND": {name: getattr(editor, name) for name in ("sites", "networks", "parameters", "layers", "model")},
        "fit_mend": {"facts": [fact], "layers": [0], "rank": 2, "epochs": 1},
        "save_mend": {"editor": editor},
        "demonstrations": {"fact": fact, "others": [fact], "k": 1},
        "scores.scores": {"facts": [fact]},
        "scores.summary": {"table": scores(model, [fact])},
        "on_plain_text": {"before": model, "after": KnowledgeEdit(edit.edits, [fact], "ROME").on(model)},
        "of_generation": {"facts": [fact]},
        "generation_entropy": {"text": "Mary went to the store"},
        "sequence.sequential": {"facts": [fact], "write": _write},
    }


def _write(model: Any, facts: Any, _: Any) -> KnowledgeEdit:
    return rome(model, facts, 0, contexts=[], check=False, search=Search(steps=1))[0]
