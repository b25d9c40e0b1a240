"""How tests ask an explorer."""

import time

PROMPT = "When Mary and John went to the store, John gave a drink to"


def ended(client, job, seconds=60):
    """The document of a job, once it is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        about = client.get(f"/api/jobs/{job}").json()
        if "kind" in about:
            return about
        assert about["state"] in ("waiting", "running"), about
        time.sleep(0.05)
    raise AssertionError(f"job {job} has not ended after {seconds} s")
