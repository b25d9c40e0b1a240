"""``caseback patch``, ``ablate`` and ``trace``: maps on stdout, JSON for machines, one line for what cannot be done."""

import json
import re

import numpy as np
import pytest

import caseback as cb
from caseback import cli
from caseback.localize.components import ablate, causal_trace, patch
from caseback.organisms import checkpoints

pytestmark = pytest.mark.usefixtures("plain")

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_patch_shows_a_map_with_visible_tokens_and_writes_a_page(capsys, tmp_path):
    page = tmp_path / "map.html"
    status, out, err = answer(capsys, "patch", CLEAN, CORRUPT, "--html", str(page))
    assert (status, err) == (0, f"written to {page}\n")
    assert "logit of ␣Mary less that of ␣John: clean" in out and "10 ␣John | ␣Mary" in out
    assert "denoising (clean into corrupt) at resid_pre" in out
    text = page.read_text(encoding="utf-8")
    assert "<h1>Which places bring back the logit of ␣Mary less that of ␣John?</h1>" in text and len(text) < 100_000
    assert CLEAN in text and "<dt>technique</dt>" in text


def test_patch_as_json_is_what_the_function_gives(capsys):
    options = "--target", " Mary", "--foil", " John", "--site", "z", "--by", "layer,head,pos", "--layers", "1-2"
    more = "--pos", "10,-1", "--heads", "0,2-3", "--direction", "noising", "--json"
    status, out, err = answer(capsys, "patch", CLEAN, CORRUPT, *options, *more)
    assert (status, err) == (0, "")
    made = json.loads(out)
    metric = cb.logit_diff(" Mary", " John")
    found = patch(
        cb.load("meadow"),
        CLEAN,
        CORRUPT,
        metric,
        site="z",
        by=("layer", "head", "pos"),
        layers=[1, 2],
        heads=[0, 2, 3],
        pos=[10, -1],
        direction="noising",
    )
    np.testing.assert_allclose(made["data_vars"]["recovery"]["data"], found.recovery, atol=1e-5)
    assert made["data_vars"]["recovery"]["dims"] == ["layer", "head", "pos", "batch"]
    assert made["attrs"]["entry"] == "3.2.7, 3.2.8, 3.2.12"


def test_ablate_shows_heads_beside_the_mlp_and_lists_neurons(capsys):
    status, out, err = answer(capsys, "ablate", CLEAN, "--target", " Mary", "--foil", " John")
    assert (status, err) == (0, "")
    assert re.search(r"layer +H0 +H1 +H2 +H3 +H4 +MLP", out) and "Effect of zero-ablation" in out
    other = "When Tom and Lily went to the store, Lily gave a drink to"
    choice = "--components", "neurons", "--layers", "2", "--ablation", "mean", "--top", "3"
    status, out, err = answer(capsys, "ablate", CLEAN, other, *choice)
    assert (status, err) == (0, "") and "± sd" in out and out.count("L2N") == 3
    status, out, err = answer(
        capsys, "ablate", CLEAN, "--components", "L1H0,MLP 2", "--json", "--metric", "prob", "--target", " Mary"
    )
    found = ablate(cb.load("meadow"), CLEAN, cb.prob(" Mary"), components=["L1H0", "MLP 2"], kind="zero")
    np.testing.assert_allclose(json.loads(out)["data_vars"]["effect"]["data"], found, atol=1e-6)


def test_trace_shows_three_maps(capsys, tmp_path):
    page = tmp_path / "trace.html"
    options = "--subject", "Mary", "--samples", "2", "--layers", "0,3", "--html", str(page)
    status, out, err = answer(capsys, "trace", CLEAN, *options)
    assert status == 0 and page.exists()
    for text in ("Total effect", "Restoring stream after one layer", "Restoring MLP in one layer", "2 ␣Mary"):
        assert text in out
    status, out, err = answer(capsys, "trace", CLEAN, *options[:-2], "--json")
    found = causal_trace(cb.load("meadow"), CLEAN, cb.prob(" Mary"), subject="Mary", samples=2, layers=[0, 3])
    np.testing.assert_allclose(json.loads(out)["data_vars"]["indirect"]["data"], found.indirect, atol=1e-6)


def test_ids_serve_a_model_without_tokenizer(capsys, assets):
    folder = str(assets / "models" / "gpt-nano-sort")
    status, out, err = answer(
        capsys, "patch", "1,2,0,0,1,2", "2,2,0,0,1,2", "-m", folder, "--ids", "--foil", "1", "--target", "0"
    )
    assert (status, err) == (0, "") and "0 1 | 2" in out
    status, out, err = answer(
        capsys, "trace", "1,2,0,0,1,2", "--subject", "0,1", "-m", folder, "--ids", "--samples", "2"
    )
    assert (status, err) == (0, "") and "Total effect" in out


def test_another_models_parts_are_patched_into_this_ones_pass(capsys, tmp_path):
    page, (early, late) = tmp_path / "page.html", (str(checkpoints("induction")[step]) for step in (800, 1100))
    given = ("patch", "5,9,20,31,44,5", "--ids", "-m", early, "--other-model", late, "--site", "z", "--pos", "-1")
    status, out, _ = answer(capsys, *given, "--html", str(page))
    assert status == 0 and "Recovery (1 as other, 0 as own), parts of step-1100 at z" in out
    assert "bring the other model" in page.read_text(encoding="utf-8")


def test_bad_input_ends_with_one_line_and_status_2(capsys, tmp_path):
    cases = {
        ("patch", CLEAN, CORRUPT + " the"): "not token-aligned. 15 tokens:",
        ("patch", CLEAN, CLEAN): "have the same metric",
        ("patch", CLEAN, CORRUPT, "--site", "resid"): "no site is called 'resid'",
        ("patch", CLEAN, CORRUPT, "--window", "5"): "this model has 4 layers",
        ("patch", CLEAN, CORRUPT, "--by", "head"): "has no dimension 'head'",
        ("patch", CLEAN, CORRUPT, "--layers", "a"): "expected whole numbers such as 0,2-4",
        ("patch", CLEAN, CORRUPT, "--direction", "up"): "is unknown",
        ("patch", CLEAN, CORRUPT, "--metric", "loss"): "--metric 'loss' is unknown",
        ("patch", CLEAN, CORRUPT, "--target", " a", "--foil", " a"): "choose two tokens",
        ("patch", CLEAN, CORRUPT, "--html", str(tmp_path / "no" / "x.html")): "there is no folder",
        ("patch", CLEAN, ""): "the prompt is empty",
        ("patch", CLEAN, CORRUPT, "--other-model", "meadow"): "leave out the counterfactual",
        ("patch", CLEAN, "--other-model", "meadow"): "other and own have the same metric",
        ("patch", CLEAN, "--other-model", "induction"): "expected models of one tokenizer",
        ("ablate", CLEAN, "--ablation", "zer"): "Did you mean zero",
        ("ablate", CLEAN, "--components", "L9H0"): "this model has layers 0 to 3",
        ("ablate", CLEAN, "--ablation", "resample"): "needs corrupt=",
        ("trace", CLEAN, "--subject", "Paris"): "does not hold 'Paris'",
        ("trace", CLEAN): "Missing option",
        ("trace", CLEAN, "--subject", "Mary", "--window", "9"): "this model has 4 layers",
    }
    for arguments, told in cases.items():
        status, out, err = answer(capsys, *arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("caseback: ") and err.count("\n") == 1 and told in err, (arguments, err)
