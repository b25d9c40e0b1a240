"""A remote model: the numbers of the local one to the bit, labels included; code refused on both sides, bounds held."""

import copy
import http.client
import pickle
import threading

import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import caseback as cb
from caseback.errors import CasebackError, EditError, SiteAbsent, TargetError, TokensError, UnknownSite
from caseback.jobs.budget import override
from caseback.localize.inputs import gradient_x_input
from caseback.model.remote.messages import KIND, pack, unpack
from caseback.server import app
from caseback.server.app import explorer
from caseback.server.serving import served

PROMPTS = ["When Mary and John went to the store, John gave a drink to", "Mary and John went to the"]
OTHER = ["When Mary and John went to the store, Mary gave a drink to", "Anna and John went to the"]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def both(request):
    model = cb.load("meadow", dtype=request.param)
    with served(model) as address:
        yield model, cb.connect(address)


@pytest.fixture(scope="module")
def client():
    with TestClient(explorer(cb.load("meadow")), base_url="http://127.0.0.1") as client:
        yield client


def edits_of(model, source):
    """One edit of every kind, or a run of them."""
    torch.manual_seed(1)
    d = model.d_model
    path = "transformer.h.1.mlp.c_proj.output"
    wide, narrow = 4 * d, torch.float64
    return [
        cb.Zero("z", layer=2, head=1, pos=[1, -1]),
        cb.Replace("resid_post", torch.randn(d, dtype=narrow), layer=1, pos=-1),
        cb.Add("mlp_out", torch.randn(2, d), layer=[0, 3], pos=slice(1, 3), unit=None),
        cb.Scale("mlp_post", -0.1, layer=0, unit=[3, 5]),
        cb.Mean("attn_out", layer=1),
        cb.Mean("attn_out", source, layer=2),
        cb.Noise("embed", 0.3, seed=[4, 5]),
        cb.Project("resid_pre", torch.randn(2, d), layer=2, keep=True),
        cb.Affine("resid_mid", torch.randn(2, d), torch.randn(2, d), layer=1),
        cb.Tilt("resid_post", torch.randn(d), layer=0),
        cb.Fade("resid_post", torch.randn(d), layer=0, decay=0.3),
        cb.Rotate("resid_post", torch.randn(2, d), 30.0, layer=2, by=True),
        cb.SideTerm(path, torch.randn(1, d), torch.randn(1, wide)),
        cb.Codebook(path, torch.randn(3, wide), torch.randn(3, d), torch.full((3,), 1e3)),
        cb.SideMemory(path, torch.randn(d, wide), torch.ones(1)),
        cb.Resample("z", source, layer=1, head=0),
        cb.Swap("resid_post", torch.randn(1, d), source, layer=2),
        [cb.Zero("mlp_out", layer=0), cb.Freeze("attn_out", layer=1)],
        cb.Freeze("attn_out", source, layer=1),
        cb.Knockout(layer=1, head=2, query=-1, key=0),
        cb.Knockout(layer=1, query=3, key=[0, 1], renormalise=False),
        cb.Scale("z", 1.0, layer=0, prompt=1, pos=torch.tensor([2, 3])),
    ]


METRICS = [
    cb.logit(" Mary"),
    cb.logit_diff([" Mary", " store"], [" John", " park"]),
    cb.prob(1127, pos=torch.tensor([-1, 2])),
    cb.log_prob(" Mary"),
    cb.prob_diff([" Mary", " Anna"], " John"),
    cb.loss(),
    cb.activation("mlp_post", layer=2, unit=7),
    cb.activation("resid_post", layer=1, direction=torch.arange(160) / 160),
    cb.activation("pattern", layer=1, head=2, unit=1),
]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_what_is_read_and_predicted_is_the_local_run_to_the_bit(both, padding):
    model, remote = both
    tokens = remote.tokens(PROMPTS, padding=padding)
    local = model.tokens(PROMPTS, padding=padding)
    assert torch.equal(tokens.ids, local.ids)
    assert torch.equal(tokens.mask, local.mask)
    assert tokens.text == local.text
    read = [name for name in remote._facts["remote"]["sites"] if name != "router"] + ["transformer.h.1.mlp.c_fc.output"]
    one, two = remote.run(tokens, read=read), model.run(local, read=read)
    for name in read:
        assert torch.equal(one[name], two[name]), name
        assert one[name].dtype == two[name].dtype
    assert torch.equal(one["z", -1], two["z", -1])
    assert torch.equal(one["blocks.2.attn.hook_z"], two["blocks.2.attn.hook_z"])
    assert torch.equal(one.logits, two.logits)
    at = torch.arange(2), local.column(1)
    assert (remote.logits(tokens, pos=1).values == two.logits[at].numpy()).all()


