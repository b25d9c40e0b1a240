"""The explorer over HTTP: a page, questions, and jobs.

    GET    /                     the page
    GET    /api/model            the model's facts, and what can be asked with which form
    GET    /api/shelf/KIND       dictionaries or directions whose names contain ?contains=, some at a time
    POST   /api/ask/NAME         a quick question's document; or 202 and a job
    POST   /api/CALL             what a remote model asks: a message in, a message out; or 202 and a job
    GET    /api/jobs/ID          state and progress; the document once it is there
    GET    /api/jobs/ID/page     the document's page
    GET    /api/jobs/ID/drawn    the document as its page's script reads it
    DELETE /api/jobs/ID          wait for it no more; once nobody does, it is canceled

Whoever asks must name the host as it was started (a page of another site cannot, whatever its name resolves to), send
JSON or a message (which pages of other sites may not), and where there is a token, have it: as a bearer, or as the
cookie that ``/?token=`` sets. Mistakes are answered ``{"error": words}``.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.json_text import parse_json
from caseback.localize.inputs import input_methods
from caseback.model.remote.messages import KIND
from caseback.model.running.model import Model
from caseback.reports.model_facts import model_facts
from caseback.reports.story.depths import DEPTHS
from caseback.server.calls import CALLS, remote_facts
from caseback.server.calls import Message as Sent
from caseback.server.desk import Busy, Desk, Job
from caseback.server.questions import QUESTIONS
from caseback.server.shelf import KINDS, Shelf, standing
from caseback.tasks import names
from caseback.views.page.explorer import EXPLORER_PAGE, explorer_document
from caseback.views.page.kinds import PAGES, page_of
from caseback.views.page.page import Page

COOKIE = "caseback"
WAIT = 2.0  # seconds until a call becomes a job that is asked about


def explorer(
    model: Model,
    *,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    token: str | None = None,
    shelf: Shelf | None = None,
) -> FastAPI:
    """The application that serves one model.

    Parameters
    ----------
    model
        The model.
    hosts
        The names under which it may be asked.
    token
        What a client must have; None takes anybody's questions.
    shelf
        Dictionaries and directions that clients may name; none by default.
    """
    shelf = shelf or Shelf()
    desk = Desk(model, shelf)

    @asynccontextmanager
    async def open_desk(_: FastAPI) -> AsyncIterator[None]:
        try:
            with standing(model, shelf), desk:
                yield
        except CasebackError as error:
            app.state.refused = error  # a server that does not start says no more than that
            raise

    app = FastAPI(title="caseback", docs_url=None, redoc_url=None, openapi_url=None, lifespan=open_desk)
    larger = dict.fromkeys((f"/api/{name}" for name in CALLS), limit("server_call_bytes"))
    # the limits that hold here, where the application is made
    limits = {"most": limit("server_body_bytes"), "calls": larger, "together": limit("server_bodies_bytes")}
    app.add_middleware(Bounded, **limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    app.add_middleware(Guarded, token=token)

    start = explorer_document(model_facts(model), _titles(), {**shelf.start(), **_offered()})

    @app.get("/")
    async def page(request: Request) -> Response:
        response = HTMLResponse(EXPLORER_PAGE.html(start))
        if token is not None:
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response

    @app.get("/api/model")
    async def facts() -> dict[str, Any]:
        forms = {name: question.form.model_json_schema() for name, question in QUESTIONS.items()}
        about = {"model": model_facts(model), "questions": _titles(), "forms": forms}
        return {**about, **{kind: shelf.facts(kind) for kind in KINDS}, "remote": remote_facts(model)}

    @app.get("/api/shelf/{kind}")
    async def shelf_names(kind: str, contains: str = "") -> Response:
        if kind not in KINDS:
            return _error(404, f"nothing is called {kind!r} here. {did_you_mean(kind, KINDS)}")
        return JSONResponse(shelf.facts(kind, contains))

    @app.post("/api/ask/{name}")
    async def ask(name: str, request: Request) -> Response:
        if name not in QUESTIONS:
            return _error(404, f"nothing is asked by {name!r}. {did_you_mean(name, QUESTIONS)}")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _error(415, "expected a body of JSON, content type application/json")
        form = QUESTIONS[name].form.model_validate(parse_json((await request.body()).decode()))
        job = desk.ask(name, form)
        if not QUESTIONS[name].quick and not job.answer.done():
            return _later(job, 202)
        return await _answer(job, request)

    @app.post("/api/{name}")
    async def call(name: str, request: Request) -> Response:
        if name not in CALLS:
            return _error(404, f"nothing is called {name!r}. {did_you_mean(name, CALLS)}")
        if request.headers.get("content-type", "") != KIND:
            return _error(415, f"expected a message as cb.connect sends it, content type {KIND}")
        job = desk.ask(name, Sent(await request.body()))
        ended, _ = await asyncio.wait([answer := asyncio.wrap_future(job.answer)], timeout=WAIT)
        if ended and not answer.cancelled():
            answer.exception()  # looked at here, told by _answer
        return await _answer(job) if job.answer.done() else _later(job, 202)

    @app.get("/api/jobs/{id}")
    async def job(id: str) -> Response:
        if (job := desk.job(id)) is None:
            return _forgotten(id)
        if job.state == "done":
            return await _answer(job)
        return _later(job)

    @app.get("/api/jobs/{id}/page")
    async def job_page(id: str) -> Response:
        return await _on_page(desk.job(id), id, lambda page, document: HTMLResponse(page.html(document)))

    @app.get("/api/jobs/{id}/drawn")
    async def job_drawn(id: str) -> Response:
        return await _on_page(desk.job(id), id, lambda page, document: JSONResponse(page.data(document)))

    @app.delete("/api/jobs/{id}")
    async def cancel(id: str) -> Response:
        if (job := desk.job(id)) is None:
            return _forgotten(id)
        job.leave()
        return JSONResponse(_about(job))

    @app.exception_handler(CasebackError)
    async def refused(_: Request, error: CasebackError) -> Response:
        return _refusal(error)

    @app.exception_handler(ValueError)
    async def unreadable(_: Request, error: ValueError) -> Response:
        return _error(400, f"the question is not JSON in UTF-8: {error}")

    @app.exception_handler(ValidationError)
    @app.exception_handler(RequestValidationError)
    async def misshapen(_: Request, error: ValidationError | RequestValidationError) -> Response:
        return _error(422, "; ".join(map(_plainly, error.errors())))

    return app


def _plainly(error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"])) or "the question"
    return f"{where}: {'expected an object with fields' if error['type'] == 'model_type' else error['msg']}"


def _offered() -> dict[str, Any]:
    """What questions may name whatever the server was started with."""
    return {"tasks": sorted(names()), "methods": list(input_methods()), "depths": [*DEPTHS]}


def _titles() -> dict[str, str]:
    return {name: question.title for name, question in QUESTIONS.items()}


def _about(job: Job) -> dict[str, Any]:
    what, n, total = job.progress or ("", 0, None)
    error = job.answer.exception() if job.state == "failed" else None
    about = {"job": job.id, "state": job.state, "what": what, "n": n, "total": total}
    return {**about, "error": None if error is None else str(error), "raised": type(error).__name__ if error else None}


def _later(job: Job, status: int = 200) -> Response:
    """Where a job stands, to a client that comes back for it."""
    job.hear()
    return JSONResponse(_about(job), status_code=status)


async def _gone(request: Request) -> None:
    """Wait until a client that has sent its question goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer(job: Job, waiting: Request | None = None) -> Response:
    """The answer of a job; a client that goes away before it is there has left the job."""
    answer = asyncio.wrap_future(job.answer)
    if waiting is not None:
        gone = asyncio.create_task(_gone(waiting))
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not answer.done():
            job.leave()
    # shielded: a client that goes away must not cancel what others wait for
    try:
        body = await asyncio.shield(answer)
    except asyncio.CancelledError:
        return _error(409, "canceled")
    except CasebackError as error:
        return _refusal(error)
    except Exception as error:
        return _error(500, f"{type(error).__name__}: {error}; the server's own terminal has more")
    return Response(
        body, media_type=KIND if job.name in CALLS else "application/json", headers={"X-Caseback-Job": job.id}
    )


