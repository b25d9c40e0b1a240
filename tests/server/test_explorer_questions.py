"""The explorer's questions of features, directions, tables, attention and patching: what the functions give by hand."""

import json

import pytest
import torch
from asking import PROMPT, ended
from fastapi.testclient import TestClient

import caseback as cb
from caseback.decode.dictionaries import Facts, TopK, features_on, save_dictionary
from caseback.decode.directions import save_directions
from caseback.errors import CasebackError
from caseback.jobs.budget import override
from caseback.localize.components.patching import patch
from caseback.reports.quick.prediction import prediction
from caseback.reports.quick.table import table_of_records, table_of_task
from caseback.server.app import explorer
from caseback.server.serving import served
from caseback.server.shelf import Shelf, names_of, standing
from explorer_shelf import NAMES, shelf_of

OTHER = "When Mary and John went to the store, Mary gave a drink to"


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def shelf(model):
    return shelf_of(model)


@pytest.fixture(scope="module")
def client(model, shelf):
    with TestClient(explorer(model, shelf=shelf), base_url="http://127.0.0.1") as client:
        yield client


def asked(client, name, **form):
    answer = client.post(f"/api/ask/{name}", json=form)
    if answer.status_code == 202:
        return ended(client, answer.json()["job"])
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_feature_that_is_turned_is_the_edit_of_its_site(client, model, shelf):
    change = {"part": "feature", "dictionary": "words", "unit": 0, "factor": 0}
    document = asked(client, "prediction", prompt=PROMPT, changes=[change])
    # the server's site by that name is there while it runs
    by_hand = prediction(model, PROMPT, edits=cb.Scale("words", 0.0, layer=2, unit=0))
    assert document == by_hand
    assert document["predictions"] != prediction(model, PROMPT)["predictions"]


def test_a_direction_is_added_as_steering_adds_it(client, model, shelf):
    change = {"part": "direction", "direction": "she", "place": "resid_post.2", "strength": -1.5}
    document = asked(client, "prediction", prompt=PROMPT, changes=[change])
    by_hand = shelf.directions["she"].at("resid_post.2").edits(-1.5)
    assert document == prediction(model, PROMPT, edits=by_hand)
    nothing = asked(client, "prediction", prompt=PROMPT, changes=[{**change, "strength": 0}])
    assert all(row["prob"] == pytest.approx(row["before"], rel=1e-6) for row in nothing["predictions"])


def test_features_of_a_prompt_are_those_of_the_dictionary_with_the_words_they_write(client, model, shelf):
    document = asked(client, "features", prompt=PROMPT, dictionary="words", top=50)
    found = features_on(model, shelf.dictionaries["words"], PROMPT, top=50).isel(batch=0)
    assert document["counts"] == found.active.values.tolist()
    assert [row["feature"] for row in document["active"][-1]] == [i for i in found.feature.values[-1] if i >= 0]
    for i, name in enumerate(NAMES):
        if str(i) in document["words"]:
            assert document["words"][str(i)]["up"][0] == name.replace(" ", "␣")
    assert {"0", "1"} & set(document["words"])


def test_features_are_those_under_the_changes(client):
    change = {"part": "mlp", "layer": 1, "factor": 0}
    plain, without = (
        asked(client, "features", prompt=PROMPT, dictionary="words", top=50, changes=changes)
        for changes in ([], [change])
    )
    fires = [{row["feature"] for row in rows} for rows in plain["active"]]
    assert any(0 in row for row in fires)
    assert plain["active"] != without["active"]


