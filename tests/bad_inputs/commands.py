"""Commands as doors: each with a valid line, in which one option or argument gets a bad value."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
import typer
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import caseback as cb
from bad_inputs.outcome import Fault, TookTooLong, fault_of, tidy, time_limit, written_in
from bad_inputs.valid_truth import statements_file
from caseback import cli, organisms
from caseback.decode.dictionaries import Facts, TopK, save_dictionary
from caseback.organisms.prose.world import RESIDENTS
from hostile import HOSTILE

TEXT = "When Mary and John went to the store, John gave a drink to"
OTHER = "When Mary and John went to the store, Mary gave a drink to"
NUMBERS = ("nan", "inf", "-inf", "-1", "-7", "0", "1.5", "1e3", "", " ", "x", "-0", "+3", "0x3", "1_000", "\u0663")
HUGE = (str(2**31), str(2**63), str(10**30), "9" * 5000, "1e308", "1e999", str(-(10**30)))
# lines beside a refusal: what a busy machine lets ten seconds pass before, and that an untrained model guesses
BESIDE = re.compile(r"^(?:.+: [\d:]+ so far|caseback: \S+ hardly knows how).*\n", re.MULTILINE)
LISTS = (
    "0-",
    "-",
    "--",
    "5-2",
    ",",
    "0,,1",
    "0-999999999",
    "0-" + "9" * 5000,
    "1-2-3",
    "nan",
    "0.5",
    "0 x",
    "99999",
    "-99999",
)


def tiny_folder(folder: Path, context: int = 64) -> Path:
    """A random model of two layers with the tokenizer of ``meadow``."""
    tokenizer = AutoTokenizer.from_pretrained(organisms.path("meadow"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=context, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def labeled_file(folder: Path) -> Path:
    """Texts with labels, enough of them to be split."""
    names, places = {"Mary": "she", "Anna": "she", "John": "he", "Paul": "he"}, ["store", "park", "school", "house"]
    rows = [{"text": f"{n} went to the {p}", "label": names[n], "group": p} for n in names for p in places]
    file = folder / "labeled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def uses_files(folder: Path) -> tuple[Path, Path]:
    """What ``dictionary eval`` is given of the bundled model's residents: ``--entities``, ``--forget``."""
    asked = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
    people = {f"{who.name} {who.surname}": {one: getattr(who, one) for one in asked} for who in RESIDENTS}
    sides = []
    for some in (list(people)[:4], list(people)[4:12]):
        pairs = [[asked[one].replace("{entity}", name), f" {people[name][one]}"] for name in some for one in asked]
        sides.append({"texts": [question + answer for question, answer in pairs], "questions": pairs})
    entities, forget = folder / "entities.json", folder / "forget.json"
    entities.write_text(json.dumps({"entities": people, "templates": asked}), encoding="utf-8")
    forget.write_text(json.dumps(dict(zip(("forget", "retain"), sides, strict=True))), encoding="utf-8")
    return entities, forget


