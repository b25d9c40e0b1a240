import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import caseback
from caseback import cli
from caseback.errors import TargetError
from caseback.jobs.job import Job, Plan
from caseback.model import registry
from caseback.model.notes import Notes

pytestmark = pytest.mark.usefixtures("plain")


@pytest.fixture
def two(monkeypatch):
    """A registry of two techniques."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "PACKAGES", ())

    @registry.technique(entry=("3.1.10",), citation="Zhao & Shan 2024", cost="[steps] x forward")
    def reagent():
        """Replace tokens by what a language model would say."""

    @registry.technique(entry=("3.1.2", "3.1.22"), citation="Shrikumar et al. 2017", cost="one backward")
    def gradient_x_input():
        """Multiply the gradient by the input.

        And more.
        """

    return registry.techniques()


def answer(capsys, *arguments):
    """Run the command line; give its exit status, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_json_has_one_object_a_technique(two, capsys):
    status, out, err = answer(capsys, "techniques", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == [
        {
            "name": two[0].name,
            "entry": ["3.1.2", "3.1.22"],
            "role": "",
            "citation": "Shrikumar et al. 2017",
            "cost": "one backward",
            "summary": "Multiply the gradient by the input.",
            "example": "",
        },
        {
            "name": two[1].name,
            "entry": ["3.1.10"],
            "role": "",
            "citation": "Zhao & Shan 2024",
            "cost": "[steps] x forward",
            "summary": "Replace tokens by what a language model would say.",
            "example": "",
        },
    ]
    assert two[0].name.endswith("gradient_x_input")


def test_the_table_shows_all_of_them_whole(two, capsys):
    status, out, err = answer(capsys, "techniques")
    assert (status, err) == (0, "")
    for text in (
        "3.1.2, 3.1.22",
        "[steps] x forward",
        "Shrikumar et al. 2017",
        "Zhao & Shan 2024",
    ):
        assert text in out
    assert out.index("3.1.2,") < out.index("3.1.10")


def test_words_and_entries_choose_among_them_and_a_few_have_their_example(capsys):
    status, out, _ = answer(capsys, "techniques", "patching", "3.2", "illusion")
    assert status == 0
    assert out.count("localize.components.subspace_illusion") == 1 and "model = cb.load(" in out
    assert all(
        entry == "3.2.9" for row in _rows(capsys, "3.2.9") for entry in row["entry"] if entry.startswith("3.2.9")
    )
    assert "No technique has these words" in answer(capsys, "techniques", "a poem")[1]


def _rows(capsys, *words):
    return json.loads(answer(capsys, "techniques", *words, "--json")[1])


def test_the_packages_own_techniques_are_listed(capsys):
    status, out, _ = answer(capsys, "techniques", "--json")
    assert status == 0
    assert [row["name"] for row in json.loads(out)] == [t.name for t in registry.techniques()]


def test_version(capsys):
    assert answer(capsys, "--version") == (0, f"caseback {caseback.__version__}\n", "")


def test_without_a_command_it_shows_help(capsys):
    status, out, err = answer(capsys)
    assert (status, err) == (0, "")
    assert "techniques" in out
    assert "--version" in out
    assert answer(capsys, "--help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["techniqes"], "techniqes"),
        (["techniques", "--jsn"], "--jsn"),
        (["--bogus"], "--bogus"),
        (["version", "too", "much"], "version"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments, said, capsys):
    status, out, err = answer(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("caseback: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.fixture
def failing(monkeypatch):
    """A command line whose `techniques` raises what it is told to."""

    def install(error):
        def fail():
            raise error

        monkeypatch.setattr(registry, "techniques", fail)

    return install


def test_a_caseback_error_is_one_line_and_status_2(failing, capsys):
    failing(TargetError("' Marygold' is 2 tokens:\n  ' Mary' 'gold'\nGive one."))
    status, out, err = answer(capsys, "techniques")
    assert (status, out) == (2, "")
    assert err == "caseback: ' Marygold' is 2 tokens: ' Mary' 'gold' Give one.\n"


def test_debug_shows_the_traceback(failing, capsys, monkeypatch):
    failing(TargetError("two tokens"))
    with pytest.raises(TargetError):
        cli.main(["--debug", "techniques"])
    with pytest.raises(typer.TyperException):
        cli.main(["--debug", "techniqes"])
    monkeypatch.setenv("CASEBACK_DEBUG", "1")
    with pytest.raises(TargetError):
        cli.main(["techniques"])


def test_a_bug_keeps_its_traceback(failing):
    failing(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["techniques"])


def test_an_interruption_is_status_130(failing, capsys):
    failing(typer.Abort())
    assert answer(capsys, "techniques") == (130, "", "caseback: interrupted\n")


NAMES = sorted(typer.main.get_command(cli.app).commands)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([name, "--help"] for name in NAMES)])
def test_help_comes_without_torch(arguments, fresh_python):
    program = (
        "import sys\nfrom caseback.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'xarray', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = fresh_python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_lines_of_a_pipe_end_where_their_words_do(two, capsys):
    status, out, _ = answer(capsys, "techniques")
    assert status == 0 and "one backward" in out
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_what_is_too_much_for_examples_says_how_to_see_them(capsys):
    status, out, _ = answer(capsys, "techniques", "patching")
    assert status == 0 and "of 3 or fewer there are examples: add words." in " ".join(out.split())
    assert ">>> " not in out and ">>> " in answer(capsys, "techniques", "atp_star")[1]


def test_lists_are_kept_until_the_code_changes_and_without_torch(tmp_path, monkeypatch):
    from caseback.cli.listing import remembered as module

    monkeypatch.setenv("CASEBACK_CACHE", str(tmp_path / "kept"))
    made = []
    for rows in ([1], [2], [3]):
        made.append(module.remembered("a", lambda rows=rows: rows))
        if len(made) == 2:
            monkeypatch.setattr(module, "_code", lambda: [["other.py", 1, 2]])
    assert made == [[1], [1], [3]]
    (tmp_path / "kept" / "a.json").write_text("{", encoding="utf-8")
    assert module.remembered("a", lambda: [4]) == [4] == module.remembered("a", lambda: [5])
    monkeypatch.setenv("CASEBACK_CACHE", str(tmp_path / "kept" / "a.json"))  # no folder
    assert module.remembered("a", lambda: [6]) == [6]


SLOW = pytest.mark.slow  # at first all of the package is imported


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["techniques", "patching"], marks=SLOW),
        pytest.param(["tasks"], marks=SLOW),
        ["--help"],
        ["jobs", "--help"],
        ["jobs", "JOB"],
        ["label", "NOTES"],
        ["organisms", "list"],
    ],
)
def test_a_command_that_needs_no_model_does_not_wait_for_torch(tmp_path, command):
    given = {"JOB": tmp_path / "job", "NOTES": tmp_path / "notes.json"}
    Job.begin(given["JOB"], Plan("squares", {"power": 2}, {}, ["a", "b"]))
    Notes(model="meadow").put("L0H1", "copies", by="a reader").save(given["NOTES"])
    command = [str(given.get(word, word)) for word in command]
    kept = os.environ | {"CASEBACK_CACHE": str(tmp_path), "PYTHONPATH": str(Path(caseback.__file__).parents[1])}
    run = [sys.executable, "-c", f"import sys; sys.argv = ['caseback', *{command}]\nfrom caseback.cli import main\n"]
    run[-1] += "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    first, second = (subprocess.run(run, env=kept, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout != "" and second.stderr.split() == ["False"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["explain", "hello", "--model", "./nowhere"], "no model folder './nowhere'"),
        (["lens", "hello", "--model", "medow"], "Did you mean meadow"),
        (["atlas", "./nowhere"], "no model folder"),
        (["work", "./nowhere"], "holds no job"),
    ],
)
def test_a_wrong_path_is_refused_before_anything_slow_is_imported(command, says, fresh_python):
    program = (
        "import sys\nfrom caseback.cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = fresh_python(program)
    assert done.returncode == 0 and says in done.stderr, done.stderr
