"""Serving the explorer: on this machine alone unless asked otherwise, and then with a token."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.server.shelf import Shelf


def serve(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    shelf: Shelf | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the explorer of a model until interrupted.

    Parameters
    ----------
    model
        The model.
    host, port
        Where it listens; port 0 takes a free one.
    token
        What clients must have. By default none on this machine alone, and a random one elsewhere.
    shelf
        Dictionaries and directions that clients may name; none by default.
    ready
        Given the address once it can be opened.

    Raises
    ------
    CasebackError
        Where the extra ``explorer`` is not installed, the port is taken, the host is none of this machine's, or a site
        has the name of one of the shelf's dictionaries already.
    """
    with _server(model, host, port, token, shelf) as (server, address, listening):
        ready(address)
        _run(server, listening)
        _expect_started(server)


@contextmanager
def served(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    shelf: Shelf | None = None,
) -> Iterator[str]:
    """An explorer that runs beside the program, for as long as the block does.

    Parameters
    ----------
    model
        The model.
    host, port, token, shelf
        As for ``serve``; the port is any free one.

    Yields
    ------
    str
        Its address, token included.

    Raises
    ------
    CasebackError
        As ``serve``.

    Examples
    --------
    >>> import caseback as cb
    >>> with served(cb.load("meadow")) as address:
    ...     cb.connect(address).n_layers
    4
    """
    with _server(model, host, port, token, shelf) as (server, address, listening):
        # a daemon: a program that ends in the block does not wait for it
        thread = threading.Thread(target=_run, args=(server, listening), daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            _expect_started(server)
            yield address
        finally:
            server.should_exit = True
            thread.join()


def _run(server: Any, listening: socket.socket) -> None:
    with suppress(SystemExit):  # uvicorn's answer to an application that does not start
        server.run(sockets=[listening])


def _expect_started(server: Any) -> None:
    if not server.started:
        why = getattr(server.config.app.state, "refused", None)
        raise CasebackError(f"the explorer did not start{f': {why}' if why else ''}")


@contextmanager
def _server(
    model: Model, host: str, port: int, token: str | None, shelf: Shelf | None
) -> Iterator[tuple[Any, str, socket.socket]]:
    try:
        import uvicorn

        from caseback.server.app import explorer
    except ModuleNotFoundError as missing:
        raise CasebackError(
            f"the explorer needs {missing.name}: install it with `pip install 'caseback[explorer]'`"
        ) from None
    if token is not None and not (token.isascii() and token.isalnum()):
        raise CasebackError(
            "a token of other signs than letters and digits of ASCII: give such, or none for a random one"
        )
    listening = _listen(host, port)
    with listening:
        port = listening.getsockname()[1]
        local = _is_loopback(host)
        if token is None and not local:
            token = secrets.token_hex(16)
        names = {host, f"{host}:{port}"} | ({"127.0.0.1", "localhost"} if local else {"*"})
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/" + (f"?token={token}" if token else "")
        config = uvicorn.Config(
            explorer(model, hosts=sorted(names), token=token, shelf=shelf),
            log_level="error",
            limit_concurrency=limit("server_clients"),
            timeout_graceful_shutdown=2,
        )
        yield uvicorn.Server(config), address, listening


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise CasebackError(f"port {port}: expected 0 (a free one) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # from now on whoever asks waits, rather than being refused, until there is an answer
    except (OSError, TypeError, ValueError) as error:  # a host that no socket takes
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise CasebackError(
            f"cannot listen on {host[:100]!r} port {port} ({why}): if another program has the port, give --port "
            "another number, or 0 for any free one"
        ) from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
