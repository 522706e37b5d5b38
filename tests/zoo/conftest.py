"""A loopback server with faults to order, and a model zoo of one small file."""

import hashlib
import http.server
import socketserver
import threading
import time
from dataclasses import dataclass, field, replace

import pytest
import torch

from ndpp_dense.zoo import Cache, Patience, ZooFile, ZooIndex, ZooModel, resolve

# Patient enough for a busy machine, where a moment without bytes means nothing.
QUICK = Patience(timeout=20.0, window=1.0, min_rate=5_000, attempts=3, backoff=0.01)
CONTENT = bytes(
    torch.randint(0, 256, (300_000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).tolist()
)


@dataclass
class Behaviour:
    """What the server does; ``requests`` are the heads that it has seen."""

    content: bytes = CONTENT
    status: int = 200
    cut_after: int | None = None  # bytes of every answer, until `cuts` are used up
    cuts: int = 10**9
    ranges: bool = True
    etag: str = '"one"'
    delay: float = 0.0  # seconds between blocks
    head_delay: float = 0.0  # seconds between bytes of the head
    block: int = 65536
    length: int | None = None  # stated, in place of the right one
    location: str = ""
    requests: list = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802
        does = self.server.behaviour
        does.requests.append({"path": self.path, **dict(self.headers)})
        if does.head_delay:
            for letter in b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1000:
                self.wfile.write(bytes([letter]))
                time.sleep(does.head_delay)
            return
        if does.status != 200:
            self._plain(does.status)
            return
        self._send(does)
        self.close_connection = True

    def _plain(self, status):
        self.send_response(status)
        if self.server.behaviour.location:
            self.send_header("Location", self.server.behaviour.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, does):
        start = 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range", does.etag) == does.etag
        if wanted and does.ranges and same:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(does.content):
                return self._plain(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(does.content) - 1}/{len(does.content)}")
        else:
            self.send_response(200)
        body = does.content[start:]
        self.send_header("Content-Length", str(does.length if does.length is not None else len(body)))
        self.send_header("ETag", does.etag)
        self.end_headers()
        if does.cut_after is not None and does.cuts > 0:
            does.cuts -= 1
            body = body[: does.cut_after]
        for at in range(0, len(body), does.block):
            self.wfile.write(body[at : at + does.block])
            if does.delay:
                time.sleep(does.delay)
        return None


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients hang up on purpose


@pytest.fixture
def serve(monkeypatch):
    """Starts servers: ``serve(Behaviour(...))`` returns the address below which they answer."""
    servers = []
    monkeypatch.setenv("no_proxy", "*")

    def start(behaviour):
        server = _Server(("127.0.0.1", 0), _Handler)
        server.behaviour = behaviour
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


ROW = ZooModel("toy", 1, "classification", "timm", "toy_config", "toys", "one step", "MIT", "make toys")


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Makes a model zoo of one row, whose file is at the given addresses."""
    for name in ("NDPP_ZOO_MIRROR", "NDPP_OFFLINE", "NDPP_ZOO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "home"))

    def make(*urls, content=CONTENT, form="safetensors"):
        digest = hashlib.sha256(content).hexdigest()
        file = ZooFile(f"toy-1.{form}", digest, len(content), form, tuple(f"{url}/toy-1.{form}" for url in urls))
        return ZooIndex(tmp_path / "zoo" / "index.json", (), {"toy": replace(ROW, files=(file,))})

    return make


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "home")


@pytest.fixture
def behaviour():
    """The class: ``behaviour(status=404)``."""
    return Behaviour


@pytest.fixture
def content():
    return CONTENT


@pytest.fixture
def fetch(zoo, cache):
    """Resolves the toy from the given addresses."""

    def run(*urls, **given):
        return resolve("ndpp://toy", index=zoo(*urls), cache=cache, patience=given.get("patience", QUICK))

    return run
