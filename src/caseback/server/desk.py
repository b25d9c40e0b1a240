"""Where questions wait, are answered one at a time, and answers are kept.

There is a line for what is quick, one for jobs and one for the calls of remote models. An answer depends on the
question and the model alone, so the same question is answered once, for however many ask it, and read from what is kept
until that is full. A line is a thread; all use one model, whose passes wait for each other, so a quick question waits
for a pass of a long job, not for the job.

Work that nobody waits for ends: who asked says so, or has not asked about it for ``PATIENCE`` seconds.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import OrderedDict, deque
from concurrent.futures import CancelledError, Future
from contextvars import copy_context
from dataclasses import dataclass, field

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import watched
from caseback.model.running.model import Model
from caseback.server.asked import Form
from caseback.server.calls import CALLS, Call, Message
from caseback.server.questions import QUESTIONS, Question
from caseback.server.shelf import Shelf

EMPTY = Shelf()
LINES = ("quick", "calls", "jobs")
PATIENCE = 90.0  # seconds; a browser lets a page that nobody sees ask once a minute


class Busy(CasebackError):
    """More questions wait than are taken."""


@dataclass
class Job:
    """A question on its way to an answer.

    Attributes
    ----------
    id
        What clients call it.
    name, form
        The question; once it is answered the form is let go.
    answer
        Where the document will be, as JSON text, or the error.
    progress
        The bar's name, how much is done, of how much.
    askers
        How many wait for it.
    heard
        When one of those who come back for it last did; None while nobody has been told to come back.
    """

    id: str
    name: str
    form: Form | Message | None
    answer: Future[bytes] = field(default_factory=Future)
    progress: tuple[str, int, int | None] | None = None
    canceled: bool = False
    askers: int = 1
    heard: float | None = None

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``done``, ``failed`` or ``canceled``."""
        if not self.answer.done():
            return "running" if self.answer.running() else "waiting"
        if self.answer.cancelled() or isinstance(self.answer.exception(), CancelledError):
            return "canceled"
        return "failed" if self.answer.exception() else "done"

    def cancel(self) -> None:
        """Leave the line, or stop at the next step that reports progress."""
        self.canceled = True
        self.answer.cancel()

    def leave(self) -> None:
        """One who asked does not wait any more; where it was the last one, cancel."""
        self.askers -= 1
        if self.askers < 1 and not self.answer.done():
            self.cancel()

    def hear(self) -> None:
        """Somebody asks how far it is, and will again."""
        self.heard = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for it still."""
        return not self.canceled and (self.heard is None or time.monotonic() - self.heard < PATIENCE)

    def watch(self, what: str, n: int, total: int | None) -> None:
        """Note where the work stands, and end it where it is not wanted any more."""
        self.progress = (what, n, total)
        if not self.wanted:
            self.canceled = True
            raise CancelledError


def _asked(name: str) -> Question | Call:
    return CALLS[name] if name in CALLS else QUESTIONS[name]


class Desk:
    """Takes questions to one model, within a ``with``.

    Parameters
    ----------
    model
        The model.
    shelf
        The dictionaries and directions that questions may name.
    """

    def __init__(self, model: Model, shelf: Shelf = EMPTY) -> None:
        self.model, self.shelf = model, shelf
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._by_question: dict[str, Job] = {}
        self._lock = threading.Condition()
        self._lines: dict[str, deque[Job]] = {line: deque() for line in LINES}
        self._ids = itertools.count(1)
        self._open = True
        # with the limits that hold here, where the desk is opened
        self._threads = [
            threading.Thread(target=copy_context().run, args=(self._work, line), daemon=True) for line in LINES
        ]

    def __enter__(self) -> Desk:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what waits and what runs, and end the lines."""
        with self._lock:
            self._open = False
            for job in self._jobs.values():
                if not job.answer.done():
                    job.cancel()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def ask(self, name: str, form: Form | Message) -> Job:
        """The job of a question: a new one, or that of whoever asked the same.

        Raises
        ------
        Busy
            If too many questions wait.
        """
        question = f"{name} {form.key()}"
        with self._lock:
            job = self._by_question.get(question)
            if job is not None and not job.canceled and job.state != "failed":
                self._jobs.move_to_end(job.id)
                if not job.answer.done():
                    job.askers += 1
                    job.heard = None
                return job
            line = self._lines[_asked(name).line]
            if len(line) >= (most := limit("server_waiting")):
                raise Busy(f"{most} questions wait already: ask again in a while")
            if sum(waiting.form.size() for waiting in line if waiting.form) + form.size() > limit(
                "server_bodies_bytes"
            ):
                raise Busy("more is waiting already than this server holds: ask again in a while")
            job = Job(f"{next(self._ids)}", name, form)
            self._jobs[job.id] = self._by_question[question] = job
            self._forget()
            line.append(job)
            self._lock.notify_all()
        return job

    def job(self, id: str) -> Job | None:
        """The job of this id, if it is still remembered."""
        with self._lock:
            return self._jobs.get(id)

    def _work(self, name: str) -> None:
        line = self._lines[name]
        while True:
            with self._lock:
                self._lock.wait_for(lambda: line or not self._open)
                if not self._open:
                    return
                job = line.popleft()
            if not job.wanted:
                job.cancel()
            if job.answer.set_running_or_notify_cancel():
                self._answer(job)

    def _answer(self, job: Job) -> None:
        form, job.form = job.form, None
        try:
            with watched(job.watch):
                answer = _asked(job.name).written(self.model, form, self.shelf)
            job.answer.set_result(answer)
        except CancelledError as error:
            job.answer.set_exception(error)
        except Exception as error:  # a job that fails is told to who asked, and the next one is answered
            if not isinstance(error, CasebackError):
                traceback.print_exc()
            job.answer.set_exception(error)

    def _forget(self) -> None:
        """Drop the jobs that ended longest ago, beyond so many and so many bytes."""
        ended = [job for job in self._jobs.values() if job.answer.done()]
        size = sum(len(job.answer.result()) for job in ended if job.state == "done")
        for job in ended:
            if size <= limit("server_answer_bytes") and len(self._jobs) <= limit("server_jobs"):
                return
            size -= len(job.answer.result()) if job.state == "done" else 0
            del self._jobs[job.id]
            self._by_question = {question: other for question, other in self._by_question.items() if other is not job}