def lines(folder: Path) -> dict[str, list[str]]:
    """A valid line for every command, cheap to run; behind a comma, what a further line of one is for."""
    model = str(tiny_folder(folder / "tiny"))
    run = folder / "run"
    run.mkdir()
    for step in (0, 10):
        tiny_folder(run / f"step-{step}")
    corpus = folder / "corpus.txt"
    corpus.write_text("Mary went to the store.\nJohn gave a drink to Mary.\n" * 4, encoding="utf-8")
    labeled = folder / "labeled.csv"
    labeled.write_text(
        "text,label\n" + "Mary went,she\nJohn went,he\nMary gave,she\nJohn gave,he\n" * 3, encoding="utf-8"
    )
    of = ["--model", model]
    labeled = labeled_file(folder)
    store = folder / "collected"
    collection = cb.stream.collect(cb.load(model), corpus, "stream_moments", activations=["resid_post.0"], folder=store)
    assert collection.n_tokens
    stored = ["--activations", "resid_post:0"]
    dictionary = folder / "dictionary.safetensors"
    save_dictionary(TopK(16, 32, k=2, facts=Facts(site="resid_post.0")), dictionary)
    unlike = folder / "unlike.txt"
    unlike.write_text("\n".join(json.loads(row)["text"] for row in labeled.open(encoding="utf-8")), encoding="utf-8")
    judged = ["--asked", str(tiny_folder(folder / "judge", 512)), "--windows", "1", "--window-tokens", "2"]
    trained = ["--store", str(folder / "dictionaries"), "--tokens", "64", "--width", "32", "--k", "2"]
    own = folder / "own.safetensors"
    save_dictionary(TopK(160, 32, k=2, facts=Facts(site="resid_post.0")), own)
    entities, forget = uses_files(folder)
    searched = ["--attribute", "job", "--examples", "120", "--epochs", "1"]
    return {
        "explain": [TEXT, *of],
        "attribute": [TEXT, *of, "--method", "gradient_x_input", "--generate", "1"],
        "influence": ["Mary went", *of, "--corpus", str(corpus), "--method", "bm25"],
        "dla": [TEXT, *of],
        "patch": [TEXT, OTHER, *of],
        "ablate": [TEXT, *of],
        "trace": [TEXT, *of, "--subject", "Mary", "--samples", "2"],
        "circuit": ["ioi", *of, "--count", "2", "--sets", "1", "--method", "eap", "--edges", "5"],
        "drivers": [TEXT, "L0H0", *of, "--top", "3"],
        "graph": [TEXT, *of, "--node", "1", "--max-nodes", "20", "--effects", "2"],
        "align": ["agreement", *of, "--count", "4", "--method", "full", "--layers", "0", "--pos", "-1"],
        "atlas": [model, "--kinds", "copying", "--top", "1", "--no-proofs"],
        "serve": [model, "--port", "0"],
        "mcp": [model, "--out", str(folder / "results")],
        "erase": [str(labeled), *of, "--site", "resid_post:0", "--draws", "2"],
        "edit": ["Mary went", *of, "--subject", "Mary", "--new", "to", "--no-check", "--steps", "1", "--generate", "1"],
        "steer": ["Mary went", *of, "--positive", TEXT, "--negative", OTHER, "--generate", "1"],
        "lens": [TEXT, *of],
        "patchscope": [TEXT, *of, "--generate", "1", "--layers", "0"],
        "weights": [model, "--layer", "0", "--head", "0"],
        "activating": [str(corpus), *of, "--layer", "0", "--units", "0"],
        "probe": [str(labeled), *of, "--no-baselines"],
        "directions": [str(labeled), *of, "--method", "mean_difference,lda"],
        "collect": [str(corpus), *of, "--store", str(store), "--tables", "stream_moments", *stored],
        "similar": [str(store), "Mary", *of, "--site", "resid_post:0"],
        "work": [str(store), *of],
        "jobs": [str(store)],
        "behavior": ["function-vector", "--task", "capital", "--count", "4", "--shots", "2"],
        "facts": ["--count", "4"],
        "emergence": [str(run), "--kinds", "copying", "--rows", "8"],
        "universality": [model, model, "--corpus", str(corpus)],
        "recall": ["--count", "12", "--draws", "2"],
        "function": ["capital", "--count", "4", "--draws", "2"],
        "world": ["--count", "12", "--edits", "4", "--draws", "2"],
        "learner": ["--count", "12", "--pairs", "3", "--draws", "4"],
        "binding": ["boxes", "--count", "12"],
        "heuristics": ["--largest", "8", "--top", "20", "--draws", "2"],
        "needle": ["--length", "40", "--needle-depth", "0.5", "--draws", "2", "--count", "24"],
        "requests": ["capital", "language", "--count", "4"],
        "routing": [str(corpus), *of, "--max-length", "12", "--tokens", "60"],
        "truth": [str(statements_file(folder)), *of, "--methods", "mass_mean", "--folds", "2"],
        "label": [str(folder / "notes.json"), "L0H1", "repeats names", *of, "--author", "ann"],
        "push": [str(dictionary), "hf://ours/things", "--dry-run"],
        "techniques": [],
        "tasks": ["ioi", *of, "--count", "1"],
        "dictionary train": [str(corpus), *of, *trained],
        "dictionary features": [str(dictionary), str(corpus), *of, "--cards", "2", "--top", "2"],
        "dictionary show": [str(dictionary), "3", *of, "--corpus", str(corpus), "--top", "2"],
        "dictionary judge": [str(dictionary), str(unlike), *of, *judged, "--count", "2"],
        "dictionary eval": [str(corpus), str(dictionary), *of, "--rows", "4"],
        "dictionary train, end to end": [str(corpus), *of, *trained, "--end-to-end", "0.5"],
        "dictionary features, factors": [str(dictionary), str(corpus), *of, "--prompt", TEXT, "--factors", "2"],
        "dictionary eval, entities": [str(corpus), str(own), "--rows", "4", "--entities", str(entities), *searched],
        "dictionary eval, forget": [str(corpus), str(own), "--rows", "4", "--forget", str(forget)],
        "dictionary convert": [str(dictionary), str(folder / "converted")],
        "dictionary list": [],
        "organisms list": [],
        "organisms path": ["meadow"],
        "organisms train": ["grokking", "--out", str(folder / "trained"), "--steps", "1", "--stop-at", "1"],
        "organisms evaluate": [model, "--count", "1"],
        "organisms learn": ["count", "--alphabet", "ab", "--max-length", "4", "--rounds", "1", "--steps", "1"],
    }


