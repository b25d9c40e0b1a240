"""The explorer over HTTP: what it answers is what the reports compute, and what it refuses, it refuses in words."""

import threading
import time

import pytest
from asking import PROMPT, ended
from fastapi.testclient import TestClient

import caseback as cb
from caseback.errors import CasebackError
from caseback.jobs.budget import override
from caseback.reports.quick.effects import component_effects
from caseback.reports.quick.prediction import prediction
from caseback.server.app import explorer
from caseback.server.asked import Change, Prediction
from caseback.server.desk import Busy, Desk
from caseback.server.questions import Question
from caseback.server.shelf import Shelf


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture
def client(model):
    # by the name under which the server was started
    with TestClient(explorer(model), base_url="http://127.0.0.1") as client:
        yield client


def test_a_prediction_is_that_of_the_model(client, model):
    answer = client.post("/api/ask/prediction", json={"prompt": PROMPT})
    assert answer.status_code == 200
    assert answer.json() == prediction(model, PROMPT)
    assert answer.json()["predictions"][0]["text"] == " Mary"


def test_a_change_moves_the_prediction_and_what_was_stands_beside_it(client, model):
    change = {"part": "head", "layer": 2, "head": 0, "factor": 0}
    rows = client.post("/api/ask/prediction", json={"prompt": PROMPT, "changes": [change]}).json()["predictions"]
    plain = {row["text"]: row["prob"] for row in prediction(model, PROMPT)["predictions"]}
    assert rows[0]["before"] == pytest.approx(plain[rows[0]["text"]], rel=1e-6)
    assert abs(rows[0]["prob"] - rows[0]["before"]) > 1e-4


def test_a_factor_of_one_changes_nothing(client):
    change = {"part": "neuron", "layer": 0, "unit": 7, "factor": 1}
    rows = client.post("/api/ask/prediction", json={"prompt": PROMPT, "changes": [change]}).json()["predictions"]
    assert all(row["prob"] == pytest.approx(row["before"], rel=1e-6) for row in rows)


def test_a_job_ends_in_the_document_of_its_report_and_a_page(client, model):
    started = client.post("/api/ask/effects", json={"prompt": PROMPT, "target": " Mary", "foil": " John"})
    assert started.status_code == 202
    document = ended(client, started.json()["job"])
    assert document == component_effects(model, PROMPT, target=" Mary", foil=" John")
    # the same question again is answered at once
    again = client.post("/api/ask/effects", json={"prompt": PROMPT, "target": " Mary", "foil": " John"})
    assert again.status_code == 200
    assert again.headers["x-caseback-job"] == started.json()["job"]


def test_the_page_of_an_answer_is_the_page_of_its_document(client):
    started = client.post("/api/ask/inputs", json={"prompt": "Mary and John went", "methods": ["gradient_x_input"]})
    job = started.json()["job"] if started.status_code == 202 else started.headers["x-caseback-job"]
    ended(client, job)
    page = client.get(f"/api/jobs/{job}/page")
    assert page.status_code == 200
    assert "Content-Security-Policy" in page.text
    assert "caseback" in page.text