def test_a_table_of_a_task_has_the_tasks_own_metric_in_one_pass(client, model, monkeypatch):
    document = asked(client, "table", task="ioi", count=12, seed=3)
    prompts = cb.tasks.ioi().prompts(model, 12, seed=3)
    by_hand = prompts.metric(model.run(prompts.clean)).tolist()
    assert [row["value"] for row in document["rows"]] == pytest.approx(by_hand, abs=1e-4)
    assert document["measure"] == "logit_diff"
    assert all(row["value"] == row["before"] for row in document["rows"])
    calls = []
    forward = model.hf.forward
    monkeypatch.setattr(model.hf, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    table_of_task(model, "ioi", 12, seed=3)
    assert len(calls) == 1


def test_a_table_is_measured_under_the_changes(client, model):
    change = {"part": "mlp", "layer": 3, "factor": 0}
    document = asked(client, "table", task="ioi", count=6, changes=[change])
    prompts = cb.tasks.ioi().prompts(model, 6)
    by_hand = prompts.metric(model.run(prompts.clean, edits=cb.Scale("mlp_out", 0.0, layer=3))).tolist()
    assert [row["value"] for row in document["rows"]] == pytest.approx(by_hand, abs=1e-4)
    assert any(row["value"] != row["before"] for row in document["rows"])


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


def test_a_table_of_lines_has_their_columns_and_their_metric(client, model):
    rows = [
        {"prompt": PROMPT, "target": " Mary", "foil": " John", "order": "ABBA", "number": 2, "long": "x" * 200},
        {"prompt": "Mary and John went to the", "target": " store", "foil": " park"},
    ]
    document = asked(client, "table", lines=lines(*rows))
    metric = cb.logit_diff([" Mary", " store"], [" John", " park"])
    by_hand = metric(model.run([row["prompt"] for row in rows])).tolist()
    assert [row["value"] for row in document["rows"]] == pytest.approx(by_hand, abs=1e-4)
    assert document["columns"] == ["number", "order"]
    assert document["rows"][0]["slices"] == {"order": "ABBA", "number": "2"}
    assert table_of_records(model, lines({"text": "Mary went to the", "answer": " store"}))["measure"] == "log_prob"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "no row"),
        ("\n \n", "no row"),
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is no object"),
        (lines({"prompt": "a", "target": " store"}, {"prompt": "b"}), "line 2 has no text as target or answer"),
        (lines({"prompt": 3, "target": " store"}), "line 1 has no text as prompt"),
        (lines({"prompt": "a", "target": " b", "corupt": "c"}), "field 'corupt': did you mean 'corrupt'"),
        (lines({"prompt": "a", "target": " b", "foils": " c"}), "field 'foils': did you mean 'foil'"),
        (lines({"prompt": "Mary", "target": " no one token"}), "not one"),
        (lines({"prompt": "Mary " * 500, "target": " store"}), "context is 128"),
        ("[" * 5000, "line 1 is not JSON"),
    ],
)
def test_lines_that_are_no_table_are_refused_by_their_number(model, given, words):
    with pytest.raises(CasebackError, match=words):
        table_of_records(model, given)


def test_tables_are_bounded(model):
    row = {"prompt": "Mary went", "target": " store"}
    with override(server_table_rows=2), pytest.raises(CasebackError, match="2 at most"):
        table_of_records(model, lines(row, row, row))
    with override(server_table_tokens=5), pytest.raises(CasebackError, match="5 at most"):
        table_of_records(model, lines(row, row))


def test_attention_is_that_of_the_layer_under_the_changes(client, model):
    change = {"part": "attention", "layer": 0, "factor": 0}
    document = asked(client, "attention", prompt=PROMPT, layer=2, changes=[change])
    run = model.run(PROMPT, read=[("pattern", 2)], edits=cb.Scale("attn_out", 0.0, layer=0))
    assert torch.tensor(document["patterns"]) == pytest.approx(run["pattern", 2][0], abs=6e-5)
    # beside it the model as it is, and how far apart the two are
    plain = model.run(PROMPT, read=[("pattern", 2)])["pattern", 2][0]
    assert torch.tensor(document["before"]) == pytest.approx(plain, abs=6e-5)
    apart = (run["pattern", 2][0] - plain).abs().sum(-1).mean(-1) / 2
    assert torch.tensor(document["moved"]) == pytest.approx(apart, abs=1e-6)
    assert apart.max() > 0.05
    unchanged = asked(client, "attention", prompt=PROMPT, layer=2)
    assert unchanged["before"] is None and unchanged["patterns"] == document["before"]
    with override(page_pattern_entries=10), pytest.raises(CasebackError, match="at most 10"):
        from caseback.reports.quick.attention import prompt_attention

        prompt_attention(model, PROMPT)


