"""``caseback circuit``: found, judged, saved, drawn, compared; one line for what cannot be done."""

import json

import pytest

from caseback import cli
from caseback.model.circuit import Circuit
from caseback.model.graph.attribution_graph import load_attribution_graph

pytestmark = pytest.mark.usefixtures("plain")

SHORT = "--count", "3", "--sets", "1"
FULL = *SHORT, "--judge", "full"


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["circuit", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_a_circuit_is_found_judged_saved_drawn_and_compared(capsys, tmp_path):
    files = {name: tmp_path / f"c.{name}" for name in ("json", "html", "graphml")}
    graph = tmp_path / "graph.json"
    wrote = [f for name in ("html", "graphml") for f in (f"--{name}", str(files[name]))]
    status, out, err = answer(
        capsys, "agreement", "--edges", "60", *FULL, "--save", str(files["json"]), "--graph", str(graph), *wrote
    )
    *judgements, written, fewer = err.splitlines()
    judged = [line.partition(":")[0] for line in judgements]
    criteria = ["resample ablation", "mean ablation", "zero ablation", "completeness", "minimality"]
    saved = Circuit.load(files["json"])
    assert (status, judged) == (0, criteria) and written == f"written to {files['html']}"
    assert len(saved) < 60 and fewer.startswith(f"caseback: {len(saved)} of the 60 edges asked for are on a path")
    assert f"{len(saved)} of 685 edges" in out and "by eap-ig" in out and "completeness" in out and "CPR" in out
    assert 0 < len(saved) <= 60 and saved.about["task"] == "agreement"
    assert load_attribution_graph(graph) == saved
    assert "Which components, along which edges" in files["html"].read_text(encoding="utf-8")
    assert "<graphml" in files["graphml"].read_text(encoding="utf-8")
    status, out, err = answer(
        capsys, "agreement", "--load", str(files["json"]), "--compare", str(files["json"]), *SHORT, "--json"
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["other"]["iou_edges"] == 1.0 and told["size"]["edges"] == len(saved)
    assert [row["ablation"] for row in told["judgement"]["faithfulness"]] == ["resample"]
    assert list(told["judgement"]["left_out"]) == [
        "mean ablation",
        "zero ablation",
        "completeness",
        "curve",
        "minimality",
    ]


def test_an_interrupt_while_more_is_judged_still_gives_what_was(capsys, tmp_path, monkeypatch):
    from caseback.localize.circuits import judging

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "completeness", stop)
    file = tmp_path / "c.json"
    status, out, err = answer(capsys, "agreement", "--edges", "60", *FULL, "--save", str(file))
    assert status == 130 and err.splitlines()[-1] == "caseback: interrupted"
    assert "completeness (interrupted)" in out and Circuit.load(file).edges
    assert [word for word in ("resample", "mean", "zero") if f"\n {word} " in out] == ["resample", "mean", "zero"]


@pytest.mark.slow
def test_methods_and_organisms_are_tabled(capsys, tmp_path):
    status, out, err = answer(capsys, "--list")
    assert status == 0 and "eap-ig " in out and "acdc" in out and "(steps=5)" in out
    status, out, err = answer(capsys, "previous_token", "--organisms", "--json")
    assert status == 0 and json.loads(out)[0]["auroc"]["exact, zero"] == 1.0
    page = tmp_path / "known.md"
    status, out, err = answer(capsys, "previous_token", "--organisms", "--markdown", str(page))
    assert "| previous_token | 4/13" in page.read_text(encoding="utf-8") and err == f"written to {page}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no task given"),
        (["ioi", "relation"], "2 tasks given"),
        (["iou"], "no task is called 'iou'"),
        (["ioi", "--edges", "0"], "at least one edge"),
        (["ioi", "--edges", "0.0"], "a share between 0 and 1"),
        (["ioi", "--edges", "many"], "--edges 'many': expected a number"),
        (["ioi", "--edges", "nan"], "--edges 'nan': expected a number"),
        (["ioi", "--edges", "-inf"], "--edges '-inf': expected a number"),
        (["ioi", "--edges", "1e400"], "--edges '1e400': expected a number"),
        (["ioi", "--edges", "1e30"], "asked for: expected a whole number from 1 to"),
        (["ioi", "--judge", "all"], "--judge 'all': expected faithfulness, full, or seconds such as 120"),
        (["ioi", "--judge", "nan"], "expected faithfulness, full, or seconds"),
        (["ioi", "--judge", "-3"], "expected faithfulness, full, or seconds"),
        (["ioi", "--method", "magic"], "no method is called 'magic'"),
        (["ioi", "--load", "nowhere.json"], "cannot be read as a circuit"),
        (["ioi", "--html", "no/where.html"], "there is no folder"),
        (["ioi", "--frontier", "--html", "page.html"], "give no circuit of a task"),
        (["--organisms", "--save", "c.json"], "give no circuit of a task"),
        (["ioi", "--markdown", "table.md"], "for the tables of --organisms, --frontier and --transfer"),
        (["ioi", "--transfer"], "--transfer of ioi alone: expected two tasks or more"),
        (["ioi", "relation", "--transfer", "--load", "c.json"], "--load"),
        (["ioi", "relation", "--transfer", "--nodes", "neurons"], "--transfer is of circuits of heads and MLPs"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, says):
    status, out, err = answer(capsys, *arguments, *(SHORT if arguments else ()))
    assert status == 2 and out == "" and err.startswith("caseback: ") and err.count("\n") == 1 and says in err


def test_circuits_on_other_tasks_are_tabled_for_people_and_for_machines(capsys, tmp_path):
    asked = ["ioi", "relation", "--transfer", *SHORT]
    status, out, err = answer(capsys, *asked)
    assert (status, err) == (0, "") and "**Recovered of each task, by eap" in out and "| relation " in out
    data = json.loads(answer(capsys, *asked, "--json")[1])
    assert [task["name"] for task in data["tasks"]] == ["ioi", "relation"]
    assert [on["task"] for on in data["tasks"][0]["on"]] == ["ioi", "relation"]
    assert f"| {data['tasks'][1]['edges']}/685" in out
    path = tmp_path / "table.md"
    assert answer(capsys, *asked, "--markdown", str(path))[0] == 0
    assert out.strip() in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_frontier_is_tabled_for_people_and_for_machines(capsys):
    status, out, err = answer(capsys, "ioi", "--frontier", *SHORT)
    assert (status, err) == (0, "") and "**ioi** (logit_diff: " in out and "| eap-ig " in out
    status, out, err = answer(capsys, "ioi", "--frontier", *SHORT, "--json")
    curves = json.loads(out)["tasks"]["ioi"]
    assert status == 0 and [curve["method"] for curve in curves][:2] == ["eap", "eap-ig"]
    assert all(curve["total"] == 685 and "circuit" not in curve for curve in curves)