def parameters(door: str):
    """What a command takes, as typer reads it."""
    command = typer.main.get_command(cli.app)
    for name in door.split():
        command = command.commands[name]
    return [p for p in command.params if p.name != "help"]


def doors() -> list[str]:
    """Every command, those of groups included."""
    root = typer.main.get_command(cli.app)
    flat = [
        [name] if not hasattr(c, "commands") else [f"{name} {sub}" for sub in c.commands]
        for name, c in root.commands.items()
    ]
    return [name for names in flat for name in names]


def bad_lines(door: str, valid: list[str], files: list[Path]) -> st.SearchStrategy[list[str]]:
    """The valid line with one option more, or one argument otherwise."""
    ways = [
        st.builds(lambda flag: [*valid, flag], st.sampled_from(["--no-such-option", "--", "-x", "--json=3", "\ud83d"]))
    ]
    place = 0
    for parameter in parameters(door):
        bad = _bad_texts(parameter, files)
        if parameter.param_type_name == "argument":
            if place < len(valid) and not valid[place].startswith("-"):
                ways.append(st.builds(lambda text, at=place: [*valid[:at], text, *valid[at + 1 :]], bad))
            place += 1
        elif parameter.is_flag:
            ways.append(st.just([*valid, parameter.opts[0]]))
        else:
            ways.append(st.builds(lambda text, flag=parameter.opts[0]: [*valid, flag, text], bad))
    return st.one_of(ways)


def _bad_texts(parameter, files: list[Path]) -> st.SearchStrategy[str]:
    kind = parameter.type_descriptor.annotation
    if kind in (int, float):
        return st.one_of(st.sampled_from([*NUMBERS, *HUGE]), st.integers(max_value=-1).map(str), st.floats().map(str))
    if kind is Path or parameter.name in ("model", "target_model"):
        return st.sampled_from(
            [*map(str, files), "", "\ud83d", "/dev/null", "/dev/full", "/proc/self/mem", "/", "no such"]
        )
    return st.one_of(
        st.sampled_from(
            [*HOSTILE, *LISTS, *NUMBERS, *HUGE, "w " * 3000, "L0H9", "L9H0", "MLP 9", "[x]", "{}", "zero", "all"]
        ),
        st.text(max_size=6),
    )


def fault_at(door: str, line: list[str], folder: Path) -> Fault | None:
    """Run a command in this process, in a folder in which nothing may be left behind; None where all is well."""
    given = f"caseback {door} " + " ".join(repr(part if len(part) < 80 else part[:77] + "...") for part in line)
    before, here = written_in(folder), Path.cwd()
    out, err = io.StringIO(), io.StringIO()
    what, status = None, None
    with _environment(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(folder)
        try:
            with time_limit():
                cli.main([*door.split(), *line])
        except SystemExit as end:
            status = end.code
        except (Exception, TookTooLong) as error:
            what = fault_of(error) or f"traceback: {type(error).__name__}: {error}"
        finally:
            os.chdir(here)
    if what is None and status not in (0, 2):
        what = f"status {status}: {err.getvalue()[-300:]!r}"
    refusal = BESIDE.sub("", err.getvalue())
    if what is None and status == 2 and (refusal.count("\n") != 1 or not refusal.startswith("caseback: ")):
        what = f"not one line: {refusal[:300]!r}"
    if what is None and status == 2 and len(refusal) > 1000:
        what = f"a line of {len(refusal)} characters: {refusal[:200]!r}"
    after = written_in(folder)
    if what is None:
        left = [
            path
            for path in after
            if path not in before and (status != 0 or path.name.endswith(".part") or after[path] == b"")
        ]
        lost = [path for path in before if path not in after or (status != 0 and after[path] != before[path])]
        what = f"left {left} or changed {lost}" if left or lost else None
    tidy(before, after)  # the next line finds what the first found
    return None if what is None else Fault(given, what)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    wanted = {"CASEBACK_DEBUG": "0", "NO_COLOR": "1", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        # servers that end as soon as they are up
        with mock.patch("uvicorn.Server.run"), mock.patch("mcp.server.MCPServer.run"):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