def test_effects_with_a_counterfactual_restore_it(client, model):
    corrupt = "When Mary and John went to the store, Mary gave a drink to"
    started = client.post("/api/ask/effects", json={"prompt": PROMPT, "target": " Mary", "corrupt": corrupt})
    document = ended(client, started.json()["job"])
    assert document["how"] == "restored"
    assert document["target"]["visible"] == "␣Mary"


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        ("prediction", {"prompt": ""}, 422, "prompt"),
        ("prediction", {"prompt": "a", "path": "/etc/passwd"}, 422, "path"),
        ("prediction", {"prompt": "a", "count": 10**9}, 422, "count"),
        ("prediction", {"prompt": ["a"]}, 422, "prompt"),
        ("prediction", {"prompt": "a " * 2000}, 400, "context is 128"),
        ("prediction", {"prompt": "a", "changes": [{"part": "head", "layer": 0, "factor": 0}]}, 400, "head"),
        ("prediction", {"prompt": "a", "changes": [{"part": "head", "layer": 99, "head": 0, "factor": 0}]}, 400, "99"),
        ("prediction", {"prompt": "a", "changes": [{"part": "code", "layer": 0, "factor": 0}]}, 422, "part"),
        ("prediction", {"prompt": "a", "changes": [{"part": "mlp", "layer": 0, "factor": "NaN"}]}, 422, "factor"),
        ("story", {"prompt": "a", "depth": "bottomless"}, 422, "depth"),
        ("poem", {"prompt": "a"}, 404, "poem"),
        ("prediction", [], 422, "the question: expected an object"),
        (
            "prediction",
            {"prompt": "a", "changes": [{"part": "mlp", "layer": 0, "factor": f} for f in (0, 2)]},
            400,
            "twice",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(client, name, body, status, words):
    answer = client.post(f"/api/ask/{name}", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]


def test_a_prompt_beyond_what_the_server_takes_is_refused(model):
    with override(server_prompt_tokens=4):
        desk = Desk(model)
    with desk, pytest.raises(CasebackError, match="takes 4 at most"):
        desk.ask("prediction", Prediction(prompt="Mary and John went to the store")).answer.result(10)


def test_a_job_that_fails_says_why_and_the_next_is_answered(client):
    started = client.post("/api/ask/effects", json={"prompt": PROMPT, "target": " zzzqq foo"})
    about = client.get(f"/api/jobs/{started.json()['job']}")
    while about.json().get("state") in ("waiting", "running"):
        about = client.get(f"/api/jobs/{started.json()['job']}")
    assert about.json()["state"] == "failed"
    assert "not one" in about.json()["error"]
    assert client.post("/api/ask/prediction", json={"prompt": PROMPT}).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"pro', {"content-type": "application/json"}, 400),
        (b"\xff\xfe", {"content-type": "application/json"}, 400),
        (b"[" * 100_000, {"content-type": "application/json"}, 400),
        (b'{"prompt": "a"}', {"content-type": "text/plain"}, 415),
        (b" " * 2**19, {"content-type": "application/json"}, 413),
    ],
)
def test_bodies_that_are_no_question_are_refused(client, content, headers, status):
    answer = client.post("/api/ask/prediction", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_another_host_is_refused_whatever_its_name_resolves_to(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_unknown_jobs_are_said_to_be_unknown(client):
    for answer in (client.get("/api/jobs/999"), client.get("/api/jobs/999/page"), client.delete("/api/jobs/999")):
        assert answer.status_code == 404
        assert "ask again" in answer.json()["error"]


def test_with_a_token_nothing_is_answered_without_it(model):
    with TestClient(explorer(model, token="secret"), base_url="http://127.0.0.1") as client:
        assert client.get("/api/model").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/api/model?token=secret").status_code == 401  # an address is logged and shared
        assert client.get("/api/model", headers={"authorization": "Bearer secret"}).status_code == 200
        page = client.get("/?token=secret")
        assert page.status_code == 200
        assert "httponly" in page.headers["set-cookie"].lower()
        assert "samesite=strict" in page.headers["set-cookie"].lower()
        assert client.get("/api/model").status_code == 200  # by the cookie now


class _Slow:
    """A question whose answer takes until it is let go."""

    def __init__(self):
        self.go, self.begun, self.answered = threading.Event(), threading.Event(), 0

    def __call__(self, model, form, shelf):
        from caseback.jobs.progress import progress_bar

        self.begun.set()
        for _ in progress_bar(range(10_000), "slow", show=False):
            if self.go.wait(0.01):
                break
        self.answered += 1
        return {"kind": "test", "prompt": form.prompt}


@pytest.fixture
def slow(monkeypatch, model):
    one = _Slow()
    for module in ("caseback.server.desk", "caseback.server.questions"):
        monkeypatch.setattr(f"{module}.QUESTIONS", {"slow": Question(Prediction, one, "slow")})
    with Desk(model) as desk:
        yield desk, one
        one.go.set()


def test_the_same_question_is_answered_once_for_all_who_ask(slow):
    desk, one = slow
    jobs = [desk.ask("slow", Prediction(prompt="a")) for _ in range(20)]
    one.go.set()
    assert {job.answer.result(10) for job in jobs} == {b'{"kind": "test", "prompt": "a"}'}
    assert one.answered == 1


def test_a_running_job_is_canceled_at_its_next_step_and_the_next_one_runs(slow):
    desk, one = slow
    job, after = desk.ask("slow", Prediction(prompt="a")), desk.ask("slow", Prediction(prompt="b"))
    assert one.begun.wait(10)
    while job.progress is None:
        time.sleep(0.01)
    assert job.progress[0] == "slow"
    job.cancel()
    one.go.clear()
    deadline = time.monotonic() + 10
    while job.state != "canceled" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job.state == "canceled"
    one.go.set()
    assert b'"b"' in after.answer.result(10)


def test_a_waiting_job_that_is_canceled_never_runs(slow):
    desk, one = slow
    desk.ask("slow", Prediction(prompt="a"))
    waiting = desk.ask("slow", Prediction(prompt="b"))
    waiting.cancel()
    assert waiting.state == "canceled"
    one.go.set()
    again = desk.ask("slow", Prediction(prompt="b"))  # a canceled question can be asked anew
    assert again is not waiting
    assert again.answer.result(10)


def test_one_of_two_who_wait_may_leave_and_the_other_is_answered(slow):
    desk, one = slow
    job = desk.ask("slow", Prediction(prompt="a"))
    assert desk.ask("slow", Prediction(prompt="a")) is job
    assert one.begun.wait(10)
    job.leave()
    one.go.set()
    assert b'"a"' in job.answer.result(10)


def until_ended(job, seconds=10):
    deadline = time.monotonic() + seconds
    while job.state in ("waiting", "running") and time.monotonic() < deadline:
        time.sleep(0.01)
    return job.state


def test_jobs_that_nobody_asks_about_end_whether_they_run_or_wait(slow, monkeypatch):
    desk, one = slow
    monkeypatch.setattr("caseback.server.desk.PATIENCE", 0.3)
    runs, waits = (desk.ask("slow", Prediction(prompt=prompt)) for prompt in "ab")
    for job in (runs, waits):
        job.hear()
    assert [until_ended(job) for job in (runs, waits)] == ["canceled", "canceled"]
    assert one.answered == 0
    again = desk.ask("slow", Prediction(prompt="a"))
    assert again is not runs
    one.go.set()
    assert again.answer.result(10)


def test_a_job_that_is_asked_about_goes_on(slow, monkeypatch):
    desk, one = slow
    monkeypatch.setattr("caseback.server.desk.PATIENCE", 0.3)
    job = desk.ask("slow", Prediction(prompt="a"))
    for _ in range(10):
        job.hear()
        time.sleep(0.1)
    assert job.state == "running"
    one.go.set()
    assert b'"a"' in job.answer.result(10)


def test_more_questions_than_may_wait_are_turned_away(slow):
    desk, one = slow
    desk.ask("slow", Prediction(prompt="first"))
    assert one.begun.wait(10)
    with override(server_waiting=3):
        for prompt in "abc":
            desk.ask("slow", Prediction(prompt=prompt))
        with pytest.raises(Busy, match="3 questions wait"):
            desk.ask("slow", Prediction(prompt="d"))


def test_answers_are_forgotten_beyond_the_budget(slow):
    desk, one = slow
    one.go.set()
    with override(server_answer_bytes=60):
        jobs = [desk.ask("slow", Prediction(prompt=prompt)) for prompt in "abcdef" if time.sleep(0.05) is None]
        for job in jobs:
            job.answer.result(10)
        desk.ask("slow", Prediction(prompt="g")).answer.result(10)
    assert desk.job(jobs[0].id) is None
    assert desk.job(jobs[-1].id) is not None


def test_the_port_that_is_taken_is_named(model):
    import socket

    from caseback.server.serving import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CasebackError, match=r"port \d+ .*--port"):
            serve(model, port=taken.getsockname()[1])


@pytest.mark.parametrize(
    "given", [{"port": -1}, {"port": 70_000}, {"host": "no.such.host.invalid"}, {"host": "a\0b"}, {"token": "a b"}]
)
def test_addresses_that_are_none_are_refused(model, given):
    from caseback.server.serving import serve

    with pytest.raises(CasebackError):
        serve(model, **given)


def test_a_change_is_an_edit_of_the_part():
    (edit,) = Change(part="neuron", layer=1, unit=3, factor=2.0).edits(Shelf())
    assert (edit.site, edit.layer, edit.unit) == ("mlp_post", 1, 3)
