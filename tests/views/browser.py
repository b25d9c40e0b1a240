"""A page in headless Chromium, spoken to through the pipe of its debugging protocol: no driver, no port.

with browser() as page:
    page.look(width=400, dark=True)
    page.open(path.as_uri())
    page.evaluate("document.documentElement.scrollWidth")
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if BROWSER is None and os.environ.get("CASEBACK_BROWSER") == "required":
    raise RuntimeError("CASEBACK_BROWSER asks for a browser, and there is none on the path: install chromium")
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
HEARD = """axe.run({ resultTypes: ["violations"] }).then(({ violations }) => violations
  .filter(({ impact }) => ["serious", "critical"].includes(impact))
  .map(({ id, nodes }) => [id, ...nodes.slice(0, 3).map(({ html }) => html.slice(0, 160))]))"""
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


class Tab:
    """One tab: what is sent to it, and what it answers."""

    def __init__(self, send, receive):
        self._send, self._receive, self._count, self._session = send, receive, 0, {}

    def call(self, method, **parameters):
        """The result of one method of the protocol; events are passed over."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters} | self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.call("Page.enable")

    def open(self, address):
        """Go to a page and wait until it has been drawn and furnished, and drawn again by what observes its size."""
        self.call("Page.navigate", url=address)
        self.evaluate(
            "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        )
        # a page with a masthead is furnished once its document has been unzipped
        self.evaluate(
            "new Promise(done => { const look = () => !document.querySelector('.masthead, main#page:empty')"
            " || 'ready' in document.documentElement.dataset ? done() : setTimeout(look, 10); look() })"
        )
        self._draw()

    def look(self, width, *, dark=False, height=900):
        """The reader's window and setting of colors."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._draw()

    def _draw(self):
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def evaluate(self, expression):
        """The value of a JavaScript expression, or of the promise that it is."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def unheard(self):
        """What assistive technology cannot read of the page, as axe-core finds it: serious findings, and where."""
        if not AXE.is_file() and os.environ.get("CASEBACK_BROWSER") != "required":
            pytest.skip("axe-core is not installed: run `npm ci` in frontend/")
        self.evaluate(AXE.read_text(encoding="utf-8") + ";undefined")
        return self.evaluate(HEARD)

    def picture(self, path, *, whole=True):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self):
        parts = []
        while not (parts and parts[-1].endswith(b"\0")):
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser ended"
            parts.append(part)
        # answers come one at a time, events may come together with them
        messages = [json.loads(text) for text in b"".join(parts).split(b"\0") if text]
        return next((m for m in messages if m.get("id") == self._count), messages[-1])


@contextmanager
def browser():
    """A browser of one tab."""
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    # a browser that is going may still write into its profile
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the protocol is spoken on descriptors 3 and 4
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        arguments = [*FLAGS.split(), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, *arguments],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            tab = Tab(send, receive)
            tab.attach()
            yield tab
        finally:
            process.kill()
            process.wait()
            os.close(send)
            os.close(receive)
