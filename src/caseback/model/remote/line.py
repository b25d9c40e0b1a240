"""The line to a server: messages over HTTP, jobs that are watched until they end, refusals as they were raised there.

No address is followed elsewhere, and of what comes back no more is read than the budget allows.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from torch import Tensor

from caseback import errors
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.json_text import parse_json
from caseback.jobs.progress import progress_bar
from caseback.model.remote.messages import KIND, pack, unpack

_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5


class Line:
    """A server's address, and how it is asked.

    Parameters
    ----------
    url
        As ``caseback serve`` prints it; a token may stand in it.
    token
        What the server asks for, where it does.
    timeout
        Seconds without a word after which a server is taken to be gone.

    Raises
    ------
    CasebackError
        For what is no address of HTTP.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        try:
            parts = urlsplit(url)
            self.secure, self.host, self.port = parts.scheme == "https", parts.hostname, parts.port
            if parts.scheme not in ("http", "https") or not self.host or not self.host.isascii():
                raise ValueError("no address")
        except ValueError:
            raise CasebackError(
                f"{url[:200]!r} is no address of a server: expected one as caseback serve prints it, such as "
                "'http://127.0.0.1:8765'"
            ) from None
        self.token, self.timeout = token or next(iter(parse_qs(parts.query).get("token", [])), None), timeout
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise CasebackError("a token of other signs than those of ASCII: expected it as caseback serve prints it")
        self.at = f"{'https' if self.secure else 'http'}://{f'[{self.host}]' if ':' in self.host else self.host}" + (
            f":{self.port}" if self.port else ""
        )

    def facts(self) -> dict[str, Any]:
        """What the server says of its model."""
        status, _, body = self._send("GET", "/api/model")
        facts = _json(body)
        if status != 200:
            raise _refused(status, facts)
        if not isinstance(facts.get("remote"), dict):
            raise CasebackError(f"{self.at} serves no model that can be asked from afar: it is another program")
        return facts

    def call(
        self, name: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor], *, progress: bool = False
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Ask, wait, and give the answer's data and tensors.

        Raises
        ------
        CasebackError
            What the server refused, of the kind that it was there, or that it cannot be reached.
        """
        status, kind, body = self._send("POST", f"/api/{name}", pack(data, tensors))
        job, wait = None, _FIRST_WAIT
        bar = progress_bar(total=None, show=progress, what=name)
        try:
            with bar:
                while status in (200, 202) and kind != KIND:
                    about = _json(body)
                    job = str(about.get("job", ""))
                    if about.get("state") in ("failed", "canceled"):
                        raise _refused(400, about)
                    bar.total = about.get("total") or bar.total
                    bar.update(max(0, int(about.get("n") or 0) - bar.n))
                    time.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
                    status, kind, body = self._send("GET", f"/api/jobs/{job}")
        except KeyboardInterrupt:
            if job:
                self._send("DELETE", f"/api/jobs/{job}")
            raise
        if status != 200:
            raise _refused(status, _json(body))
        return unpack(body)

    def _send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        open_line = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        assert self.host is not None
        connection = open_line(self.host, self.port, timeout=self.timeout)
        headers = {"Content-Type": KIND} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        most = limit("remote_answer_bytes")
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            read = answer.read(most + 1)
        except (OSError, http.client.HTTPException) as error:
            raise CasebackError(
                f"{self.at} does not answer ({error or type(error).__name__}): is `caseback serve` running there?"
            ) from None
        finally:
            connection.close()
        if len(read) > most:
            raise CasebackError(f"{self.at} answers with more than {most} bytes: ask for less at a time")
        return answer.status, answer.getheader("Content-Type", ""), read


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = parse_json(body.decode())
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise CasebackError("the server answers with what is no JSON: it is no explorer of caseback's")
    return data


def _refused(status: int, about: Mapping[str, Any]) -> CasebackError:
    """A refusal as the error that it was at the server."""
    kind = getattr(errors, str(about.get("raised")), CasebackError)
    known = isinstance(kind, type) and issubclass(kind, CasebackError)
    words = str(about.get("error") or about.get("state") or f"the server answered {status}")
    return (kind if known else CasebackError)(words)
