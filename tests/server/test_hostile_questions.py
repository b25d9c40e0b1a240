"""Hostile values in every field of every question: each is refused in words, and the server goes on.

The fields are those of the forms, so a field or a question that is new is tried too.
"""

import json
import time

import pytest
from asking import PROMPT, ended
from fastapi.testclient import TestClient

import caseback as cb
from caseback.server.app import explorer
from caseback.server.questions import QUESTIONS
from explorer_shelf import shelf_of

OTHER = "When Mary and John went to the store, Mary gave a drink to"
CHANGE = {"part": "mlp", "layer": 1, "factor": 0}
VALID = {
    "prediction": {"prompt": PROMPT},
    "effects": {"prompt": PROMPT},
    "features": {"prompt": PROMPT, "dictionary": "words"},
    "attention": {"prompt": PROMPT},
    "patching": {"prompt": PROMPT, "corrupt": OTHER},
    "table": {"task": "ioi", "count": 2},
    "story": {"prompt": PROMPT},
    "inputs": {"prompt": PROMPT, "methods": ["gradient_x_input"]},
    "graph": {"prompt": PROMPT, "max_nodes": 20},
    "drivers": {"prompt": PROMPT, "part": "head", "layer": 1, "head": 2},
}
ANYWHERE = [
    float("1e300"),
    True,
    {"a": {"b": []}},
    [[[[]]]],
    "\x00",
    "../../etc/passwd",
    "__import__('os')",
    [None],
    -1,
]
FOR = {
    "prompt": ["", " ", "a " * 3000, "\ud800", "\u202e\u200b", "<script>alert(1)</script>"],
    "corrupt": ["", "Mary", PROMPT, "a " * 3000],
    "target": ["", " no one token", " Mary", "x" * 201],
    "foil": ["", " no one token", "x" * 201],
    "layer": [4, 2**31, 10**30, 0.5, "1", None],
    "depth": ["bottomless", "none", None, ["quick"]],
    "methods": [[], ["no_method"], ["occlusion"] * 31, "occlusion", [""], ["occlusion", "occlusion"]],
    "dictionaries": [["words"], ["no"], ["/etc/passwd"], ["words"] * 300, "words"],
    "dictionary": ["", "no", None],
    "max_nodes": [0, 2001, "many", None],
    "count": [0, 10**9, 1.5],
    "top": [0, 51],
    "units": ["poems", "transcoders", None],
    "part": ["mlp", "direction", "neuron", "feature", None],
    "head": [99, 2**31, "1", None],
    "unit": [3, 10**30, "x"],
    "pos": [99, 2**31, 0.5],
    "looked_at": [99, 2**31, "x"],
    "features": ["maybe", 2, 0.5, None],
    "seed": [-1, 2**31, "x"],
    "task": ["", "no task", "ioi/../ioi"],
    "lines": ["{", "[1]", '{"prompt": 3}', "{}\n" * 300],
    "measure": ["poem"],
    "changes": [[{**CHANGE, "layer": 99}], [CHANGE] * 2, [CHANGE] * 65, [{}], [{**CHANGE, "factor": 1e9}], [{"part": "code"}]],
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    model = cb.load("meadow")
    with TestClient(explorer(model, shelf=shelf_of(model)), base_url="http://127.0.0.1") as client:
        yield client


def test_every_question_has_a_valid_form_here():
    assert set(VALID) == set(QUESTIONS)
    fields = {name for question in QUESTIONS.values() for name in question.form.model_fields}
    assert fields == set(FOR)


def outcome(client, name, form):
    """The status and words of a question, a job's as those that it would have at once."""
    # escaped, so that half a character arrives as one
    body = json.dumps(form).encode()
    answer = client.post(f"/api/ask/{name}", content=body, headers={"Content-Type": "application/json"})
    status, about = answer.status_code, answer.json()
    deadline = time.monotonic() + 60
    while status in (200, 202) and about.get("state") in ("waiting", "running"):
        assert time.monotonic() < deadline, about
        time.sleep(0.01)
        about = client.get(f"/api/jobs/{about['job']}").json()
    if about.get("state") == "failed":
        return 400, about
    return 200 if "kind" in about else status, about


@pytest.mark.parametrize("name", VALID)
def test_each_hostile_value_is_refused_in_words_or_answered(client, name, capsys):
    question, refused = QUESTIONS[name], 0
    for field in question.form.model_fields:
        for value in [*ANYWHERE, *FOR[field]]:
            form = {**VALID[name], field: value}
            status, about = outcome(client, name, form)
            assert status in (200, 400, 422), (field, value, status, about)
            if status != 200:
                refused += 1
                assert 3 < len(about["error"]) < 2000, (field, value, about)
    assert refused > 8 * len(question.form.model_fields)
    # an error that is not in words has its traceback on the server's terminal
    assert "Traceback" not in capsys.readouterr().err
    again = client.post(f"/api/ask/{name}", json=VALID[name])
    assert again.status_code in (200, 202)
    if again.status_code == 202:
        ended(client, again.json()["job"])
