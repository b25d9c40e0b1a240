"""``caseback dla``: shares as a waterfall, as JSON and as a page; one clear line for what cannot be answered."""

import json

import pytest

from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")

PROMPT = "Once upon a"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["dla", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_terminal_shows_the_shares_and_their_sum(capsys, small):
    status, out, err = answer(capsys, PROMPT, "-m", small, "--target", " time", "--foil", " f", "--top", "6")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("logit of ␣time less that of ␣f: ")
    value = lines[0].rsplit(" ", 1)[1]
    assert any(" others " in line for line in lines)
    assert next(line for line in lines if line.strip().startswith("sum ")).split()[-1] == value
    assert "final norm: divides by" in out and "sum less the model's own number" in out


@pytest.mark.parametrize(
    ("by", "said"),
    [("branch", "MLP 0"), ("layer", "layer 0"), ("head", "H"), ("neuron", "other neurons"), ("source", "← 3 ␣a")],
)
def test_it_splits_by_what_is_asked(capsys, small, by, said):
    status, out, err = answer(capsys, PROMPT, "-m", small, "--by", by, "--top", "30")
    assert (status, err) == (0, "") and said in out


def test_json_is_the_whole_result_and_the_page_a_waterfall(capsys, small, tmp_path):
    page = tmp_path / "dla.html"
    status, out, err = answer(capsys, PROMPT, "-m", small, "--metric", "logit", "--json", "--html", str(page))
    assert status == 0 and "written to" in err
    made = json.loads(out)
    values = made["data_vars"]["share"]["data"]
    assert sum(row[0] for row in values) == pytest.approx(made["attrs"]["metric_value"][0], abs=1e-3)
    assert made["coords"]["component"]["data"][0] == "embed"
    text = page.read_text(encoding="utf-8")
    assert "<h1>What wrote the logit of " in text and text.count("class='all-of-it'") == 1 and len(text) < 100_000


def test_several_prompts_are_averaged_with_their_spread(capsys, small):
    status, out, err = answer(capsys, PROMPT, "There was a", "-m", small, "--by", "layer")
    assert (status, err) == (0, "") and "(mean of 2 prompts)" in out and "± sd" in out


def test_ids_serve_a_model_without_tokenizer(capsys, assets):
    status, out, err = answer(capsys, "0,2,1,0", "-m", str(assets / "models" / "gpt-nano-sort"), "--ids")
    assert (status, err) == (0, "") and "attn bias" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((PROMPT, "--by", "heads"), "--by 'heads' is unknown"),
        ((PROMPT, "--metric", "prob"), "only logit_diff and logit"),
        ((PROMPT, "--top", "0"), "--top 0"),
        ((" ",), "the prompt is empty"),
        ((PROMPT, "--html", "/nowhere/at/all.html"), "there is no folder"),
        ((PROMPT, "--target", " time", "--foil", " time"), "target and foil are both"),
    ],
)
def test_a_mistake_is_one_line(capsys, small, arguments, says):
    status, out, err = answer(capsys, *arguments, "-m", small)
    assert (status, out) == (2, "") and err.count("\n") == 1 and says in err


@pytest.mark.slow
def test_a_share_that_is_taken_back_is_not_said_to_be_no_reason(capsys, smollm_folder):
    """MLP 0 of a language model writes next to nothing that stays, and nothing costs more to take away."""
    prompt = "When Mary and John went to the store, John gave a drink to"
    status, out, err = answer(capsys, prompt, "-m", str(smollm_folder))
    assert status == 0 and "no reason" not in out
    back = next(line for line in out.splitlines() if line.startswith("direct shares that later parts take back: "))
    assert "MLP 0" in back and "`caseback ablate` measures what the prediction loses without it." in out
