"""What a server says about the length of a file: the next mirror helps whatever it says."""

import http.server
import socketserver
import threading

import pytest


@pytest.fixture
def odd(monkeypatch):
    """Starts servers that answer with a given head and body."""
    servers = []
    monkeypatch.setenv("no_proxy", "*")

    def start(head, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):  # noqa: N802
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
                self.close_connection = True

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


LENGTHS = [b"many", b"-1", b"-300000", b"3e5", b"0x10", b"", b"99999999999999999999", b"1" * 5000, b"300000, 300000"]
LENGTHS += ["\u0663".encode(), b"1", b"300001"]


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: repr(length[:12]))
def test_the_next_mirror_is_tried(odd, serve, behaviour, fetch, content, length):
    first = odd(b"Content-Length: " + length + b"\r\n", content)
    assert fetch(first, serve(behaviour())).read_bytes() == content


def test_an_answer_without_a_length_is_taken(odd, fetch, content):
    assert fetch(odd(b"", content)).read_bytes() == content


def test_an_answer_in_chunks_is_taken(odd, fetch, content):
    body = f"{len(content):x}\r\n".encode() + content + b"\r\n0\r\n\r\n"
    assert fetch(odd(b"Transfer-Encoding: chunked\r\n", body)).read_bytes() == content


@pytest.mark.parametrize("body", [b"zz\r\nxx", b"-5\r\nxxxxx", b"fffffffffffffffff\r\nx", b""])
def test_faulty_chunks_lead_to_the_next_mirror(odd, serve, behaviour, fetch, content, body):
    first = odd(b"Transfer-Encoding: chunked\r\n", body)
    assert fetch(first, serve(behaviour())).read_bytes() == content
