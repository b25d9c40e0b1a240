"""``caseback explain``: answers on stdout, one clear line on stderr and status 2 for what cannot be answered."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

from caseback import cli
from caseback.cli.loading import quiet
from caseback.reports.explain_document import check_explanation

pytestmark = pytest.mark.usefixtures("plain")


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_terminal_shows_the_answer(capsys, small):
    status, out, err = answer(capsys, "Once upon a", "--model", small)
    assert (status, err) == (0, "")
    for text in (
        "Why ␣time and not",
        "What each layer already knew",
        "Which inputs",
        "Which components",
        "Did the claims hold?",
    ):
        assert text in out


def test_the_bundled_model_is_the_default(capsys):
    status, out, err = answer(capsys, "Mary gave a drink to", "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)
    assert made["model"]["name"] == "meadow" and all(check["passed"] for check in made["checks"][:4])


def test_json_is_the_whole_document_and_html_a_page(capsys, small, tmp_path):
    page = tmp_path / "why.html"
    status, out, err = answer(
        capsys, "Once upon a", "-m", small, "--target", " time", "--foil", " f", "--json", "--html", str(page)
    )
    assert status == 0 and err == f"written to {page}\n"
    made = json.loads(out)
    check_explanation(made)
    assert (made["target"]["text"], made["foil"]["text"], made["prompt"]) == (" time", " f", "Once upon a")
    assert "<html" in page.read_text(encoding="utf-8")


def test_ids_serve_a_model_without_tokenizer(capsys, assets):
    folder = str(assets / "models" / "gpt-nano-sort")
    status, out, err = answer(
        capsys, "--ids", "1,2,0 0,1 2", "--model", folder, "--foil", "1", "--ablation", "mean", "--json"
    )
    assert (status, err) == (0, "")
    made = json.loads(out)
    assert [t["id"] for t in made["tokens"]] == [1, 2, 0, 0, 1, 2]
    assert (made["target"]["id"], made["foil"]["id"], made["ablations"]["kind"]) == (0, 1, "mean")


def broken(assets, folder, what):
    shutil.copytree(assets / "models" / "stories260K", folder)
    weights = folder / "model.safetensors"
    if what == "weights":
        weights.write_bytes(weights.read_bytes()[:3000])
    elif what == "config":
        (folder / "config.json").write_text('{"model_type": "t5"}')
    else:
        weights.unlink()
    return str(folder)


def test_bad_input_ends_with_one_line_and_status_2(capsys, assets, small, tmp_path):
    nano = str(assets / "models" / "gpt-nano-sort")
    cases = {
        (): "no prompt given",
        ("",): "the prompt is empty",
        ("  \n",): "the prompt is empty",
        ("hi", "--ids", "1"): "unexpected extra argument",
        ("hi", "--model", "./no/such/model"): "there is no model folder",
        ("hi", "--model", str(tmp_path)): "has no config.json",
        ("hi", "--model", broken(assets, tmp_path / "a", "weights")): "cannot load",
        ("hi", "--model", broken(assets, tmp_path / "b", "config")): "is not a causal language model",
        ("hi", "--model", broken(assets, tmp_path / "c", "nothing")): "no weights that are safe to load",
        ("hi", "--model", small, "--target", " crocodile"): "is 9 tokens, not one",
        ("hi", "--model", small, "--target", " a", "--foil", " a"): "choose two tokens",
        ("hi", "--model", small, "--ablation", "noise"): "'zero' or 'mean'",
        ("hi", "--model", small, "--html", str(tmp_path / "none" / "x.html")): "there is no folder",
        ("--ids", "1,x", "--model", nano): "expected whole numbers",
        ("--ids", "", "--model", nano): "no prompt given",
        ("--ids", "7", "--model", nano): "expected 0 to 2",
        ("--ids", "1", "--model", nano, "--target", "A"): "has no tokenizer",
        ("hi", "--model", nano): "has no tokenizer",
        ("hi", "--no-such-option"): "No such option",
    }
    for arguments, told in cases.items():
        status, out, err = answer(capsys, *arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("caseback: ") and err.count("\n") == 1 and told in err, (arguments, err)


@pytest.mark.slow
def test_a_fresh_process_prints_nothing_of_its_own(assets, tmp_path):
    """No progress bar of the loader, no warning, no traceback, neither where it works nor where it does not."""
    source = Path(__file__).resolve().parents[2] / "src"
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("TRANSFORMERS_", "HF_HUB_DISABLE"))}
    variables |= {"PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}

    def run(*arguments):
        program = "from caseback.cli import main; main()"
        command = [sys.executable, "-c", program, "explain", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=variables)
        # a machine under load takes long enough for lines of progress, which are ours
        done.stderr = re.sub(r"^[^:\n]+: [^\n]*\d\d:\d\d so far[^\n]*\n", "", done.stderr, flags=re.MULTILINE)
        return done

    bad = run("hi", "--model", broken(assets, tmp_path / "a", "weights"))
    assert (bad.returncode, bad.stdout) == (2, "") and bad.stderr.count("\n") == 1, bad.stderr
    good = run("Once upon a", "--model", str(assets / "models" / "stories260K"))
    assert (good.returncode, good.stderr) == (0, "") and "Did the claims hold?" in good.stdout


def test_quiet_puts_everything_back():
    level, bars, filters = logging.get_verbosity(), logging.is_progress_bar_enabled(), list(warnings.filters)
    with pytest.raises(ZeroDivisionError), quiet():
        assert logging.get_verbosity() == logging.ERROR and not logging.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    assert warnings.filters == filters


def test_an_answer_is_explained_token_by_token(capsys, tmp_path):
    page, kept = tmp_path / "answer.html", tmp_path / "stories.npz"
    prompt = "When Mary and John went to the store, John gave a drink to"
    arguments = (prompt, "--continuation", " Mary.", "--depth", "quick", "--checkpoint", str(kept))
    status, out, _ = answer(capsys, *arguments, "--html", str(page), "--json")
    document = json.loads(out)
    assert status == 0 and [row["target"]["text"] for row in document["rows"]] == [" Mary", "."]
    assert "Token by token" in page.read_text(encoding="utf-8") and kept.exists()
    refused = {
        (prompt, "--generate", "2", "--continuation", " Mary"): "either written or given",
        (prompt, "--generate", "2", "--foil", " John"): "--foil is of one token",
        (prompt, "--checkpoint", str(kept)): "several stories",
        ("--task", "ioi", "--generate", "2"): "--generate is of a single prompt",
        ("--task", "ioi", "--ablation", "mean"): "--ablation is of a single prompt",
        (prompt, "--chat"): "leave out --chat",
        ("5,1", "--ids", "--chat"): "a message is text",
    }
    for given, why in refused.items():
        status, out, err = answer(capsys, *given)
        assert (status, out) == (2, "") and why in err, (given, err)


def test_an_interrupt_says_what_is_left_to_go_on_from(capsys, tmp_path, monkeypatch):
    from caseback.reports.story import several

    kept, real, done = tmp_path / "stories.npz", several._row, []

    def interrupted(*given):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return real(*given)

    monkeypatch.setattr(several, "_row", interrupted)
    arguments = ("--task", "ioi", "--count", "2", "--depth", "quick", "--checkpoint", str(kept))
    status, out, err = answer(capsys, *arguments)
    assert (status, out) == (130, "") and err.endswith(
        f"what is done is in {kept}, and the same line goes on from there\n"
    )
    done.clear()
    assert answer(capsys, *arguments, "--json")[0] == 0 and done == [1]
