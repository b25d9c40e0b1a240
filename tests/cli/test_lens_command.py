"""``caseback lens`` and ``caseback patchscope``: grids in the terminal, as JSON and as a page; mistakes in a line."""

import json

import pytest

from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")

PROMPT = "Once upon a"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_logit_lens_in_the_terminal_as_json_and_as_a_page(capsys, small, tmp_path):
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--target", " time", "--mode", "rank")
    assert (status, err) == (0, "") and "rank of ␣time" in out.splitlines()[0]
    last, *_, embedding, note = out.splitlines()[2:]  # layers upwards, so the last comes first
    assert last.split()[-1] == "1" and embedding.split()[0] == "embed" and note.startswith("embed: ")
    page = tmp_path / "lens.html"
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--json", "--html", str(page), "--top", "2")
    made = json.loads(out)
    assert status == 0 and "written to" in err and made["data_vars"]["top_text"]["data"][-1][0][-1][0] == " time"
    text = page.read_text(encoding="utf-8")
    assert "<h1>What would each layer predict?</h1>" in text and '"modes":["top",' in text and len(text) < 150_000


def test_a_lens_is_fitted_written_and_read_again(capsys, small, tmp_path):
    corpus, file = tmp_path / "corpus.txt", tmp_path / "lens.safetensors"
    corpus.write_text("Once upon a time there was a dog.\nOnce upon a time there was a cat.\n", encoding="utf-8")
    fitted = answer(
        capsys, "lens", PROMPT, "-m", small, "--kind", "translator", "--fit", str(corpus), "--save", str(file)
    )
    again = answer(capsys, "lens", PROMPT, "-m", small, "--kind", "translator", "--lens", str(file))
    assert fitted[0] == 0 and fitted == again
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--kind", "tuned", "--lens", str(file))
    assert (status, out) == (2, "") and "holds a translator lens" in err
    status, out, err = answer(capsys, "patchscope", PROMPT, "-m", small, "--lens", str(file), "--pos", "-1")
    assert (status, err) == (0, "") and "␣a" in out


def test_the_training_of_a_tuned_lens_is_as_it_is_asked_for(capsys, small, tmp_path):
    from caseback.decode.vocabulary import load_lens

    corpus, file = tmp_path / "corpus.txt", tmp_path / "lens.safetensors"
    corpus.write_text("Once upon a time there was a dog.\nOnce upon a time there was a cat.\n", encoding="utf-8")
    training = ("--fit", str(corpus), "--steps", "2", "--tokens-per-step", "16")
    asked = ("lens", PROMPT, "-m", small, "--kind")
    status, _, _ = answer(capsys, *asked, "tuned", *training, "--save", str(file))
    given = load_lens(file).provenance
    assert (status, given["steps"], given["tokens_per_step"]) == (0, 2, 16)
    for wrong in ([*asked, "translator", *training], [*asked, "logit", "--tokens-per-step", "16"]):
        status, out, err = answer(capsys, *wrong)
        assert (status, out) == (2, "") and "is for fitting a tuned lens" in err