def test_every_kind_of_edit_gives_what_it_gives_here(both):
    model, remote = both
    tokens = remote.tokens(PROMPTS)
    read = ["z", "attn_out", "resid_post"]
    theirs, ours = remote.run(OTHER, read=read), model.run(OTHER, read=read)
    for far, near in zip(edits_of(model, theirs), edits_of(model, ours), strict=True):
        one, two = remote.run(tokens, edits=far), model.run(tokens, edits=near)
        assert torch.equal(one.logits, two.logits), near
        assert one.edited
    plain = model.run(tokens).logits
    assert not torch.equal(remote.run(tokens, edits=edits_of(model, theirs)[0]).logits, plain)


def test_a_local_run_may_be_what_a_remote_edit_exchanges_with(both):
    model, remote = both
    source = model.run(OTHER, read="resid_post")
    edit = cb.Resample("resid_post", source, layer=2, pos=-1)
    assert torch.equal(remote.run(PROMPTS, edits=edit).logits, model.run(PROMPTS, edits=edit).logits)


def test_sweeps_and_metrics_have_the_same_numbers_and_labels(both):
    model, remote = both
    theirs, ours = (one.run(OTHER, read=["resid_post", "logits"]) for one in (remote, model))

    def patches(source):
        return [cb.Resample("resid_post", source, layer=i, pos=p) for i in range(4) for p in (-2, -1)]

    for far, near in [*((one, one) for one in METRICS), (cb.kl(theirs), cb.kl(ours)), (cb.kl(ours.logits),) * 2]:
        assert remote.sweep(PROMPTS, patches(theirs), far).identical(model.sweep(PROMPTS, patches(ours), near)), near
        edits = cb.Zero("mlp_out", layer=0)
        values = near(model.run(PROMPTS, edits=edits, read=near.reads))
        assert (remote.measure(PROMPTS, far, edits=edits).values == values.numpy()).all(), near
    labels = [str(i) for i in range(8)]
    swept = remote.sweep(PROMPTS, patches(theirs), METRICS[0], labels=labels)
    assert swept.coords["variant"].values.tolist() == labels


def test_standing_edits_and_continuations(both):
    model, remote = both
    edits = [cb.Zero("mlp_out", layer=3), cb.Scale("z", 2.0, layer=0, head=0)]
    assert torch.equal(remote.edited(edits).run(PROMPTS).logits, model.edited(edits).run(PROMPTS).logits)
    heads = [cb.Zero("z", layer=1, head=h) for h in range(5)]
    one, two = (m.edited(edits[0]).edited(edits[1]).sweep(PROMPTS, heads, METRICS[0]) for m in (remote, model))
    assert one.identical(two)
    far, near = (m.generate(PROMPTS, edits=edits, max_new_tokens=4) for m in (remote, model))
    assert torch.equal(far.ids, near.ids)
    assert remote.text(far) == model.text(near)
    sampled = {"do_sample": True, "temperature": 2.0, "seed": 3, "max_new_tokens": 4}
    assert torch.equal(remote.generate(PROMPTS, **sampled).ids, model.generate(PROMPTS, **sampled).ids)
    assert remote.token_id(" Mary") == model.token_id(" Mary")


@pytest.mark.parametrize(
    "prompts",
    [
        "Mary went",
        [5, 6, 7],
        [[5, 6], [7]],
        torch.tensor([[5, 6], [7, 8]]),
        {"input_ids": [[5, 6, 0]], "attention_mask": [[1, 1, 0]]},
    ],
)
def test_prompts_may_be_what_they_may_be_here(both, prompts):
    model, remote = both
    assert torch.equal(remote.run(prompts).logits, model.run(prompts).logits)