def test_a_graph_is_of_the_transcoders_that_are_named(model):
    where = Facts(site="mlp_norm.1", target="mlp_out.1")
    one = TopK(model.d_model, 64, k=4, seed=1, facts=where)
    with torch.no_grad():
        one.W_dec *= 50  # what it writes is no rounding beside its error
    shelf = Shelf({"transcoder": one})
    form = {"prompt": PROMPT, "target": " Mary", "foil": " John", "max_nodes": 20}
    with TestClient(explorer(model, shelf=shelf), base_url="http://127.0.0.1") as client:
        assert client.get("/api/model").json()["dictionaries"]["facts"]["transcoder"]["transcoder"] is True
        document = asked(client, "graph", dictionaries=["transcoder"], **form)
        of_neurons = asked(client, "graph", **form)
    kinds = [set(one["nodes"]["kind"]) for one in (document, of_neurons)]
    assert "feature" in kinds[0] and "neuron" not in kinds[0]
    assert "neuron" in kinds[1] and "feature" not in kinds[1]


def test_patching_is_the_sweep_of_places(client, model):
    document = asked(client, "patching", prompt=PROMPT, corrupt=OTHER, target=" Mary", foil=" John")
    (stream,) = (one["recovery"] for one in document["patching"]["maps"] if one["site"] == "resid_pre")
    metric = cb.logit_diff(" Mary", " John")
    by_hand = patch(model, PROMPT, OTHER, metric, site="resid_pre", by=("layer", "pos")).recovery.isel(batch=0)
    assert torch.tensor(stream) == pytest.approx(torch.tensor(by_hand.values), abs=1e-6)
    assert document["target"]["text"] == " Mary"


@pytest.mark.parametrize(
    ("name", "form", "status", "words"),
    [
        ("prediction", {"changes": [{"part": "feature", "dictionary": "/etc/passwd", "unit": 0, "factor": 0}]}, 400, "no dictionary"),
        ("prediction", {"changes": [{"part": "feature", "dictionary": "words", "unit": 9999, "factor": 0}]}, 400, "320"),
        ("prediction", {"changes": [{"part": "feature", "unit": 0, "factor": 0}]}, 400, "dictionary"),
        ("prediction", {"changes": [{"part": "direction", "direction": "he", "strength": 1}]}, 400, "she"),
        ("prediction", {"changes": [{"part": "direction", "direction": "she", "factor": 1}]}, 400, "strength"),
        ("prediction", {"changes": [{"part": "direction", "direction": "she", "place": "z.9", "strength": 1}]}, 400, "z.9"),
        ("prediction", {"changes": [{"part": "mlp", "layer": 0, "factor": 0, "dictionary": "words"}]}, 400, "nothing else"),
        ("features", {"dictionary": "none"}, 400, "words"),
        ("features", {"dictionary": "words", "top": 10**6}, 422, "top"),
        ("attention", {"layer": 99}, 400, "99"),
        ("patching", {}, 422, "corrupt"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_name(client, name, form, status, words):
    answer = client.post(f"/api/ask/{name}", json={"prompt": PROMPT, **form})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "give one of them"),
        ({"task": "ioi", "lines": "{}"}, "give one of them"),
        ({"task": "../../etc/passwd"}, "passwd"),
        ({"task": "ioi", "measure": "prob", "count": 2, "changes": [{"part": "mlp", "layer": 99, "factor": 0}]}, "99"),
    ],
)
def test_tables_that_cannot_be_are_refused(client, form, words):
    answer = client.post("/api/ask/table", json=form)
    about = answer.json()
    while about.get("state") in ("waiting", "running"):
        about = client.get(f"/api/jobs/{about['job']}").json()
    assert words in about["error"]


