"""An atlas as a table: a row for every unit in an order that no score changes, and the same from Parquet."""

import json

import numpy as np
import pandas as pd
import pytest

import caseback as cb
from caseback.behaviors import atlas, save_unit_table, unit_table

KINDS = ["induction", "copying", "previous token"]
TEXTS = ["Mary gave a drink to John in the park.", "the cat is on the table, and the dog ran."] * 40


@pytest.fixture(scope="module")
def found():
    return atlas(cb.load("meadow"), TEXTS, kinds=[*KINDS, "word start"], top=2)


def test_every_unit_has_a_row_whatever_was_found(found):
    table, model = unit_table(found), cb.load("meadow")
    heads = [f"L{layer}H{head}" for layer in range(4) for head in range(5)]
    neurons = [f"L{layer}N{i}" for layer in range(4) for i in range(640)]
    assert table.unit.tolist() == heads + neurons and model.n_layers == 4
    labels = found.labels()
    assert {unit: own for unit, own in zip(table.unit, table.labels, strict=True) if own} == labels
    proved = {(f.component, f.kind) for f in found.findings if f.grade == "proved"}
    assert {(u, kind) for u, own in zip(table.unit, table.proved, strict=True) for kind in own} == proved != set()
    scores = found.scores["induction"].set_index("unit")
    np.testing.assert_array_equal(table["induction score"][:20], scores.score[heads])
    assert table["induction control"][20:].isna().all() and table["word start band"][:20].isna().all()
    again = unit_table(atlas(model.edited([cb.Zero("z", layer=0, head=2)]), kinds=KINDS, proofs=False))
    assert again.unit.tolist() == heads


def test_parquet_holds_the_same_and_what_it_is_of(found, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    save_unit_table(found, tmp_path / "units.parquet")
    back = pd.read_parquet(tmp_path / "units.parquet")
    table = unit_table(found)
    assert back.columns.tolist() == table.columns.tolist() and len(back) == len(table)
    np.testing.assert_allclose(back["copying score"], table["copying score"], rtol=1e-6)
    assert [list(own) for own in back.labels] == table.labels.tolist()
    about = json.loads(parquet.read_schema(tmp_path / "units.parquet").metadata[b"caseback"])
    assert about["model"] == "meadow" and about["tokens"] == found.about["tokens"]