def test_a_remote_run_shows_itself_and_can_be_copied_and_sent(both):
    model, remote = both
    run = remote.run(PROMPTS, read=["z", "pattern"])
    assert "Run" in run._repr_html_()
    assert "RemoteModel 'meadow'" in repr(remote)
    for again in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(again["z"], run["z"])
    assert cb.prob(1127)(run).shape == (2,)
    assert ("z", 1) in run
    assert "mlp_out" not in run
    with pytest.raises(SiteAbsent, match="did not read"):
        run["mlp_out", 1]
    with pytest.raises(SiteAbsent, match="no gradients"):
        run.grad(cb.prob(3), ["z"])
    with pytest.raises(TargetError, match=r"remote\.measure"):
        cb.prob(" Mary")(run)


def test_code_is_refused_by_name_before_it_is_sent(both):
    _, remote = both

    class Mine(cb.Zero):
        """An edit of one's own."""

    for edit, name in ((cb.Apply("z", lambda x: x, layer=0), "Apply"), (Mine("z", layer=0), "Mine")):
        for call in (lambda e: remote.run("a", edits=e), lambda e: remote.sweep("a", [e], METRICS[0]), remote.edited):
            with pytest.raises(EditError, match=name):
                call(edit)
    with pytest.raises(TargetError, match="mine"):
        remote.measure("a", cb.function(lambda x: x[:, 0], name="mine"))


def test_what_a_remote_model_lacks_runs_on_a_local_one_alone(both):
    _, remote = both
    for name in ("hf", "weights", "anatomy", "device", "with_answer"):
        with pytest.raises(CasebackError, match="local model alone"):
            getattr(remote, name)
        assert not hasattr(remote, name)
    with pytest.raises(CasebackError, match="local model alone"):
        gradient_x_input(remote, "Mary went", METRICS[0])


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (TokensError, lambda r: r.run("Mary " * 900)),
        (TokensError, lambda r: r.run([10**6])),
        (UnknownSite, lambda r: r.run("Mary", read="resid_pots")),
        (UnknownSite, lambda r: r.run("Mary", read=[("z", 99)])),
        (UnknownSite, lambda r: r.run("Mary", edits=cb.Zero("z", layer=99))),
        (EditError, lambda r: r.run("Mary", edits=cb.Replace("z", torch.ones(3), layer=0))),
        (
            EditError,
            lambda r: r.run("Mary went", edits=cb.Resample("z", r.run("Mary", read="z"), layer=0)),
        ),
        (TargetError, lambda r: r.sweep("Mary", [cb.Zero("z")], cb.prob(" no one token"))),
        (EditError, lambda r: r.sweep("Mary", [[]], cb.prob(3))),
        (CasebackError, lambda r: r.sweep("Mary", [cb.Zero("z")], cb.prob(3), labels=["a", "b"])),
    ],
)
def test_refusals_are_those_of_the_local_model(both, kind, call):
    model, remote = both
    with pytest.raises(kind) as far:
        call(remote)
    with pytest.raises(kind) as near:
        call(model)
    assert str(far.value) == str(near.value)


