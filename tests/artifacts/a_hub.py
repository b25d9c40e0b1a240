"""A hub on this machine: as much of the Hugging Face hub's protocol as its client needs to push a file and fetch it."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Files by repository and path, in the server's ``files``; writers need the token "ours"."""

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):  # noqa: N802
        self.do_GET()

    def do_GET(self):  # noqa: N802
        owner, name, *rest = unquote(urlsplit(self.path).path).strip("/").split("/")
        data = self.server.files.get((f"{owner}/{name}", "/".join(rest[2:])))
        if rest[:1] != ["resolve"] or data is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        self._answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = urlsplit(self.path).path
        if self.headers.get("Authorization") != "Bearer ours":
            return self._answer(401, {"error": "Invalid username or password."})
        if place == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []}, Content_Type="application/json")
        if place == "/api/repos/create":
            asked = json.loads(body)
            self.server.repositories.append(asked)
            return self._answer(
                200, {"url": f"{self.server.address}/{asked.get('organization', 'us')}/{asked['name']}"}
            )
        repository = "/".join(place.split("/")[3:5])
        if "/preupload/" in place:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        lines = [json.loads(line) for line in body.decode().splitlines()]
        for line in lines:
            if line["key"] == "file":
                self.server.files[repository, line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self._answer(200, {"commitUrl": f"{self.server.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})


@contextmanager
def a_hub():
    """A server with ``address``, ``files`` and ``repositories``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.files, server.repositories = f"http://127.0.0.1:{server.server_port}", {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
