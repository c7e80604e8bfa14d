"""Stand-ins of Hugging Face and Kaggle on 127.0.0.1 that speak just enough of both for the real clients."""

import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, field


@dataclass
class Mirror:
    """What the server holds, how it misbehaves, and what it was asked.

    ``files`` are Hugging Face's by path; ``kaggle`` is a data set's archive by its handle, or one file by
    handle and path. ``drop_after`` cuts every answer after so many bytes; one whose address holds
    ``hold`` waits until that changes.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    kaggle: dict[str, bytes] = field(default_factory=dict)
    drop_after: int | None = None
    hold: str = "nothing"
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    address: str = ""

    def __enter__(self) -> "Mirror":
        handler = type("Handler", (_Handler,), {"mirror": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        place, _, name = urllib.parse.unquote(self.path)[1:].partition("/")
        if place == "datasets":
            return self._resolve()
        content = (self.mirror.files if place == "storage" else self.mirror.kaggle).get(name)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        self._answer(content or b"", headers, status=200 if content else 404)

    def do_POST(self) -> None:
        """Kaggle's interface: the version of a data set, and its archive or one file of it."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = f"{request['ownerSlug']}/{request['datasetSlug']}"
        if self.path.endswith("DownloadDataset"):
            name += f"/{request['fileName']}" if request.get("fileName") else ""
            self._answer(b"", {"Location": urllib.parse.quote(f"/archives/{name}")}, status=302)
        elif any(held.startswith(name) for held in self.mirror.kaggle):
            self._answer(b'{"currentVersionNumber": 1}', {"Content-Type": "application/json"})
        else:
            self._answer(b"", status=404)

    def _resolve(self) -> None:
        """Hugging Face's ``/datasets/OWNER/NAME/resolve/REVISION/PATH``: sends the reader to the storage."""
        match = re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/([0-9a-f]{40})/(.+)", self.path)
        content = self.mirror.files.get(match[2]) if match else None
        if content is None:
            return self._answer(b"", status=404)
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": match[1], "X-Linked-Size": str(len(content)), "X-Linked-ETag": digest}
        storage = self.mirror.address.replace("127.0.0.1", "localhost")  # another host than the hub's
        self._answer(b"", headers | {"Location": f"{storage}/storage/{match[2]}"}, status=302)

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        wanted, headers = self.headers.get("Range"), dict(headers or {})
        self.mirror.asked.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
        if wanted and status == 200:
            start = int(re.match(r"bytes=(\d+)-", wanted)[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        while self.mirror.hold in self.path:
            time.sleep(0.02)
        part = content[: self.mirror.drop_after]
        self.wfile.write(part)
        self.mirror.sent += len(part)
        if len(part) < len(content):
            self.close_connection = True

    def log_message(self, *_) -> None:
        pass
