import json

import pytest

import caseback as cb
from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")


def answer(capsys, *arguments):
    """Run the command line; give its exit status, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def test_the_table_has_every_task(capsys):
    status, out, err = answer(capsys, "tasks")
    assert (status, err) == (0, "")
    assert f"Tasks: {len(cb.tasks.names())}" in out
    for name in cb.tasks.names():
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {name} ")]
        task = cb.tasks.get(name)
        assert task.about in line and task.measure in line and task.entry in line


def test_json_has_one_object_a_task(capsys):
    status, out, _ = answer(capsys, "tasks", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == cb.tasks.names()
    (ioi,) = [row for row in rows if row["name"] == "ioi"]
    assert (ioi["entry"], ioi["metric"], ioi["options"]) == (
        "5.4.4",
        "logit_diff",
        ["order", "corruption", "templates"],
    )


def test_json_of_one_task_is_what_the_library_draws_and_measures(capsys, meadow):
    status, out, err = answer(capsys, "tasks", "ioi", "--count", "20", "--seed", "3", "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)
    prompts = cb.tasks.ioi().prompts(meadow, 20, seed=3)
    assert [example["clean"] for example in made["examples"]] == prompts.clean.text
    assert [example["corrupt"] for example in made["examples"]] == prompts.corrupt.text
    assert [example["positions"]["IO"] for example in made["examples"]] == prompts.spans["IO"].tolist()
    assert [example["target"] for example in made["examples"]] == [list(pair.target) for pair in prompts.pairs]
    assert made["dropped"] == prompts.dropped
    clean = prompts.metric(meadow.run(prompts.clean))
    assert [example["metric"]["clean"] for example in made["examples"]] == pytest.approx(clean.tolist(), abs=1e-4)
    assert made["mean"]["clean"] == pytest.approx(clean.mean().item(), abs=1e-4)
    assert made["mean"]["clean"] > made["mean"]["corrupt"]
    assert (made["task"], made["entry"], made["model"]) == ("ioi", "5.4.4", "meadow")


def test_examples_show_places_answers_and_means(capsys, meadow):
    status, out, err = answer(capsys, "tasks", "agreement", "--count", "3")
    assert (status, err) == (0, "")
    for pair in cb.tasks.agreement().prompts(meadow, 3).pairs:
        subject = pair.clean.text[slice(*pair.clean.spans["subject"])]
        assert f"[subject: {subject}]" in out
        assert f"-> ␣{pair.target[0].strip()}, not ␣{pair.foil[0].strip()}" in out
    assert "mean logit_diff of 3 on meadow: clean +" in out
    assert "left out: " in out


@pytest.mark.parametrize("name", ["greater_than", "induction", "docstring", "plain_text"])
def test_other_sorts_of_tasks(name, capsys):
    """Many answers, ids, several lines, no foil."""
    status, out, err = answer(capsys, "tasks", name, "--count", "1")
    assert (status, err) == (0, "")
    assert "1 clean" in out and "-> " in out
    assert (" in all), not " in out) == (name == "greater_than")
    assert (", not " in out) == (name != "plain_text")
    assert ("↵" in out) == (name == "docstring")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", "iio"], "no task is called 'iio'. Did you mean ioi"),
        (["tasks", "ioi", "--count", "0"], "--count"),
        (["tasks", "ioi", "--model", "prairie-that-is-not"], "prairie-that-is-not"),
        (["tasks", "relation", "--count", "100000"], "ask for fewer"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    status, out, err = answer(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1
