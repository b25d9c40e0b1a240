"""Fifty clients at once: correct answers, no error of the server's, bounded memory, whatever some of them do.

`python tests/server/test_explorer_load.py 600` does it for ten minutes.
"""

import http.client
import json
import os
import random
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from asking import PROMPT

import caseback as cb
from caseback.errors import CasebackError
from caseback.reports.quick.prediction import prediction
from caseback.server.serving import serve

CLIENTS = 50
WORDS = ["Mary", "John", "went", "to", "the", "store", "and", "gave", "a", "drink"]


@contextmanager
def served(model):
    """The port of an explorer that runs in a thread until the process ends."""
    address, up = [], threading.Event()
    thread = threading.Thread(
        target=serve, args=(model,), kwargs={"port": 0, "ready": lambda at: (address.append(at), up.set())}, daemon=True
    )
    thread.start()
    assert up.wait(30)
    yield int(address[0].rsplit(":", 1)[1].strip("/"))


def post(port, name, body, timeout=60):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", f"/api/ask/{name}", raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def rude(port, rng):
    """Begin a request and go away, read an answer by single bytes, or send what is no HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        body = json.dumps({"prompt": " ".join(rng.choices(WORDS, k=5))}).encode()
        head = b"POST /api/ask/prediction HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        what = rng.randrange(3)
        if what == 0:
            line.sendall(head + b"Content-Length: 5000\r\n\r\n" + body)
        elif what == 1:
            line.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            for _ in range(40):
                line.recv(1)
                time.sleep(0.01)
        else:
            line.sendall(rng.randbytes(200) + b"\r\n\r\n")


def ask_from_afar(remote, rng):
    """Whether a remote run was answered, which holds what was asked for; it may be told to come again."""
    try:
        run = remote.run(
            " ".join(rng.choices(WORDS, k=8)), read="z", edits=cb.Zero("z", layer=1, head=rng.randrange(5))
        )
    except CasebackError as error:
        assert "again" in str(error), error
        return False
    return run["z", 1].shape[1] == run.tokens.shape[1] and bool((run.logits != 0).any())


def bear(port, model, seconds):
    """Ask with all clients for so long; (answers, refusals as busy, worst seconds, growth of memory in MB)."""
    expected = prediction(model, PROMPT)["predictions"][0]["prob"]
    over, failures, answers, busy, worst = time.monotonic() + seconds, [], [], [], []
    remote, remote_answers = cb.connect(f"http://127.0.0.1:{port}"), []

    def client(seed):
        rng = random.Random(seed)
        try:
            while time.monotonic() < over:
                kind = rng.random()
                if kind < 0.1:
                    rude(port, rng)
                    continue
                begun = time.monotonic()
                if kind < 0.2:
                    status, body = post(port, "prediction", rng.choice([b"{", b"[]", b'{"prompt": 3}', b"\xff"]))
                    assert status in (400, 422), (status, body)
                    continue
                if kind < 0.3:
                    status, body = post(port, "attention", {"prompt": " ".join(rng.choices(WORDS, k=8)), "layer": 1})
                    assert status in (200, 429), (status, body)
                    continue
                if kind < 0.4:
                    remote_answers.append(ask_from_afar(remote, rng))
                    continue
                same = kind < 0.7
                prompt = PROMPT if same else " ".join(rng.choices(WORDS, k=rng.randrange(2, 30)))
                status, body = post(port, "prediction", {"prompt": prompt})
                worst.append(time.monotonic() - begun)
                if status == 429:
                    busy.append(prompt)
                    continue
                assert status == 200, (status, body)
                row = json.loads(body)["predictions"][0]
                assert not same or row["prob"] == pytest.approx(expected)
                answers.append(row)
        except Exception as error:
            failures.append(error)

    before = resident()
    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert not failures, failures[:3]
    assert any(remote_answers), "no remote call was answered"
    return len(answers), len(busy), max(worst), resident() - before


def resident():
    """Megabytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_fifty_clients_are_answered_for_a_minute():
    model = cb.load("meadow")
    with served(model) as port:
        bear(port, model, 5)  # allocators and thread pools reach their size
        answers, busy, worst, growth = bear(port, model, 60)
        assert post(port, "prediction", {"prompt": PROMPT})[0] == 200
    assert answers > CLIENTS
    # what is kept of answers is bounded at 128 MB
    assert growth < 256, (
        f"{growth:.0f} MB more after {answers} answers ({busy} told to come again, slowest {worst:.1f} s)"
    )


if __name__ == "__main__":
    loaded = cb.load("meadow")
    with served(loaded) as at:
        print(
            "answers {}, told to come again {}, slowest {:.2f} s, {:.0f} MB more".format(
                *bear(at, loaded, int(sys.argv[1]))
            )
        )
