"""Every command that works for long says so where standard error is no terminal: what, how many of how many, how long still."""

import re

import pytest

from bad_inputs.commands import labeled_file, tiny_folder, uses_files
from caseback import cli
from caseback.cli.dictionaries.group import dictionary
from caseback.cli.listing.organisms import organisms
from caseback.decode.dictionaries import Facts, TopK, save_dictionary
from caseback.jobs import progress

pytestmark = pytest.mark.usefixtures("plain")

PROMPT = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Mary and John went to the store, Mary gave a drink to"
COUNTED = {
    "explain": ["explain", PROMPT],
    "attribute": ["attribute", PROMPT, "--method", "integrated_gradients,occlusion"],
    "influence": ["influence", PROMPT, "--corpus", "CORPUS", "--method", "tracin"],
    "patch": ["patch", PROMPT, OTHER],
    "ablate": ["ablate", PROMPT],
    "trace": ["trace", PROMPT, "--subject", "Mary", "--samples", "2", "--layers", "1"],
    "circuit": ["circuit", "agreement", "--method", "eap", "--edges", "60", "--count", "2"],
    "align": ["align", "agreement", "--count", "4", "--layers", "2", "--pos=-1", "--epochs", "1", "--held-out", "0.5"],
    "atlas": ["atlas", "meadow", "--kinds", "induction", "--top", "1"],
    "erase": ["erase", "LABELED", "--site", "resid_post:1", "--draws", "2"],
    "edit": ["edit", "The capital of {} is", "--subject", "Italy", "--new", "Oslo", "--layers", "1"],
    "steer": ["steer", PROMPT, "--positive", "the dog was happy", "--negative", "the dog was sad"],
    "lens": ["lens", PROMPT, "--kind", "tuned", "--fit", "CORPUS", "--steps", "2"],
    "patchscope": ["patchscope", PROMPT],
    "activating": ["activating", "CORPUS", "--layer", "1"],
    "probe": ["probe", "LABELED"],
    "directions": ["directions", "LABELED"],
    "collect": ["collect", "CORPUS", "--store", "FOLDER", "--tables", "stream_moments"],
    "behavior": ["behavior", "induction", "--count", "4"],
    "facts": ["facts", "--count", "4"],
    "emergence": ["emergence", "grokking", "--kinds", "copying", "--rows", "8"],
    "universality": ["universality", "meadow", "meadow", "--corpus", "CORPUS"],
    "recall": ["recall", "--count", "12"],
    "world": ["world", "--count", "12", "--edits", "4"],
    "function": ["function", "capital", "--count", "4"],
    "binding": ["binding", "--count", "16"],
    "heuristics": ["heuristics", "--largest", "8", "--top", "20", "--draws", "2"],
    "needle": ["needle", "--length", "60", "--needle-depth", "0", "--needle-depth", "1", "--draws", "2"],
    "requests": ["requests", "capital", "language", "--count", "4"],
    "routing": ["routing", "CORPUS", "--max-length", "12"],
    "truth": ["truth", "--count", "4", "--methods", "mass_mean"],
    "evaluate": ["organisms", "evaluate", "--count", "2"],
    "learn": ["organisms", "learn", "count", "--alphabet", "ab", "--max-length", "4", "--rounds", "1", "--steps", "2"],
    "train": ["organisms", "train", "meadow", "--out", "FOLDER", "--steps", "2"],
    "dictionary train": ["dictionary", "train", "CORPUS", "--store", "FOLDER", "--tokens", "99", "--width", "64"],
    "dictionary evaluate": ["dictionary", "eval", "CORPUS", "DICTIONARY"],
    "dictionary judge": [
        *("dictionary", "judge", "DICTIONARY", "CORPUS", "--asked", "JUDGE", "--count", "2", "--windows", "2"),
        *("--window-tokens", "3"),
    ],
    "dictionary features": ["dictionary", "features", "DICTIONARY", "CORPUS", "--cards", "2"],
    "dictionary show": ["dictionary", "show", "DICTIONARY", "3", "-m", "meadow", "--corpus", "CORPUS"],
}
# further ways of some, behind a comma
FURTHER = {
    "dictionary train, end to end": [
        *("dictionary", "train", "CORPUS", "--store", "FOLDER", "--tokens", "99", "--width", "64"),
        *("--end-to-end", "1"),
    ],
    "dictionary evaluate, entities": [
        *("dictionary", "eval", "CORPUS", "DICTIONARY", "--entities", "ENTITIES", "--attribute", "job"),
        *("--examples", "120", "--epochs", "1"),
    ],
    "dictionary evaluate, forget": ["dictionary", "eval", "CORPUS", "DICTIONARY", "--forget", "FORGET"],
    "dictionary features, factors": [
        *("dictionary", "features", "DICTIONARY", "CORPUS", "--cards", "2", "--prompt", PROMPT, "--factors", "2"),
    ],
}
# what makes a run or two, or lists what is there: the heartbeat alone goes with them
SHORT = {
    "dla": ["dla", PROMPT],
    "drivers": ["drivers", PROMPT, "L0H0"],
    "graph": ["graph", PROMPT],
    "learner": ["learner", "--count", "12"],
    "weights": ["weights", "meadow", "--layer", "1", "--head", "0"],
    "label": ["label", "FOLDER", "L1H0", "a head"],
}
NO_MODEL = {"push", "techniques", "tasks", "list_", "path_", "dictionary convert", "dictionary listing"}
OF_A_JOB = {"similar", "work", "jobs"}  # begun by collect: test_stream_commands
UNTIL_INTERRUPTED = {"serve", "mcp"}  # what they show goes to their clients: tests/server


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(["the cat and the dog", "Mary gave a drink to John", "the key is on the table"] * 4))
    return file


