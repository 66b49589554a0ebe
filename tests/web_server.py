"""A web server for a folder, on this machine. It misbehaves if a test asks it to."""

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class Server(ThreadingHTTPServer):
    """Its behaviour may be changed while it runs. `faults` belong to a path, and each is used up by one request:
    a status to answer with, a path or a URL to be sent to, "reset", "truncate", or "endless" (a body without a length).
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, list[Any]] = {}
        self.ranges, self.index, self.latency = True, True, 0.0
        self.user, self.query = "", ""  # what it demands
        self.requests_left: int | None = None  # before it is gone; None: it stays
        self.asked: list[str] = []  # paths
        self.sent, self.at_once, self.most_at_once = 0, 0, 0  # bytes of bodies; requests
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up."""


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(args[2].folder))

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked.append(self.path)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            gone = server.requests_left == 0
            if server.requests_left:
                server.requests_left -= 1
        try:
            time.sleep(server.latency)
            if gone:
                self.close_connection = True
            else:
                self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> None:
        server, url = self.server, urlsplit(self.path)
        credentials = base64.b64encode(server.user.encode()).decode()
        if server.user and self.headers.get("Authorization") != f"Basic {credentials}":
            self.send_error(401)
            return
        if server.query and url.query != server.query:
            self.send_error(403)
            return
        fault = server.faults.get(url.path, [None]).pop(0) if server.faults.get(url.path) else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if isinstance(fault, str) and (fault.startswith("/") or "://" in fault):
            self.send_response(302)
            self.send_header("Location", fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            self.close_connection = True
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            if file.is_dir() and not server.index and url.path.endswith("/"):
                self.send_error(403)
            else:
                super().do_GET()
            return
        data, status = file.read_bytes(), 200
        self._send(data, status, fault)

    def _send(self, data: bytes, status: int, fault: Any) -> None:
        span = self.headers.get("Range") if self.server.ranges else None
        content_range = None
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content_range = f"bytes {first}-{min(int(last), len(data) - 1)}/{len(data)}"
            data, status = data[int(first) : int(last) + 1], 206
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        if fault == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "truncate":
            data, self.close_connection = data[: len(data) // 2], True
        with contextlib.suppress(OSError):
            for i in range(0, len(data), 1 << 16):
                self.wfile.write(data[i : i + (1 << 16)])
                with self.server.lock:
                    self.server.sent += len(data[i : i + (1 << 16)])


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[Server]:
    """A server for a folder, as long as the context lasts."""
    server = Server(folder, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.requests_left = 0  # connections that are kept
        server.shutdown()
        server.server_close()
        thread.join()
