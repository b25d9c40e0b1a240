"""Options are written once, in groups; a command has few of its own; whoever uses a retired spelling is told the new."""

import inspect
import re
from pathlib import Path
from typing import Annotated, get_args

import pytest
import typer
from typer.models import OptionInfo

from caseback import cli
from caseback.cli import options
from caseback.cli.group import Group
from caseback.cli.listing.organisms import organisms
from caseback.cli.retired import RETIRED
from caseback.cli.with_options import with_options

pytestmark = pytest.mark.usefixtures("plain")

ROOT = Path(__file__).resolve().parents[2]
SUBCOMMANDS = [command.callback for command in organisms.registered_commands]
COMMANDS = {command.__name__: command for command in (*cli.COMMANDS, *SUBCOMMANDS)}
GROUPS = [group for group in vars(options).values() if isinstance(group, type) and issubclass(group, Group)]


def flags(name, annotation):
    """The spellings of one option; none for an argument."""
    for said in get_args(annotation)[1:]:
        if isinstance(said, OptionInfo):
            spelled = [said.default, *(said.param_decls or ())]
            return [flag for flag in spelled if isinstance(flag, str)] or [f"--{name.replace('_', '-')}"]
    return []


def own(command):
    """The parameters of a command that are not groups."""
    parameters = inspect.signature(inspect.unwrap(command)).parameters.values()
    return [p for p in parameters if not (isinstance(p.annotation, type) and issubclass(p.annotation, Group))]


def spellings(command):
    return {flag for p in inspect.signature(command).parameters.values() for flag in flags(p.name, p.annotation)}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_at_most_twelve_parameters_of_its_own_and_no_others(name):
    kinds = {p.kind for p in inspect.signature(inspect.unwrap(COMMANDS[name])).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert len(own(COMMANDS[name])) <= 12, [p.name for p in own(COMMANDS[name])]


def test_what_two_commands_have_stands_in_a_group():
    """One place for each flag: a group or one command; two groups only where the flag takes one value here, many there."""
    homes = {}
    for group in GROUPS:
        for name, annotation in vars(group).get("__annotations__", {}).items():
            for flag in flags(name, annotation):
                homes.setdefault(flag, []).append(str(get_args(annotation)[0]))
    assert {flag: types for flag, types in homes.items() if len(set(types)) < len(types)} == {}
    for name, command in COMMANDS.items():
        for parameter in own(command):
            for flag in flags(parameter.name, parameter.annotation):
                homes.setdefault(flag, []).append(f"of {name}")
    shared = {flag: places for flag, places in homes.items() if len(places) > 1 and any("of " in p for p in places)}
    assert shared == {}


def test_every_group_is_used_and_says_what_it_is():
    used = {
        base
        for c in COMMANDS.values()
        for p in inspect.signature(inspect.unwrap(c)).parameters.values()
        if isinstance(p.annotation, type)
        for base in p.annotation.__mro__
    }
    for group in GROUPS:
        assert group is Group or (group in used and group.__doc__), group


def test_a_group_is_handed_over_whole_with_the_commands_defaults_and_words():
    class Sample(Group):
        count: Annotated[int, typer.Option(help="How many.")] = 100
        seed: Annotated[int, typer.Option()] = 0

    class Layer(Group):
        layer: Annotated[int | None, typer.Option()]

    given = []

    @with_options
    def draw(task: str, layer: Layer, sample: Sample = Sample(count=3).worded(count="Pairs.")) -> None:  # noqa: B008
        given.append((task, layer.layer, sample.count, sample.seed))

    parameters = inspect.signature(draw).parameters
    assert list(parameters) == ["task", "layer", "count", "seed"]
    assert [p.default for p in parameters.values()] == [inspect.Parameter.empty, inspect.Parameter.empty, 3, 0]
    assert get_args(parameters["count"].annotation)[1].help == "Pairs."
    assert get_args(Sample.options["count"])[1].help == "How many."
    app = typer.Typer()
    app.command()(draw)
    with pytest.raises(SystemExit) as end:
        app(["ioi", "--layer", "2", "--seed", "7"])
    assert end.value.code == 0 and given == [("ioi", 2, 3, 7)]


def test_a_group_stays_as_it_was_given():
    sample = options.Sample(count=3)
    with pytest.raises(AttributeError, match="count of Sample cannot be set"):
        sample.count = 4
    assert sample.worded(count="Pairs.").count == 3 and sample.words == {}
    with pytest.raises(TypeError, match="Sample has no option cuont"):
        sample.worded(cuont="Pairs.")
    with pytest.raises(TypeError, match="Sample has the options"):
        options.Sample(cuont=3)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(("command", "option"), RETIRED)
def test_a_retired_spelling_is_answered_with_the_new_one(capsys, command, option):
    new = RETIRED[command, option]
    err = refused(capsys, command, "a prompt", option, "1", "--model", "nowhere/a-model")
    assert err == f"caseback: {option} of {command} is now {new.split()[0]}: caseback {command} ... {new}\n"
    known = spellings(COMMANDS[command])
    assert option not in known and new.split()[0] in known
    changed = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"`{command} {option}`[^\n]*`{new.split()[0]}`", changed)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--save", "page.html"), "--html page.html writes it"),
        (("--kind", "tuned", "--fit", "corpus.txt", "--lens", "new.safetensors"), "--save new.safetensors writes it"),
        (("--kind", "tuned", "--lens", "a.safetensors", "--save", "b.safetensors"), "--fit fits"),
        (("--save", "lens.safetensors"), "the logit lens is not fitted"),
        (("--save", "no/where/lens.safetensors"), "there is no folder"),
    ],
)
def test_a_spelling_that_means_something_else_now_says_so(capsys, arguments, says):
    assert says in refused(capsys, "lens", "a prompt", "--model", "nowhere/a-model", *arguments)


