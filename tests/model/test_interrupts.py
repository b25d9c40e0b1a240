"""Ctrl-C at any instant leaves the model, and torch's gradient mode, as they were found.

Python lets an interrupt in as a Python function begins and after a C function returns. Each test raises one at such a
point, at many points of every job in turn, and a last one lets a timer choose.
"""

import random
import signal
import sys
import threading
import time

import pytest
import torch
from test_nothing_left import state

import caseback as cb
import shelf
from caseback.localize import inputs
from caseback.model.running import passing, undo

METRIC = cb.logit(3)
IDS = shelf.ids((5,))
JOBS = {
    "read": lambda m: m.run(IDS, read=["pattern", "z", "q"]),
    "edit": lambda m: m.run(IDS, edits=cb.Zero("pattern", layer=1)),
    "apply": lambda m: m.run(IDS, edits=cb.Apply("resid_post", lambda x: x * 2, layer=0)),
    "sweep": lambda m: m.sweep(IDS, [cb.Zero("z", layer=0, head=h) for h in range(2)], METRIC),
    "generate": lambda m: m.generate(IDS, max_new_tokens=2, edits=cb.Zero("z", layer=1)),
    "gradient": lambda m: inputs.gradient_x_input(m, IDS, METRIC),
    "relevance": lambda m: inputs.attn_lrp(m, IDS, METRIC),
}
HOME = ("caseback", "contextlib", "torch.utils._contextlib", "torch.autograd.grad_mode", "torch.nn.modules.module")
TRIES = 120


class _Interrupt:
    """Raises one KeyboardInterrupt at the n-th point where Python could let one in, near code of ours."""

    def __init__(self, at, home=HOME):
        self.at, self.home, self.count = at, home, 0

    def __call__(self, frame, event, arg):
        if event in ("call", "c_return") and frame.f_globals.get("__name__", "").startswith(self.home):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt


def under(profile, job, model):
    """Run a job under a profile function; whether it was interrupted."""
    sys.setprofile(profile)
    try:
        job(model)
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)


def all_state(hf):
    running = {"pass": passing.current_pass(), "acting": passing._acting.get(), "undo": undo._undo.get()}
    modes = torch._C._len_torch_function_stack()
    return {**state(hf), **running, "gradient mode": torch.is_grad_enabled(), "modes": modes}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", ["gpt2", "gptj"])
def test_an_interrupt_anywhere_leaves_the_model_as_found(name, job):
    model = shelf.model(name)
    run = JOBS[job]
    run(model)
    count = _Interrupt(None)
    under(count, run, model)
    points = random.Random(job).sample(range(1, count.count + 1), min(TRIES, count.count))
    before, interrupted = all_state(model.hf), 0
    for point in points:
        interrupted += under(_Interrupt(point), run, model)
        after = all_state(model.hf)
        for what in before:
            if what != "modes":  # torch itself may lose or leave one; it acts in no pass any more
                assert after[what] == before[what], f"{what}, interrupted at {point} of {count.count}"
    assert interrupted > len(points) / 2
    run(model)
    assert torch._C._len_torch_function_stack() == before["modes"]


@pytest.mark.parametrize(("job", "home"), [("read", HOME), ("sweep", HOME), ("sweep", ("tqdm",))])
def test_an_interrupt_leaves_no_lock_behind(job, home):
    model, came = shelf.model("gpt2"), []
    count = _Interrupt(None, home)
    under(count, JOBS[job], model)
    for point in range(1, count.count + 1, 1 + count.count // 200):
        under(_Interrupt(point, home), JOBS[job], model)
    thread = threading.Thread(target=lambda: came.append(JOBS[job](model)), daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert came, "another thread waits for a lock that an interrupt left behind"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize("job", JOBS)
def test_a_timers_interrupt_leaves_the_model_as_found(job):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread alone")
    model, run, draw = shelf.model("gpt2"), JOBS[job], random.Random(job)

    def interrupt(*_):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        run(model)
        start = time.perf_counter()
        run(model)
        length = time.perf_counter() - start
        before, interrupted = all_state(model.hf), 0
        for _ in range(TRIES):
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1e-5, draw.random() * length))
                run(model)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            after = all_state(model.hf)
            for what in before:
                if what != "modes":
                    assert after[what] == before[what], what
    finally:
        signal.signal(signal.SIGALRM, former)
    assert interrupted
