"""``caseback lens`` and ``caseback patchscope``: grids in the terminal, as JSON and as a page; mistakes in a line."""

import json

import pytest

from caseback import cli

PROMPT = "Once upon a"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv("CASEBACK_DEBUG", "0")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def small(assets):
    return str(assets / "models" / "stories260K")


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_logit_lens_in_the_terminal_as_json_and_as_a_page(capsys, small, tmp_path):
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--target", " time", "--mode", "rank")
    assert (status, err) == (0, "") and "rank of ␣time" in out.splitlines()[0]
    assert out.splitlines()[-1].split()[-1] == "1"
    page = tmp_path / "lens.html"
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--json", "--save", str(page), "--k", "2")
    made = json.loads(out)
    assert status == 0 and "written to" in err and made["data_vars"]["top_text"]["data"][-1][0][-1][0] == " time"
    assert "restyle" in page.read_text(encoding="utf-8")


def test_a_lens_is_fitted_written_and_read_again(capsys, small, tmp_path):
    corpus, file = tmp_path / "corpus.txt", tmp_path / "lens.safetensors"
    corpus.write_text("Once upon a time there was a dog.\nOnce upon a time there was a cat.\n", encoding="utf-8")
    fitted = answer(
        capsys, "lens", PROMPT, "-m", small, "--kind", "translator", "--fit", str(corpus), "--lens", str(file)
    )
    again = answer(capsys, "lens", PROMPT, "-m", small, "--kind", "translator", "--lens", str(file))
    assert fitted[0] == 0 and fitted == again
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--kind", "tuned", "--lens", str(file))
    assert (status, out) == (2, "") and "holds a translator lens" in err
    status, out, err = answer(capsys, "patchscope", PROMPT, "-m", small, "--lens", str(file), "--pos", "-1")
    assert (status, err) == (0, "") and "␣a" in out


def test_a_patchscope_says_what_a_state_stands_for(capsys, small, tmp_path):
    page = tmp_path / "scope.html"
    status, out, err = answer(
        capsys,
        "patchscope",
        PROMPT,
        "-m",
        small,
        "--layer",
        "0-1",
        "--target-layer",
        "4",
        "--pos",
        "-1,1",
        "--target-prompt",
        "Once upon x",
        "--save",
        str(page),
        "--tokens",
        "3",
    )
    assert status == 0 and "surprisal" in out and len(out.splitlines()) == 1 + 4 + 1 and page.is_file()
    status, out, _ = answer(capsys, "patchscope", "1,5,7", "--ids", "--target-prompt", "3,4", "-m", small, "--json")
    assert status == 0 and json.loads(out)["data_vars"]["said"]["dims"] == ["layer", "batch", "pos"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("lens", PROMPT, "--kind", "logits"), "--kind 'logits' is unknown"),
        (("lens", PROMPT, "--kind", "tuned"), "is fitted: give its file"),
        (("lens", PROMPT, "--lens", "a.safetensors"), "not fitted"),
        (("lens", PROMPT, "--kind", "tuned", "--lens", "a", "--site", "mlp_out"), "reads resid_post"),
        (("lens", PROMPT, "--kind", "tuned", "--lens", "/nowhere/a.safetensors"), "cannot be read as a lens"),
        (("lens", PROMPT, "--kind", "tuned", "--fit", "/nowhere/a.txt"), "cannot be read as text"),
        (("lens", PROMPT, "--mode", "rank"), "--target"),
        (("lens", PROMPT, "--mode", "entrpy"), "entropy"),
        (("lens", PROMPT, "--mode", "entrpy", "--json"), "entropy"),
        (("lens", PROMPT, "--mode", "rank dog", "--target", " time"), "expected 'rank' or 'rank ␣time'"),
        (("lens", PROMPT, "--mode", "rank ␣time"), "--target"),
        (("patchscope", PROMPT, "--target-prompt", "Once x", "--tokens", "600"), "its context is 512"),
        (("lens", PROMPT, "--site", "z"), "resid_post"),
        (("patchscope", PROMPT, "--target-prompt", "identty"), "identity"),
        (("patchscope", PROMPT, "--target-prompt", "a brown dog"), "is the placeholder 'x'"),
        (("patchscope", PROMPT, "--layer", "99"), "layer 99"),
        (("patchscope", PROMPT, "--ids"), "is text"),
    ],
)
def test_a_mistake_is_one_line(capsys, small, arguments, says):
    status, out, err = answer(capsys, *arguments, "-m", small)
    assert (status, out) == (2, "") and err.count("\n") == 1 and says in err


@pytest.mark.parametrize("mode", ["entrpy", "rank"])
def test_the_mode_is_checked_before_anything_is_loaded(capsys, mode):
    status, out, err = answer(capsys, "lens", PROMPT, "-m", "/nowhere/a-model", "--mode", mode)
    assert (status, out) == (2, "") and f"--mode {mode!r}" in err and "nowhere" not in err


def test_the_rank_of_a_token_that_is_not_followed_is_refused_before_the_model_runs(capsys, small, monkeypatch):
    from caseback.model.model import Model

    monkeypatch.setattr(Model, "run", None)
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--mode", "rank dog", "--target", " time")
    assert (status, out) == (2, "") and "--mode 'rank dog'" in err
