"""``caseback organisms``: list, path, train and evaluate, with one clear line for what cannot be done."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from caseback import cli, organisms
from caseback.organisms import evaluate, measure, train, trainers

pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture
def one_behaviour(monkeypatch):
    """Scores without the model: two behaviours, one of which misses its target."""
    found = {
        "giving": measure.Score(5, 1.0, 1.0, 0.9),
        "arithmetic": measure.Score(5, 0.6, float("nan"), 0.5),
    }
    asked = {}

    def scores(folder, count, seed, kinds):
        asked.update(folder=folder, count=count, seed=seed, kinds=list(kinds))
        return found

    monkeypatch.setattr(evaluate, "scores", scores)
    return asked


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["organisms", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_alone_it_shows_its_commands(capsys):
    status, out, err = answer(capsys)
    assert (status, err) == (0, "")
    assert all(command in out for command in ("list", "path", "train", "evaluate"))


def test_list_has_one_line_a_model(capsys):
    status, out, err = answer(capsys, "list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == organisms.bundled()
    meadow, second = (line for line in lines if line.startswith("meadow"))
    assert "4 layers x 5 heads" in meadow and meadow.endswith("(caseback organisms train meadow)")
    assert second.endswith("(caseback organisms train meadow --seed 1)")


def test_path_is_the_folder(capsys):
    assert answer(capsys, "path", "meadow") == (0, f"{organisms.path('meadow')}\n", "")
    status, out, err = answer(capsys, "path", "prairie")
    assert (status, out) == (2, "") and "prairie" in err and err.count("\n") == 1


def test_train_passes_its_options_on(capsys, monkeypatch, tmp_path):
    given = {}

    def trains(out, seed, steps, stop_at, threads, tell):
        given.update(out=out, seed=seed, steps=steps, stop_at=stop_at, threads=threads)
        tell(1, 2, "halfway")
        tell(2, 2, "")

    monkeypatch.setitem(trainers.TRAINERS, "toy", trains)
    out = tmp_path / "toy"
    options = ("--seed", "3", "--steps", "2", "--stop-at", "1", "--threads", "2")
    assert answer(capsys, "train", "toy", "--out", str(out), *options) == (0, "", f"halfway\nwritten to {out}\n")
    assert given == {"out": out, "seed": 3, "steps": 2, "stop_at": 1, "threads": 2}


def test_meadow_trains_and_goes_on(capsys, monkeypatch, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(organisms.path("meadow"))
    monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(train, "_progress", lambda model, tokenizer: "")
    monkeypatch.setattr(train, "ROWS", 1)
    arguments = ("train", "meadow", "--out", str(tmp_path), "--steps", "3")
    assert answer(capsys, *arguments, "--stop-at", "2")[0] == 0
    status, out, err = answer(capsys, *arguments)
    assert (status, out) == (0, "") and "going on from step 2" in err
    assert json.loads((tmp_path / "config.json").read_text())["caseback"] == {"seed": 0, "step": 3, "steps": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "prairie", "--out", "x"), "prairie"),
        (("train", "meadow"), "--out"),
        (("train", "meadow", "--out", "x", "--steps", "0"), "--steps"),
        (("evaluate", "no/such"), "no/such"),
        (("evaluate", "meadow", "--count", "0"), "--count"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, said):
    status, out, err = answer(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1


def test_a_file_is_no_folder_to_train_into(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    status, _, err = answer(capsys, "train", "meadow", "--out", str(file))
    assert status == 2 and "is a file" in err


def test_evaluate_prints_a_table(capsys, one_behaviour):
    status, out, err = answer(capsys, "evaluate", "meadow", "--count", "5", "--seed", "4")
    assert (status, err) == (0, "")
    assert "giving" in out and "70% missed" in out and "60.0%" in out
    assert one_behaviour == {
        "folder": organisms.path("meadow"),
        "count": 5,
        "seed": 4,
        "kinds": list(evaluate.BEHAVIORS),
    }


def test_evaluate_prints_json(capsys, one_behaviour):
    status, out, err = answer(capsys, "evaluate", "--json")
    assert (status, err) == (0, "")
    giving, arithmetic = json.loads(out)
    assert giving["behaviour"] == "giving" and giving["reached"] and giving["top"] == 1.0
    assert arithmetic["over_foil"] is None and arithmetic["target"] == 0.7 and not arithmetic["reached"]


def test_evaluate_writes_the_card(capsys, tmp_path):
    folder = tmp_path / "meadow"
    shutil.copytree(organisms.path("meadow"), folder)
    (folder / "README.md").unlink()
    status, out, err = answer(capsys, "evaluate", str(folder), "--count", "2", "--write")
    assert status == 0 and "giving" in out and str(folder / "README.md") in err
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith("---\n") and "# meadow" in page and "2 per\nbehavior" in page


def test_the_grokking_run_is_measured_by_its_checkpoints(capsys):
    status, out, _ = answer(capsys, "evaluate", "grokking", "--json")
    told = json.loads(out)
    assert status == 0 and told["10000"]["test_accuracy"] == 1.0 and told["0"]["test_accuracy"] < 0.1
    status, out, _ = answer(capsys, "evaluate", "grokking")
    assert status == 0 and "excluded_loss" in out


def test_the_grokking_run_is_trained_again(capsys, tmp_path):
    status, _, err = answer(capsys, "train", "grokking", "--out", str(tmp_path / "new"), "--steps", "2")
    assert status == 0 and "held-out accuracy" in err and (tmp_path / "new" / "model.safetensors").exists()