@pytest.mark.parametrize(
    ("limits", "call", "words"),
    [
        ({"server_run_tokens": 8}, lambda r: r.run(PROMPTS), "8 tokens at once"),
        (
            {"server_run_tokens": 8},
            lambda r: r.run(cb.Tokens(torch.ones(9, 1).long(), torch.ones(9, 1).bool(), [["x"]] * 9)),
            "8 tokens",
        ),
        ({"server_run_tokens": 20}, lambda r: r.generate("Mary went", max_new_tokens=30), "20 tokens at once"),
        ({"server_run_bytes": 2**16}, lambda r: r.run(PROMPTS), "remote.logits"),
        (
            {"server_run_bytes": 2**18},
            lambda r: (
                r.run(PROMPTS, read="pattern", logits=False) and r.run(PROMPTS * 40, read="pattern", logits=False)
            ),
            "fewer sites",
        ),
        ({"server_edits": 3}, lambda r: r.sweep("Mary", [cb.Zero("z", layer=0)] * 4, cb.prob(3)), "takes 3 at once"),
        ({"server_run_edits": 3}, lambda r: r.run("Mary", edits=[cb.Zero("z", layer=0)] * 4), "takes 3 at once"),
        (
            {"server_call_bytes": 2**12},
            lambda r: r.run("Mary", edits=cb.Add("resid_post", torch.ones(40, 160), layer=0)),
            "4096 bytes",
        ),
        ({"server_bodies_bytes": 100}, lambda r: r.run("Mary"), "at once"),
    ],
)
def test_what_a_server_takes_and_gives_is_bounded(limits, call, words):
    model = cb.load("meadow")
    with override(**limits):
        running = served(model)
        address = running.__enter__()
    try:
        with pytest.raises(CasebackError, match=words):
            call(cb.connect(address))
    finally:
        running.__exit__(None, None, None)


