"""What commands print with ``--json`` keeps the schemas that the site publishes; pages' own are in test_every_page."""

import json

import pytest
from jsonschema import Draft202012Validator

from caseback import cli
from caseback.errors import CasebackError
from caseback.model.notes import Notes
from caseback.reports.forms.schema import json_schema, list_schemas, result_schema

pytestmark = pytest.mark.usefixtures("plain")
LISTS = {
    "techniques": ["techniques", "patching"],
    "tasks": ["tasks"],
    "tasks TASK": ["tasks", "ioi", "--count", "2"],
    "attribute --list": ["attribute", "--list"],
    "influence --list": ["influence", "--list"],
    "behavior": ["behavior"],
    "circuit --list": ["circuit", "--list"],
    "circuit --frontier": ["circuit", "ioi", "--frontier", "--count", "4"],
    "circuit --transfer": ["circuit", "ioi", "relation", "--transfer", "--count", "4", "--method", "eap"],
    "dictionary list": ["dictionary", "list"],
    "organisms list": ["organisms", "list"],
    "organisms evaluate": ["organisms", "evaluate", "meadow", "--count", "4"],
    "organisms learn": [
        "organisms",
        "learn",
        "count",
        "--alphabet",
        "ab",
        "--max-length",
        "4",
        "--rounds",
        "1",
        "--steps",
        "2",
    ],
    "collect": ["collect", "CORPUS", "--store", "STORE", "--tables", "stream_moments"],
    "jobs": ["jobs", "STORE"],
    "label": ["label", "NOTES"],
    "weights --neuron": ["weights", "meadow", "--layer", "1", "--neuron", "3"],
}
SLOW = {"circuit --frontier", "organisms evaluate"}
PAIR = ["When Mary and John went to the store, John gave a drink to", "When Mary and John went, Mary gave a drink to"]
RESULTS = {
    "patch": ["patch", PAIR[0], PAIR[0].replace("John gave", "Mary gave")],
    "lens": ["lens", PAIR[0]],
    "dla": ["dla", PAIR[0]],
    "influence": ["influence", "Mary went", "--corpus", "CORPUS", "--method", "bm25"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    (folder / "corpus.txt").write_text("Mary went to the store.\nThe dog gave it to John in the park.\n", "utf-8")
    Notes(model="meadow").put("L0H1", "copies", by="a reader").save(folder / "notes.json")
    return {"CORPUS": folder / "corpus.txt", "STORE": folder / "store", "NOTES": folder / "notes.json"}


def printed(capsys, arguments, places):
    with pytest.raises(SystemExit) as ended:
        cli.main([*(str(places.get(word, word)) for word in arguments), "--json"])
    out = capsys.readouterr()
    assert ended.value.code == 0, out.err
    return json.loads(out.out)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LISTS])
def test_a_list_keeps_its_schema(name, places, capsys):
    if name == "jobs":
        printed(capsys, LISTS["collect"], places)
    data, schema = printed(capsys, LISTS[name], places), list_schemas()[name]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(data)
    rows, inside = (data, schema["items"]) if isinstance(data, list) else ([data], schema)
    known = set(inside.get("properties", rows[0] if rows else ()))
    assert rows and all(set(row) <= known for row in rows), "a key that the schema does not name"


@pytest.mark.parametrize("name", RESULTS)
def test_a_labeled_result_keeps_its_schema(name, places, capsys):
    data, schema = printed(capsys, RESULTS[name], places), result_schema()
    validator = Draft202012Validator(schema)
    validator.validate(data)
    assert {"technique", "entry", "citation", "model"} <= set(data["attrs"])
    assert not validator.is_valid(data | {"dims": {"layer": "four"}})


def test_every_list_has_a_command_here():
    assert set(list_schemas()) - {"push"} == set(LISTS)


@pytest.mark.parametrize("bad", ["text", ["string", "string"], 3, {"a": "numbers"}, "number|text", None])
def test_what_is_no_form_is_refused(bad):
    with pytest.raises(CasebackError, match="is no form: expected one of number"):
        json_schema(bad)
