"""``caseback attribute``: methods side by side on stdout, a page, JSON, and one clear line for what cannot be done."""

import json

import pytest

from caseback import cli
from caseback.localize.inputs import input_methods
from caseback.reports.attributions import check_attributions

pytestmark = pytest.mark.usefixtures("plain")

PROMPT = "When Mary and John went to the store, John gave a drink to"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["attribute", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_terminal_shows_methods_with_their_agreement_and_faithfulness(capsys):
    status, out, err = answer(capsys, PROMPT, "--method", "gradient_norm, gradient_x_input")
    assert (status, err) == (0, "")
    for text in (
        "Why ␣Mary and not ␣John?",
        "Gradient norm",
        "Gradient × input",
        "When␣Mary␣and␣John␣went",
        "Agreement",
        "Does the model bear it out?",
        "random orders",
    ):
        assert text in out


def test_json_is_the_whole_document_with_a_generation_and_a_page_beside_it(capsys, small, tmp_path):
    page = tmp_path / "why.html"
    arguments = ["Once upon a", "-m", small, "--method", "gradient_x_input", "--generate", "3", "--json"]
    status, out, err = answer(capsys, *arguments, "--target", " time", "--foil", " f", "--html", str(page))
    assert status == 0 and err == f"written to {page}\n"
    made = json.loads(out)
    check_attributions(made)
    assert (made["target"]["text"], made["foil"]["text"], made["prompt"]) == (" time", " f", "Once upon a")
    assert len(made["generation"]["targets"]) == 3 and made["generation"]["targets"][0]["text"] == " time"
    assert "<html" in page.read_text(encoding="utf-8")


def test_levels_metrics_and_continuations(capsys):
    status, out, _ = answer(
        capsys,
        "Anna Carter went. Then",
        "--level",
        "sentence",
        "--metric",
        "prob",
        "--continuation",
        " she went",
        "--json",
    )
    made = json.loads(out)
    assert status == 0 and made["foil"] is None and made["metric"]["name"] == "prob"
    assert [t["text"] for t in made["tokens"]] == ["<|endoftext|>", "Anna Carter went.", " Then"]
    assert [t["text"] for t in made["generation"]["targets"]] == [" she", " went"]
    status, out, _ = answer(
        capsys, PROMPT, "--method", "gradient_norm", "--continuation", " Mary.", "--contrast", " John.", "--json"
    )
    targets = json.loads(out)["generation"]["targets"]
    assert status == 0 and [t["foil"] and t["foil"]["text"] for t in targets] == [" John", None]


def test_ids_serve_a_model_without_tokenizer(capsys, assets):
    folder = str(assets / "models" / "gpt-nano-sort")
    status, out, err = answer(
        capsys, "1,2,0,0,1,2", "--ids", "--model", folder, "--foil", "1", "--continuation", "0,1", "--json"
    )
    assert (status, err) == (0, "")
    made = json.loads(out)
    assert [t["text"] for t in made["tokens"]] == list("120012") and len(made["generation"]["targets"]) == 2


def test_judge_runs_all_registered_methods_on_models_with_a_known_source(capsys):
    status, out, err = answer(capsys, "--judge", "--method", "gradient_x_input,gradient_norm")
    assert (status, err) == (0, "") and "recall" in out and "shortcut" in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["gradient_x_input"])
    assert row.split().count("100%") >= 5
    status, out, _ = answer(capsys, "--judge", "--method", "gradient_x_input", "--json")
    assert status == 0 and json.loads(out)["data_vars"]["first"]["dims"] == ["attribution", "variant"]


def test_list_names_what_is_registered(capsys):
    status, out, _ = answer(capsys, "--list")
    assert status == 0 and [line.split()[-len(line.split()) :][1] for line in out.splitlines()] == list(input_methods())
    status, out, _ = answer(capsys, "--list", "--json")
    assert status == 0 and [row["name"] for row in json.loads(out)] == list(input_methods())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected one of a prompt, --task or --prompts, --judge"),
        ([PROMPT, "--judge"], "expected one of a prompt, --task or --prompts, --judge"),
        ([""], "the prompt is empty"),
        ([PROMPT, "--method", "gradient_nrom"], "no input attribution is called 'gradient_nrom'. Did you mean"),
        ([PROMPT, "--method", ","], "no method is named"),
        ([PROMPT, "--target", " Mary", "--foil", " Mary"], "target and foil are both ' Mary'"),
        ([PROMPT, "--target", " Maryland"], "not one"),
        ([PROMPT, "--metric", "logits"], "metric 'logits' is unknown. Did you mean logit"),
        ([PROMPT, "--metric", "prob", "--foil", " John"], "takes none"),
        ([PROMPT, "--level", "wrod"], "Did you mean word"),
        ([PROMPT, "--baseline", "means"], "baseline 'means' is unknown"),
        ([PROMPT, "--generate", "-1"], "--generate -1: expected at least 0"),
        ([PROMPT, "--contrast", " John."], "a contrast is given without a generation"),
        ([PROMPT, "--continuation", ""], "does not follow the tokens"),
        (["--judge", "--html", "page.html"], "leave out --html"),
        ([PROMPT, "--html", "nowhere/page.html"], "there is no folder 'nowhere'"),
        (["<|endoftext|>"], "no token that may be replaced"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(capsys, arguments, said):
    status, out, err = answer(capsys, *arguments)
    assert status == 2 and out == "" and said in err and err.startswith("caseback: ") and err.count("\n") == 1