def test_a_long_call_is_a_job_that_is_watched_and_can_be_interrupted(both, monkeypatch, capsys):
    model, remote = both
    monkeypatch.setattr(app, "WAIT", 0.0)
    every = [cb.Scale("mlp_post", 0.5, layer=0, unit=u) for u in range(300)]
    assert remote.sweep(PROMPTS, every, METRICS[0], progress=True).identical(model.sweep(PROMPTS, every, METRICS[0]))
    line, asked = remote._line, []
    send = line._send

    def interrupted(method, path, body=None):
        asked.append((method, path))
        if method == "GET":
            raise KeyboardInterrupt
        return send(method, path, body)

    monkeypatch.setattr(line, "_send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remote.sweep(PROMPTS * 2, every, METRICS[0])
    assert asked[-1][0] == "DELETE"


def test_a_token_is_asked_for_and_may_stand_in_the_address():
    model = cb.load("meadow")
    with served(model, token="secret") as address:
        assert address.endswith("?token=secret")
        assert cb.connect(address).n_layers == 4
        bare = address.partition("?")[0]
        assert cb.connect(bare, token="secret").token_id(" Mary") == model.token_id(" Mary")
        for wrong in (None, "wrong"):
            with pytest.raises(CasebackError, match="token"):
                cb.connect(bare, token=wrong)


@pytest.mark.parametrize(
    "address", ["", "meadow", "ftp://127.0.0.1", "http://", "http://a:99999999", "http://[::1", "file:///etc/passwd"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(CasebackError, match="no address"):
        cb.connect(address)


def test_a_server_that_is_gone_or_another_program_is_said_to_be():
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(CasebackError, match="does not answer"):
            cb.connect(f"http://127.0.0.1:{port}")
        other.listen()

        def answer(words):
            line, _ = other.accept()
            with line:
                line.recv(4096)
                line.sendall(words)

        for words in (
            b"\x80\x04K\x01.",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff[]",
        ):
            thread = threading.Thread(target=answer, args=(words,))
            thread.start()
            with pytest.raises(CasebackError):
                cb.connect(f"http://127.0.0.1:{port}")
            thread.join()


def sent(client, name, data, tensors=None):
    return client.post(f"/api/{name}", content=pack(data, tensors or {}), headers={"content-type": KIND})


def run_of(**more):
    return {
        "tokens": {"prompts": "Mary went"},
        "read": [],
        "edits": [],
        "standing": [],
        "runs": [],
        "logits": True,
        **more,
    }


def test_a_server_refuses_code_by_name_whatever_a_client_sends(client):
    for record in ({"edit": "Apply", "site": "z", "function": "os.system"}, {"edit": "__import__", "site": "z"}):
        answer = sent(client, "run", run_of(edits=[record]))
        assert answer.status_code == 400
        assert record["edit"] in answer.json()["error"]
    metric = {"metric": "function", "args": ["lambda x: x"], "options": {}}
    answer = sent(client, "sweep", run_of(variants=[[{"edit": "Zero", "site": "z"}]], metric=metric, labels=None))
    assert answer.status_code == 400
    assert "function" in answer.json()["error"]
    assert sent(client, "generate", run_of(options={"max_new_tokens": 2, "custom_generate": "x"})).status_code == 400


def test_bytes_that_are_no_message_are_refused(client):
    good = pack(run_of(), {"x": torch.ones(3)})
    deep = b'{"__metadata__": {"caseback": "' + b"[" * 200_000 + b'"}}'
    bad = [b"", b"\x80\x04K\x01.", good[:-1], good[:40], b"\xff" * 8 + good, b'{"a": 1}', pickle.dumps([1])]
    bad += [len(deep).to_bytes(8, "little") + deep, pack(run_of(), {}).replace(b"caseback", b"casebakc")]
    for body in bad:
        answer = client.post("/api/run", content=body, headers={"content-type": KIND})
        assert answer.status_code == 400, body[:50]
    assert client.post("/api/run", content=good, headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/api/eval", content=good, headers={"content-type": KIND}).status_code == 404
    assert (
        client.post("/api/run", content=good, headers={"content-type": KIND, "host": "evil.example"}).status_code == 400
    )


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from([{"tensor": "x"}, {"tensor": "no"}, {"run": 0}, {"run": "0"}, {"slice": [0, 1, "a"]}, {"number": "inf"}, [[["z"]]], ["z", 99], "z.1", {"ids": {"tensor": "x"}, "mask": {"tensor": "x"}}]),
)  # fmt: skip
WHOLE = {
    "run": run_of(
        read=["z", ["pattern", 1]],
        edits=[{"edit": "Scale", "site": "z", "layer": 1, "factor": 0.5, "pos": {"slice": [0, 1, None]}}, {"edit": "Resample", "site": "z", "layer": 0, "source": {"run": 0}}],
        runs=[{"ids": {"tensor": "ids"}, "mask": {"tensor": "mask"}, "edited": False, "sites": {"z.0": {"tensor": "z"}}}],
    ),
    "sweep": run_of(
        variants=[[{"edit": "Add", "site": "resid_post", "layer": 1, "value": {"tensor": "x"}}]],
        metric={"metric": "logit", "args": [3], "options": {"pos": -1}},
        labels=None,
    ),
    "generate": run_of(options={"max_new_tokens": 2, "seed": None, "do_sample": False}),
    "tokens": {"prompts": ["Mary"], "padding": "right", "bos": None, "runs": []},
}  # fmt: skip
TENSORS = {
    "x": torch.ones(160),
    "ids": torch.tensor([[5, 6, 7]]),
    "mask": torch.ones(1, 3).bool(),
    "z": torch.ones(1, 3, 5, 32),
}


def places(node, at=()):
    """The keys that lead to each node of JSON data."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, one in inside:
        yield (*at, key)
        yield from places(one, (*at, key))


def test_the_whole_calls_are_answered(client):
    for name, data in WHOLE.items():
        assert sent(client, name, data, TENSORS).status_code == 200, name


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_call_of_which_one_part_is_another_is_refused_in_words(client, name, data):
    call = copy.deepcopy(WHOLE[name])
    *way, last = data.draw(st.sampled_from(list(places(call))))
    node = call
    for key in way:
        node = node[key]
    node[last] = data.draw(ODD)
    try:
        body = pack(call, TENSORS)
    except ValueError:
        return  # JSON has no NaN
    answer = client.post(f"/api/{name}", content=body, headers={"content-type": KIND})
    assert answer.status_code in (200, 400), (call, answer.text)
    if answer.status_code == 200:
        unpack(answer.content)
    else:
        assert len(answer.json()["error"]) > 10


def test_a_client_that_goes_away_leaves_the_server_as_it_was(both):
    _, remote = both
    line = http.client.HTTPConnection(remote._line.host, remote._line.port)
    line.putrequest("POST", "/api/run")
    line.putheader("Content-Type", KIND)
    line.putheader("Content-Length", "1000000")
    line.endheaders(b"x" * 1000)
    line.close()
    assert remote.run("Mary").logits.shape[0] == 1