def test_an_option_that_never_was_is_not_taken_for_a_retired_one(capsys):
    assert "No such option" in refused(capsys, "explain", "a prompt", "--save", "x")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_the_docs_use_options_that_there_are(page):
    path = ROOT / page if (ROOT / page).is_file() else ROOT / "docs" / page
    for call in re.findall(r"caseback ([a-z]+)((?: [^`\n;#|]*)?)", path.read_text(encoding="utf-8")):
        command = COMMANDS.get(call[0])
        if command is not None:
            known = spellings(command) | {"--no-" + flag[2:] for flag in spellings(command)}
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", call[1])) <= known, call


@pytest.mark.parametrize("command", ["circuit", "align"])
def test_one_prompt_cannot_be_searched_on_and_judged_on(capsys, command):
    assert "--count 1: expected at least 2" in refused(capsys, command, "ioi", "--count", "1")


def test_techniques_of_one_role(capsys):
    with pytest.raises(SystemExit):
        cli.main(["techniques", "--role", "detector"])
    out = capsys.readouterr().out
    assert "find_ioi_heads" in out and "integrated_gradients" not in out
    assert "circuit finder" in refused(capsys, "techniques", "--role", "circuit findr")


def test_the_methods_of_influence_are_those_of_the_registry(capsys):
    with pytest.raises(SystemExit):
        cli.main(["influence", "--list"])
    words = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert {"ekfac", "kfac", "fisher", "gauss_newton", "trak", "tracin", "datainf", "cosine", "dot", "bm25"} <= {*words}
    assert "representation" in words and "simfluence" not in words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rates", "0.1"), "--rates with --method ekfac: only tracin takes it"),
        (("--dim", "8"), "it projects nothing"),
        (("--method", "bm25", "--rank", "4"), "--rank with --method bm25"),
    ],
)
def test_influence_refuses_what_its_method_would_ignore(capsys, tmp_path, arguments, says):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Mary went to the store.\n", encoding="utf-8")
    assert says in refused(capsys, "influence", "Mary went", "--corpus", str(corpus), *arguments)
