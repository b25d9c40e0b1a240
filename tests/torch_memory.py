"""How much of torch's memory on the processor a job has in hand at most, beyond what it was called with.

    peak = max over time of sum of (bytes taken - bytes given back)

The profiler sees every allocation of torch's, inside kernels too, so the number is the same at each run.
"""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(job: Callable[[], object]) -> int:
    """The most bytes that a call holds at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        job()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
