"""Two atlases: what each label kept, gained and lost, beside chance; and what cannot be compared."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import caseback as cb
from caseback.behaviors import Atlas, atlas, compare_atlases, save_atlas
from caseback.behaviors.atlas import KindReport
from caseback.behaviors.mechanisms.overlap import random_overlap
from caseback.cli import main
from caseback.errors import CasebackError
from caseback.model.findings import Findings
from caseback.reports.concepts.atlas_comparison import atlas_comparison_document
from caseback.views.page.kinds import page_html

UNITS = [f"L{layer}H{head}" for layer in range(3) for head in range(2)]


def _atlas(scores, *, kind="sink", band=0.5, units=UNITS):
    frame = pd.DataFrame({"unit": units, "score": scores, "control": 0.0, "ranked_by": scores, "band": band})
    report = KindReport(kind, "head", "5.1.8", "", "", "", 0.2, units=len(units))
    return Atlas((report,), Findings(()), {kind: frame}, (), {"model": "made up"})


def test_labels_are_kept_gained_and_lost_by_name():
    first, second = _atlas([0.9, 0.6, 0.1, 0.7, 0.0, 0.2]), _atlas([0.8, 0.1, 0.9, 0.95, 0.0, 0.3])
    (change,) = compare_atlases(first, second).kinds
    assert (change.shared, change.gained, change.lost) == (("L0H0", "L1H1"), ("L1H0",), ("L0H1",))
    assert change.sizes == (3, 3) and change.units == 6 and change.jaccard == 0.5
    expected = spearmanr([0.9, 0.6, 0.1, 0.7, 0.0, 0.2], [0.8, 0.1, 0.9, 0.95, 0.0, 0.3])
    np.testing.assert_allclose(change.correlation, np.asarray(expected)[0], rtol=1e-12)


def test_the_order_of_units_does_not_matter():
    scores = dict(zip(UNITS, [0.9, 0.6, 0.1, 0.7, 0.0, 0.2], strict=True))
    turned = UNITS[::-1]
    (change,) = compare_atlases(_atlas(list(scores.values())), _atlas([scores[u] for u in turned], units=turned)).kinds
    assert change.jaccard == 1 and change.lost == change.gained == () and change.correlation == pytest.approx(1)


@pytest.mark.parametrize(("total", "a", "b"), [(6, 3, 3), (7, 1, 4), (5, 5, 2), (4, 0, 2)])
def test_chance_is_that_of_all_sets_as_large(total, a, b):
    one = set(range(a))
    shared = [len(one & set(other)) for other in itertools.combinations(range(total), b)]
    shares = np.array([n / (a + b - n) for n in shared])
    chance, band, p = random_overlap(total, a, b, min(a, b))
    np.testing.assert_allclose([chance, p], [shares.mean(), np.mean(np.array(shared) >= min(a, b))], rtol=1e-12)
    assert (shares <= band).mean() >= 0.95 and (shares < band).mean() < 0.95


def test_empty_and_flat_kinds_have_no_share_and_no_correlation():
    (change,) = compare_atlases(_atlas([0.0] * 6), _atlas([0.1] * 6)).kinds
    assert (change.jaccard, change.chance, change.band, change.correlation) == (None, None, None, None)
    document = atlas_comparison_document(compare_atlases(_atlas([0.0] * 6), _atlas([0.1] * 6)))
    assert "No unit gained or lost a label" in page_html(document)


def test_atlases_that_do_not_fit_are_refused():
    with pytest.raises(CasebackError, match="no kind in common"):
        compare_atlases(_atlas([0.0] * 6), _atlas([0.0] * 6, kind="induction"))
    with pytest.raises(CasebackError, match="L2H1 is in one atlas alone"):
        compare_atlases(_atlas([0.0] * 6), _atlas([0.0] * 6, units=[*UNITS[:-1], "L9H9"]))
    missing = dataclasses.replace(_atlas([0.0] * 6).kinds[0], missing="no text")
    with pytest.raises(CasebackError, match="no kind in common"):
        compare_atlases(_atlas([0.0] * 6), Atlas((missing,), Findings(()), {}, (), {}))


def test_meadow_without_its_previous_token_head_loses_induction(tmp_path, capsys):
    model = cb.load("meadow")
    for name, one in (("whole", model), ("without", model.edited([cb.Zero("z", layer=0, head=2)]))):
        save_atlas(atlas(one, kinds=["induction", "previous token"], proofs=False), tmp_path / name)
    with pytest.raises(SystemExit) as ended:
        main(["atlas", str(tmp_path / "without"), "--against", str(tmp_path / "whole"), "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    by_kind = {kind["kind"]: kind for kind in document["kinds"]}
    # a head's own pattern does not need what it writes
    assert "L0H2" in by_kind["previous token"]["shared"]
    assert by_kind["induction"]["lost"] and not by_kind["induction"]["shared"]
    assert document["first"]["model"] == "meadow" and "What changed inside" in page_html(document)
    with pytest.raises(SystemExit) as ended:
        main(["atlas", str(tmp_path / "whole"), "--kinds", "induction"])
    assert ended.value.code == 2 and "--kinds is for making one" in capsys.readouterr().err