def run(capsys, arguments, corpus):
    labeled = labeled_file(corpus.parent)
    file = corpus.parent / "dictionary.safetensors"
    save_dictionary(TopK(160, 320, k=4, facts=Facts(site="resid_post.1")), file)
    folder = str(corpus.parent / "trained")
    places = {"CORPUS": str(corpus), "LABELED": str(labeled), "FOLDER": folder, "DICTIONARY": str(file)}
    if not {"ENTITIES", "FORGET"}.isdisjoint(arguments):
        places |= dict(zip(("ENTITIES", "FORGET"), map(str, uses_files(corpus.parent)), strict=True))
    if "JUDGE" in arguments:
        places["JUDGE"] = str(tiny_folder(corpus.parent / "judge", 512))
    with pytest.raises(SystemExit) as ended:
        cli.main([places.get(word, word) for word in arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.err


def test_every_command_is_here():
    commands = {c.__name__ for c in cli.COMMANDS} | {c.callback.__name__ for c in organisms.registered_commands}
    commands |= {f"dictionary {c.callback.__name__}" for c in dictionary.registered_commands}
    assert commands == {*COUNTED, *SHORT, *NO_MODEL, *OF_A_JOB, *UNTIL_INTERRUPTED}


@pytest.mark.parametrize("name", [*COUNTED, *FURTHER])
def test_a_command_counts_what_it_does(name, capsys, corpus, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 1e-9)
    monkeypatch.setattr(progress, "_beat", lambda what, over: None)
    err = run(capsys, {**COUNTED, **FURTHER}[name], corpus)
    counted = re.findall(r"^[^:\n]+: (\S+)(?: of (\S+))?, \d\d:\d\d so far(?:, about \S+ left)?$", err, re.MULTILINE)
    assert counted, err
    assert name != "explain" or "explain: 2 of 6" in err
    # a corpus is read without knowing where it ends; everything else says how many there are
    assert name.partition(",")[0] in (
        "activating",
        "influence",
        "lens",
        "dictionary features",
        "dictionary show",
    ) or any(of for _, of in counted), err


@pytest.mark.parametrize("name", [*COUNTED, *SHORT])
def test_a_command_works_inside_the_heartbeat(name, capsys, corpus, monkeypatch):
    begun = []
    monkeypatch.setattr(progress, "_beat", lambda what, over: begun.append(what))
    run(capsys, {**COUNTED, **SHORT}[name], corpus)
    assert "working" in begun