def test_what_there_is_is_told_and_gone_when_the_server_is(model, shelf):
    mine = Shelf({"mine": shelf.dictionaries["words"]}, shelf.directions)
    with TestClient(explorer(model, shelf=mine), base_url="http://127.0.0.1") as client:
        facts = client.get("/api/model").json()
        mine_is = {"site": "resid_post.2", "features": 320, "transcoder": False}
        assert facts["dictionaries"] == {"names": ["mine"], "count": 1, "facts": {"mine": mine_is}}
        assert facts["directions"]["facts"]["she"]["places"] == ["resid_post.1", "resid_post.2"]
        assert facts["remote"]["sites"]["mine"] == [2]
        assert "ioi" in client.get("/").text
    with pytest.raises(CasebackError):
        model.run(PROMPT, read="mine")


def test_of_many_dictionaries_some_are_listed_and_all_are_found(model):
    some = {f"layer_{i:03d}": TopK(model.d_model, 8, k=2, seed=i, facts=Facts(site="resid_post.1")) for i in range(120)}
    with TestClient(explorer(model, shelf=Shelf(some)), base_url="http://127.0.0.1") as client:
        listed = client.get("/api/model").json()["dictionaries"]
        assert listed["count"] == 120 and list(listed["facts"]) == listed["names"] == list(some)[:50]
        found = client.get("/api/shelf/dictionaries?contains=LAYER_11").json()
        assert found["names"] == [f"layer_{i}" for i in range(110, 120)]
        assert found["facts"]["layer_119"] == {"site": "resid_post.1", "features": 8, "transcoder": False}
        last = asked(client, "features", prompt=PROMPT, dictionary="layer_119")["dictionary"]
        assert (last["name"], last["features"]) == ("layer_119", 8)


@pytest.mark.parametrize("name", ["effects", "story", "inputs", "graph"])
def test_what_was_warned_of_is_in_the_answer_and_told_to_all_who_ask(client, name):
    for _ in range(2):
        warned = asked(client, name, prompt=PROMPT, target="Mary")["warnings"]
        assert sum("target 'Mary' has no leading space" in line for line in warned) == 1
    other = asked(client, name, prompt=PROMPT, target=" Mary").get("warnings", [])
    assert not any("leading space" in line for line in other)


def test_two_things_of_one_name_are_refused():
    with pytest.raises(CasebackError, match="both be called 'a_b'"):
        names_of(["a-b", "a_b"])


def test_a_remote_model_has_the_dictionaries_as_sites(model, shelf):
    mine = Shelf({"mine": shelf.dictionaries["words"]})
    edit = cb.Scale("mine", 3.0, layer=2, unit=0)
    with served(model, shelf=mine) as address:
        run = cb.connect(address).run(PROMPT, read="mine", edits=edit)
    with standing(model, mine):
        here = model.run(PROMPT, read="mine", edits=edit)
        assert torch.equal(run["mine", 2], here["mine", 2])
        assert torch.equal(run.logits, here.logits)


def test_the_command_reads_dictionaries_and_directions_from_files(model, shelf, tmp_path, monkeypatch):
    from caseback import cli
    from caseback.server import serving

    save_dictionary(shelf.dictionaries["words"], tmp_path / "layer-2.safetensors")
    save_directions(shelf.directions["she"], tmp_path / "she.safetensors")
    seen = []
    monkeypatch.setattr(serving, "serve", lambda model, **given: seen.append(given["shelf"]))
    files = ["--dictionaries", str(tmp_path / "layer-2.safetensors"), "--directions", str(tmp_path / "she.safetensors")]
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "meadow", *files])
    assert not end.value.code
    (held,) = seen
    assert isinstance(held, Shelf)
    assert list(held.dictionaries) == ["layer_2"]
    assert held.directions["she"].names == ["resid_post.1", "resid_post.2"]


def test_a_server_whose_sites_have_names_that_are_taken_does_not_start(model, shelf):
    mine = Shelf({"mine": shelf.dictionaries["words"]})
    with (
        served(model, shelf=mine),
        pytest.raises(CasebackError, match="did not start: .*mine"),
        served(model, shelf=mine) as address,
    ):
        pytest.fail(f"{address} would never answer")
