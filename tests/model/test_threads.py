"""Several at once: threads on one model wait for each other or pass each other by, and edits may run the model."""

import copy
import pickle
import threading

import pytest
import torch
from test_nothing_left import state

import caseback as cb
import shelf
from caseback.localize import inputs
from exact import exact

METRIC = cb.logit(3)
FAMILIES = ("gpt2", "llama", "gptj", "mixtral", "deepseek_v3", "gemma2")
TIMES = 6
PATIENCE = 120.0


def jobs(model):
    """Every way of running a model, and what it gives as numbers."""
    ids = shelf.ids((6,))
    plain = torch.tensor(ids)

    def of_plain_model():
        with torch.no_grad():
            return model.hf(plain, use_cache=False).logits

    heads = [cb.Zero("z" if model.anatomy.head_site == "z" else "head_out", layer=0, head=h) for h in range(2)]
    return {
        "plain": of_plain_model,
        "run": lambda: model.run(ids).logits,
        "read": lambda: model.run(ids, read=["pattern", "resid_post"])["pattern", 0],
        "edit": lambda: model.run(ids, edits=cb.Scale("pattern", 0.5, layer=1)).logits,
        "sweep": lambda: torch.tensor(model.sweep(ids, heads, METRIC).values),
        "gradient": lambda: torch.tensor(inputs.gradient_x_input(model, ids, METRIC).values),
        "relevance": lambda: torch.tensor(inputs.attn_lrp(model, ids, METRIC).values),
        "generate": lambda: model.generate(ids, max_new_tokens=3, edits=cb.Zero("mlp_out", layer=1)).ids,
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_eight_threads_on_one_model_give_what_each_gives_alone(name, attention):
    if attention == "sdpa" and name in shelf.EAGER_ONLY:
        pytest.skip("this family has no sdpa attention")
    model = shelf.model(name, attention)
    with exact():
        alone = {job: run() for job, run in jobs(model).items()}
    before, wrong, failed = state(model.hf), [], []
    together = threading.Barrier(len(alone), timeout=PATIENCE)

    def repeat(job, run):
        try:
            together.wait()
            for _ in range(TIMES):
                with exact():
                    came = run()
                if not torch.allclose(came, alone[job], rtol=1e-9, atol=1e-9):
                    wrong.append((job, float((came - alone[job]).abs().max())))
        except Exception as error:
            failed.append((job, repr(error)))

    # daemons and a time: one that cannot start, or waits for ever, fails the test and does not hold the process
    threads = [threading.Thread(target=repeat, args=item, daemon=True) for item in jobs(model).items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "some threads wait for ever"
    assert not failed and not wrong
    after = state(model.hf)
    for what in before:
        assert after[what] == before[what], what


@pytest.mark.parametrize("inner", ["plain", "run", "read", "edit", "sweep", "gradient", "relevance", "generate"])
@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_a_model_that_an_edit_runs_is_not_under_that_edit(name, inner):
    model = shelf.model(name)
    with exact():
        job = jobs(model)[inner]
        alone, seen = job(), []
        outer = cb.Scale("resid_post", 0.5, layer=0)
        expected = model.run(shelf.ids((6,)), edits=outer).logits

        def halved(x):
            seen.append(job())
            return x * 0.5

        came = model.run(
            shelf.ids((6,)), read=["pattern"], edits=[cb.Apply("resid_post", halved, layer=0), cb.Scale("pattern", 1.0)]
        ).logits
    assert torch.allclose(seen[0], alone, rtol=1e-9, atol=1e-9)
    assert torch.allclose(came, expected, rtol=1e-9, atol=1e-9)


def test_a_technique_inside_another_threads_pass_has_the_gradients_of_its_own():
    model = shelf.model("llama")
    ids = shelf.ids((6,))
    with exact():
        alone = inputs.gradient_x_input(model, ids, METRIC).values
        inside, waiting, came = threading.Event(), threading.Event(), []

        def slow(x):
            inside.set()
            waiting.wait(timeout=0.5)
            return x

        def other():
            with exact():
                inside.wait(timeout=PATIENCE)
                came.append(inputs.gradient_x_input(model, ids, METRIC).values)
                waiting.set()

        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        model.run(ids, edits=[cb.Apply("resid_post", slow, layer=0)])
        thread.join(timeout=PATIENCE)
    assert (came[0] == alone).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_of_a_model_are_whole(name, twin_of):
    model = shelf.model(name)
    read = ["resid_post", "attn_norm.scale", "pattern"]
    with exact():
        run = model.run(shelf.ids(), read=read)  # norms have been read by then
        states = model.hf(torch.tensor(shelf.ids()), output_hidden_states=True).hidden_states
        twin = twin_of(model.edited(cb.Scale("mlp_out", 1.0, layer=0)))
        again = twin.run(shelf.ids(), read=read)
        assert twin.hf is not model.hf and twin.anatomy.hf is twin.hf
        for hf in (model.hf, twin.hf):  # transformers' own recording goes on in both
            came = hf(torch.tensor(shelf.ids()), output_hidden_states=True).hidden_states
            assert len(came) == len(states) and all(torch.equal(a, b) for a, b in zip(came, states, strict=True))
        assert torch.equal(again.logits, run.logits)
        for site in read:
            assert torch.equal(again[site], run[site])
        with torch.no_grad():
            twin.anatomy.layers[0].o.weight.zero_()
        assert not torch.equal(twin.run(shelf.ids()).logits, run.logits)
        assert torch.equal(model.run(shelf.ids()).logits, run.logits)
