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

    ``files`` are Hugging Face's by path, ``archives`` and ``single`` Kaggle's: a data set's archive by
    handle, one file by handle and path. ``drop_after`` cuts every answer after so many bytes; ``dead_after``
    lets no more than so many bytes through in all; ``lie`` is added to the size of a file that is told
    beforehand; ``flip`` is the place of a byte of each answer that comes changed; ``pause`` is a wait in
    seconds after each thousand bytes.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    single: dict[tuple[str, str], bytes] = field(default_factory=dict)
    drop_after: int | None = None
    dead_after: int | None = None
    lie: int = 0
    flip: int | None = None
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    address: str = ""

    def __enter__(self) -> "Mirror":
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": self})
        )
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
        handle, _, file = name.partition("?")
        held = (
            self.mirror.files if place == "storage" else self.mirror.single if file else self.mirror.archives
        )
        content = held.get((handle, file) if file else handle)
        self._answer(
            content or b"",
            {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"},
            status=200 if content else 404,
        )

    def do_POST(self) -> None:
        """Kaggle's interface: the version of a data set, and its archive or one file of it."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        handle = f"{request['ownerSlug']}/{request['datasetSlug']}"
        if self.path.endswith("GetDataset") and (
            handle in self.mirror.archives or any(owner == handle for owner, _ in self.mirror.single)
        ):
            self._answer(
                json.dumps({"currentVersionNumber": 1}).encode(), {"Content-Type": "application/json"}
            )
        elif self.path.endswith("DownloadDataset"):
            self._answer(b"", {"Location": f"/archives/{handle}?{request.get('fileName') or ''}"}, status=302)
        else:
            self._answer(b"", status=404)

    def _resolve(self) -> None:
        """Hugging Face's ``/datasets/OWNER/NAME/resolve/REVISION/PATH``: sends the reader to the storage."""
        match = re.fullmatch(r"/datasets/[^/]+/[^/]+/resolve/([0-9a-f]{40})/(.+)", self.path)
        content = self.mirror.files.get(match[2]) if match else None
        if content is None:
            return self._answer(b"", status=404)
        size, digest = len(content) + self.mirror.lie, hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": match[1], "X-Linked-Size": str(size), "X-Linked-ETag": f'"{digest}"'}
        storage = self.mirror.address.replace("127.0.0.1", "localhost")  # another host than the hub's
        self._answer(b"", headers | {"Location": f"{storage}/storage/{match[2]}"}, status=302)

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        wanted = self.headers.get("Range")
        self.mirror.asked.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
        if wanted and status == 200:
            start = int(re.match(r"bytes=(\d+)-", wanted)[1])
            headers = (headers or {}) | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content, status = content[start:], 206
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        limits = [
            self.mirror.drop_after,
            None if self.mirror.dead_after is None else max(self.mirror.dead_after - self.mirror.sent, 0),
        ]
        part = content[: min((limit for limit in limits if limit is not None), default=len(content))]
        if self.mirror.flip is not None:
            part = bytes(byte ^ (place == self.mirror.flip) for place, byte in enumerate(part))
        step = 1000 if self.mirror.pause else max(len(part), 1)
        for start in range(0, len(part), step):
            self.wfile.write(part[start : start + step])
            self.mirror.sent += len(part[start : start + step])
            time.sleep(self.mirror.pause)
        if len(part) < len(content):
            self.close_connection = True

    def log_message(self, *_) -> None:
        pass