async def _on_page(job: Job | None, id: str, drawn: Callable[[Page, Any], Response]) -> Response:
    """What the page of a job's document makes of it."""
    if job is None or job.state != "done":
        return _forgotten(id)
    document = parse_json((await asyncio.wrap_future(job.answer)).decode())
    if document["kind"] not in PAGES:
        return _error(404, f"an answer to {job.name!r} has no page of its own")
    return await asyncio.to_thread(drawn, page_of(document), document)


def _forgotten(id: str) -> Response:
    return _error(404, f"no answer of a job {id!r} here: ask again")


def _refusal(error: CasebackError) -> Response:
    return _error(429 if isinstance(error, Busy) else 400, str(error), type(error).__name__)


def _error(status: int, words: str, raised: str | None = None) -> Response:
    return JSONResponse({"error": words} | ({"raised": raised} if raised else {}), status_code=status)


class Guarded:
    """Refuses who lacks the token, and says of every answer that it is for this client alone."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in place of the application where there is no token."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.token is not None and not _has_token(Request(scope), self.token):
            given = "the token that was given is not this server's" if _tokens(Request(scope)) else "a token is needed"
            words = f"{given}: open the address that `caseback serve` printed, token included"
            await _error(401, words)(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(PRIVATE)
            await send(message)

        await self.app(scope, receive, send_marked)


PRIVATE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def _has_token(request: Request, token: str) -> bool:
    return any(hmac.compare_digest(one.encode(), token.encode()) for one in _tokens(request))


def _tokens(request: Request) -> list[str]:
    """The tokens that a request brings."""
    given = (
        request.headers.get("authorization", "").removeprefix("Bearer "),
        request.cookies.get(COOKIE, ""),
        request.query_params.get("token", "") if request.url.path == "/" else "",
    )
    return [one for one in given if one]


class Bounded:
    """Refuses bodies of more bytes than ``most``, or than ``calls`` says of their path, and more than ``together``."""

    def __init__(self, app: ASGIApp, most: int, calls: Mapping[str, int], together: int) -> None:
        self.app, self.most, self.calls, self.together = app, most, calls, together
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in, and answer in place of the application where it is too much."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most, parts, size = self.calls.get(scope["path"], self.most), [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self.held += len(parts[-1])
                if size > most:
                    await _error(413, f"a body of more than {most} bytes")(scope, receive, send)
                    return
                if self.held > self.together:
                    await _error(429, "too much is being sent at once: ask again in a while")(scope, receive, send)
                    return
                if not message.get("more_body", False):
                    break
            whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]
            parts.clear()

            async def replay() -> Message:
                return whole.pop() if whole else await receive()

            await self.app(scope, replay, send)
        finally:
            self.held -= size
