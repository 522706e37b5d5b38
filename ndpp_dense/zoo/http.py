"""Fetching over HTTP: resumes, refuses what does not fit, and gives a server that dawdles up.

The standard library's client takes proxies from the same variables as others do (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)
and certificates from SSL_CERT_FILE. What it lacks for this is a limit to a whole answer: its timeout is per read, which
a server that sends a byte now and then never exceeds.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ndpp_dense.zoo.part import PartFile, WrongBytesError

__all__ = ["CutOffError", "Patience", "RefusedError", "fetch_http"]

_BLOCK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_WORTH_RETRYING = {408, 416, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long to wait for servers.

    Attributes:
        timeout: Seconds for connecting, for the head of an answer, and without any byte after that.
        window: Seconds over which the rate is measured.
        min_rate: Bytes a second that a server must send over a window.
        attempts: At each source.
        backoff: Seconds before the second attempt; doubles with each.
    """

    timeout: float = 20.0
    window: float = 30.0
    min_rate: float = 2048.0
    attempts: int = 4
    backoff: float = 0.5


class CutOffError(ConnectionError):
    """The transfer broke off or could not start; another attempt may go on."""


class RefusedError(ConnectionError):
    """The server has no such file, or sends what is not asked for: another attempt would not help."""


def fetch_http(url: str, part: PartFile, patience: Patience, advance: Callable[[int], Any]) -> None:
    """Fetches what is missing of a file.

    Args:
        url: http or https address.
        part: What is there already, and where the rest goes.
        patience: How long to wait.
        advance: Called with the number of bytes that each block adds; with a negative one where the server starts from
            the beginning.

    Raises:
        CutOffError: It is worth another attempt.
        RefusedError: It is not.
        WrongBytesError: The server sends another length.
    """
    request = urllib.request.Request(url, headers=_headers(url, part))
    try:
        with _opener(patience).open(request, timeout=patience.timeout) as response:
            _accept(response, url, part, advance)
            for block in _blocks(response, patience):
                part.write(block)
                advance(len(block))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is more than the server has: of something else
            advance(-part.done)
            part.restart()
        kind = CutOffError if error.code in _WORTH_RETRYING else RefusedError
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, CutOffError | RefusedError):
            raise
        reason = getattr(error, "reason", None) or error
        raise CutOffError(f"{reason or type(error).__name__}, after {part.done} of {part.size} bytes") from error
    if part.done < part.size:
        raise CutOffError(f"it ended after {part.done} of {part.size} bytes")


def _headers(url: str, part: PartFile) -> dict[str, str]:
    headers = {"User-Agent": "ndpp-dense", "Accept-Encoding": "identity"}
    if part.done:
        headers["Range"] = f"bytes={part.done}-"
        validator = part.validator(url)
        if validator:  # the server then sends all of it if it has another version by now
            headers["If-Range"] = validator
    return headers


def _accept(response: Any, url: str, part: PartFile, advance: Callable[[int], Any]) -> None:
    """Checks the head of the answer, and starts anew where the server does."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"it sends the encoding {response.headers['Content-Encoding']!r}, which was not asked for")
    if response.status == 206:
        given = _RANGE.match(response.headers.get("Content-Range", ""))
        if given is None or int(given[1]) != part.done or given[2] not in ("*", str(part.size)):
            advance(-part.done)
            part.restart()
            raise CutOffError(f"it sends the range {response.headers.get('Content-Range')!r}, which was not asked for")
    elif part.done:
        advance(-part.done)
        part.restart()
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != part.size - part.done:
        raise WrongBytesError(f"it has {int(length)} bytes where {part.size - part.done} are needed")
    etag = response.headers.get("ETag", "")
    strong = etag if not etag.startswith("W/") else ""  # a weak one does not vouch for bytes
    part.remember(url, strong or response.headers.get("Last-Modified", ""))


def _blocks(response: Any, patience: Patience) -> Iterator[bytes]:
    """What arrives, as it arrives.

    Raises:
        CutOffError: It is too slow.
    """
    start, received = time.monotonic(), 0
    while block := response.read1(_BLOCK):
        yield block
        received += len(block)
        spent = time.monotonic() - start
        if spent > patience.window:
            if received < patience.min_rate * spent:
                raise CutOffError(f"it sends {received / spent:.0f} bytes a second, less than {patience.min_rate:.0f}")
            start, received = time.monotonic(), 0


class _SameOrSafer(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before == "https" and after == "http"):
            raise RefusedError(f"it redirects to {newurl!r:.120}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Says what a refused redirect would have led to, before the parent class gives its own, shorter reason."""
        target = headers.get("location") or headers.get("uri") or ""
        if urlsplit(target).scheme not in ("", "http", "https"):
            raise RefusedError(f"it redirects to {target!r:.120}, which is not followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _opener(patience: Patience) -> urllib.request.OpenerDirector:
    class _Timed:
        """A connection that is shut down where the head of an answer takes too long, however many bytes trickle."""

        def getresponse(self) -> Any:
            timer = threading.Timer(patience.timeout, _shut, (self,))
            timer.daemon = True
            timer.start()
            try:
                return super().getresponse()  # type: ignore[misc]
            finally:
                timer.cancel()

    class _Http(_Timed, http.client.HTTPConnection):
        pass

    class _Https(_Timed, http.client.HTTPSConnection):
        pass

    class _HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(_Http, req)

    class _HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(_Https, req)

    opener = urllib.request.OpenerDirector()  # build_opener would add file: and ftp: too
    for handler in (
        urllib.request.ProxyHandler(),
        _HttpHandler(),
        _HttpsHandler(),
        _SameOrSafer(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _shut(connection: Any) -> None:
    if connection.sock is not None:
        connection.sock.shutdown(socket.SHUT_RDWR)
