"""``caseback align``: a map on stdout, JSON for machines, a page, and one line for what cannot be done."""

import json

import numpy as np
import pytest

import caseback as cb
from caseback import cli
from caseback.localize.abstraction import Interchanges, das_map

pytestmark = pytest.mark.usefixtures("plain")

QUICK = "--count", "12", "--layers", "2,3", "--pos", "-2,-1", "--epochs", "2"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_align_shows_a_map_and_writes_a_page(capsys, tmp_path):
    page = tmp_path / "map.html"
    status, out, err = answer(capsys, "align", "agreement", *QUICK, "--html", str(page))
    assert (status, err) == (0, f"written to {page}\n")
    assert "Interchange accuracy of a subspace of 1 at resid_post, agreement" in out
    assert "swapping nothing" in out and "a random subspace" in out
    text = page.read_text(encoding="utf-8")
    assert "<h1>Where can the answers of agreement be swapped?</h1>" in text and len(text) < 100_000


def test_align_as_json_is_what_the_function_gives(capsys):
    status, out, err = answer(capsys, "align", "agreement", *QUICK, "--json", "--k", "2")
    assert (status, err) == (0, "")
    model = cb.load("meadow")
    data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 12))
    among = sorted({*data.target.tolist(), *data.base_target.tolist()})
    how = {"layers": [2, 3], "pos": [-2, -1], "epochs": 2, "batch_size": 32, "lr": 0.01, "k": 2}
    found = das_map(model, data, among=among, **how)
    made = json.loads(out)
    np.testing.assert_allclose(made["data_vars"]["accuracy"]["data"], found, atol=1e-9)
    assert made["data_vars"]["accuracy"]["dims"] == ["layer", "pos"] and made["attrs"]["entry"] == "3.2.34"
    status, out, err = answer(capsys, "align", "agreement", *QUICK, "--json", "--method", "full")
    assert json.loads(out)["attrs"]["entry"] == "3.2.32"


def test_bad_input_ends_with_one_line_and_status_2(capsys, tmp_path):
    cases = {
        ("align", "agreemen"): "no task is called 'agreemen'",
        ("align", "agreement", "--method", "dass"): "Did you mean das",
        ("align", "agreement", *QUICK, "--site", "pattern"): "no subspace to swap at 'pattern'",
        ("align", "agreement", *QUICK, "--k", "500"): "a subspace of 500 dimensions",
        ("align", "greater_than", *QUICK): "judged by one answer each",
        ("align", "agreement", *QUICK, "--checkpoint", str(tmp_path / "no")): "is not a folder",
        ("align", "agreement", *QUICK, "--html", str(tmp_path / "no" / "x.html")): "there is no folder",
    }
    for arguments, message in cases.items():
        status, out, err = answer(capsys, *arguments)
        assert (status, out) == (2, "") and message in err and err.count("\n") == 1, arguments