def test_a_patchscope_says_what_a_state_stands_for(capsys, small, tmp_path):
    page = tmp_path / "scope.html"
    status, out, err = answer(
        capsys,
        "patchscope",
        PROMPT,
        "-m",
        small,
        "--layers",
        "0-1",
        "--target-layer",
        "4",
        "--pos",
        "-1,1",
        "--target-prompt",
        "Once upon x",
        "--html",
        str(page),
        "--generate",
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
        (("lens", PROMPT, "--kind", "tuned", "--fit", "/nowhere/a.txt"), "cannot be read (absent)"),
        (("lens", PROMPT, "--mode", "rank"), "--target"),
        (("lens", PROMPT, "--mode", "entrpy"), "entropy"),
        (("lens", PROMPT, "--mode", "entrpy", "--json"), "entropy"),
        (("lens", PROMPT, "--mode", "rank dog", "--target", " time"), "expected 'rank' or 'rank ␣time'"),
        (("lens", PROMPT, "--mode", "rank ␣time"), "--target"),
        (("patchscope", PROMPT, "--target-prompt", "Once x", "--generate", "600"), "its context is 512"),
        (("lens", PROMPT, "--site", "z"), "resid_post"),
        (("lens", PROMPT, "--head", "8"), "some of the 8 heads of a layer, 0 to 7"),
        (("lens", PROMPT, "--head", "L2H8", "--head", "0"), "units [8]"),
        (("lens", PROMPT, "--head", "L5H0"), "layer 5: the model has 5, 0 to 4"),
        (("lens", PROMPT, "--head", "L2N1"), "expected L3H2"),
        (("lens", PROMPT, "--head=-1"), "expected L3H2"),
        (("lens", PROMPT, "--neuron", "L2H1"), "expected L3N2"),
        (("lens", PROMPT, "--neuron", "172"), "172 neurons of a layer, 0 to 171"),
        (("lens", PROMPT, "--neuron", "1", "--head", "1"), "one of the two"),
        (("lens", PROMPT, "--head", "1", "--site", "mlp_out"), "leave out --site"),
        (("lens", PROMPT, "--head", "1", "--kind", "tuned", "--lens", "a"), "heads are for --kind logit"),
        (("lens", PROMPT, "--site", "mlp_post"), "name some neurons (--neuron)"),
        (("patchscope", PROMPT, "--target-prompt", "identty"), "identity"),
        (("patchscope", PROMPT, "--target-prompt", "a brown dog"), "is the placeholder 'x'"),
        (("patchscope", PROMPT, "--layers", "99"), "layer 99"),
        (("patchscope", PROMPT, "--ids"), "is text"),
    ],
)
def test_a_mistake_is_one_line(capsys, small, arguments, says):
    status, out, err = answer(capsys, *arguments, "-m", small)
    assert (status, out) == (2, "") and err.count("\n") == 1 and says in err


def test_some_heads_and_neurons_are_read_by_name(capsys, small, tmp_path):
    from caseback import load
    from caseback.decode.vocabulary import logit_lens

    page, options = tmp_path / "heads.html", ("-m", small, "--head", "L3H6", "--head", "2", "--top", "2")
    status, out, err = answer(capsys, "lens", PROMPT, *options, "--json", "--html", str(page))
    made = json.loads(out)
    assert status == 0 and "L3H6" in page.read_text(encoding="utf-8") and "written to" in err
    assert made["coords"]["component"]["data"] == ["L0H2", "L1H2", "L2H2", "L3H2", "L3H6", "L4H2"]
    expected = logit_lens(load(small), PROMPT, site="head_out", units=[6], k=2).sel(layer="3", head=6)
    capsys.readouterr()
    assert made["data_vars"]["top_text"]["data"][4] == expected["top_text"].values.tolist()
    status, out, err = answer(capsys, "lens", PROMPT, *options, "--mode", "rank", "--target", " time")
    lines = out.splitlines()
    assert (status, err) == (0, "") and lines[0] == "logit lens at head_out: rank of ␣time, of each head"
    assert lines[1].split()[0] == "head" and len(lines) == 2 + 6
    assert [line.split()[0] for line in lines[2:]] == ["L4H2", "L3H6", "L3H2", "L2H2", "L1H2", "L0H2"]
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--neuron", "L1N7", "--neuron", "L0N9")
    assert (status, err) == (0, "") and [line.split()[0] for line in out.splitlines()[2:4]] == ["L1N7", "L0N9"]


@pytest.mark.parametrize("mode", ["entrpy", "rank"])
def test_the_mode_is_checked_before_anything_is_loaded(capsys, mode):
    status, out, err = answer(capsys, "lens", PROMPT, "-m", "nowhere/a-model", "--mode", mode)
    assert (status, out) == (2, "") and f"--mode {mode!r}" in err and "nowhere" not in err


def test_the_rank_of_a_token_that_is_not_followed_is_refused_before_the_model_runs(capsys, small, monkeypatch):
    from caseback.model.running.model import Model

    monkeypatch.setattr(Model, "run", None)
    status, out, err = answer(capsys, "lens", PROMPT, "-m", small, "--mode", "rank dog", "--target", " time")
    assert (status, out) == (2, "") and "--mode 'rank dog'" in err
