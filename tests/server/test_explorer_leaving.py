"""Clients that go away: what only they waited for ends, and the model is as it was."""

import http.client
import json
import time

import pytest
from asking import PROMPT

import caseback as cb
from caseback.reports.quick.prediction import prediction
from caseback.server import desk, questions
from caseback.server.serving import served


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture
def port(model):
    with served(model) as address:
        yield int(address.rsplit(":", 1)[1].strip("/"))


def asked(port, method, path, body=None):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    return line


def answered(port, method, path, body=None):
    line = asked(port, method, path, body)
    try:
        return json.loads(line.getresponse().read())
    finally:
        line.close()


@pytest.fixture
def steps(monkeypatch):
    """Stories whose every step takes a tenth of a second: how many of them were taken."""
    taken, watch = [], desk.Job.watch

    def slowly(job, *where):
        taken.append(where)
        time.sleep(0.1)
        watch(job, *where)

    monkeypatch.setattr(desk.Job, "watch", slowly)
    return taken


def until_no_more(steps, seconds=20):
    """How many steps there are once a second brings no other."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = len(steps)
        time.sleep(1)
        if len(steps) == before:
            return before
    raise AssertionError("it goes on")


@pytest.mark.parametrize("goodbye", [True, False], ids=["says so", "just goes"])
def test_a_story_stops_when_who_asked_goes_away(model, port, steps, monkeypatch, goodbye):
    if not goodbye:
        monkeypatch.setattr(desk, "PATIENCE", 0.5)
    job = answered(port, "POST", "/api/ask/story", {"prompt": PROMPT})["job"]
    deadline = time.monotonic() + 20
    while not steps and time.monotonic() < deadline:
        time.sleep(0.02)
    if goodbye:
        answered(port, "DELETE", f"/api/jobs/{job}")
    until_no_more(steps)
    assert answered(port, "GET", f"/api/jobs/{job}")["state"] == "canceled"
    # asked of the model itself: nothing of the story is left on it
    fresh = prediction(cb.load("meadow"), PROMPT)
    assert answered(port, "POST", "/api/ask/prediction", {"prompt": PROMPT}) == fresh


def test_a_quick_question_leaves_the_line_with_its_client(port, monkeypatch):
    """As every keystroke's does at the next one."""
    seen, whole = [], questions.Question.written

    def slowly(question, model, form, shelf):
        seen.append(form.prompt)
        time.sleep(1 if form.prompt == "Mary" else 0)
        return whole(question, model, form, shelf)

    monkeypatch.setattr(questions.Question, "written", slowly)
    first = asked(port, "POST", "/api/ask/prediction", {"prompt": "Mary"})
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    for prompt in ("John", "the"):
        asked(port, "POST", "/api/ask/prediction", {"prompt": prompt}).close()
    assert answered(port, "POST", "/api/ask/prediction", {"prompt": "store"})["kind"] == "caseback.prediction"
    assert first.getresponse().status == 200
    assert seen == ["Mary", "store"]
