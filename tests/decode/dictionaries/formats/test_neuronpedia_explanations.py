"""Explanations as Neuronpedia exports them: the keys of a line, there and back, and what is refused."""

import gzip
import json

import pytest

from caseback.decode.dictionaries import (
    FeatureExplanation,
    explanations_of_notes,
    read_explanations,
    write_explanations,
)
from caseback.errors import ArgumentError, LoadError
from caseback.model.notes import Notes


def test_lines_have_the_keys_of_published_exports(tmp_path):
    several = [FeatureExplanation(i, f"ü {i}\n", "human", "ann", "more") for i in range(5)]
    write_explanations(several, tmp_path / "a", model="gemma-2-2b", layer=20, dictionary="res-16k", size=2)
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == [f"batch-{n}.jsonl.gz" for n in range(3)]
    line = json.loads(gzip.decompress((tmp_path / "a" / "batch-1.jsonl.gz").read_bytes()).decode().splitlines()[0])
    assert line == {
        "modelId": "gemma-2-2b",
        "layer": "20-res-16k",
        "index": "2",
        "description": "ü 2\n",
        "typeName": "human",
        "explanationModelName": "ann",
        "notes": "more",
    }
    assert read_explanations(tmp_path / "a") == several
    before = (tmp_path / "a" / "batch-0.jsonl.gz").read_bytes()
    write_explanations(several, tmp_path / "a", model="gemma-2-2b", layer=20, dictionary="res-16k", size=2)
    assert (tmp_path / "a" / "batch-0.jsonl.gz").read_bytes() == before


def test_exports_with_other_keys_are_read(tmp_path):
    line = {"index": "7", "description": "cats", "typeName": "oai_token-act-pair", "embedding": [0.5], "notes": None}
    (tmp_path / "batch-0.jsonl").write_text(json.dumps(line) + "\n\n")
    assert read_explanations(tmp_path) == [FeatureExplanation(7, "cats", "oai_token-act-pair")]


def test_notes_on_one_dictionarys_features():
    notes = Notes().put("L2F5", "mlp", by="ann").put("L2F5:resid_post", "post").put("L3F5", "other").put("L2N5", "n")
    assert explanations_of_notes(notes, 2) == [FeatureExplanation(5, "mlp", "human", "ann")]
    assert explanations_of_notes(notes, 2, "mlp_out") == explanations_of_notes(notes, 2)
    assert [one.description for one in explanations_of_notes(notes, 2, "resid_post")] == ["post"]


def test_what_holds_no_explanations_is_refused(tmp_path):
    with pytest.raises(LoadError, match="no explanations"):
        read_explanations(tmp_path)
    for content in (b"[1]\n", b'{"index": "x", "description": "a"}', b"\x1f\x8bjunk", b"\xff"):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(LoadError):
            read_explanations(tmp_path / "a.jsonl")
    with pytest.raises(ArgumentError, match="feature -1"):
        write_explanations([FeatureExplanation(-1, "x")], tmp_path, model="m", layer=0, dictionary="d")
    with pytest.raises(ArgumentError, match="size is 0"):
        write_explanations([], tmp_path, model="m", layer=0, dictionary="d", size=0)
