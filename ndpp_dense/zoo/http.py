"""Fetching over HTTP: resumes, refuses what does not fit, and gives a server that dawdles up.

The standard library's client takes proxies from the same variables as others do (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)
and certificates from SSL_CERT_FILE. What it lacks for this is a limit to a whole answer: its timeout is per read, which
a server that sends a byte now and then never exceeds.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ndpp_dense.redaction import redacted_address
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.part import PartFile, WrongBytesError

__all__ = ["CutOffError", "Patience", "RefusedError", "blocks", "fetch_http", "open_http", "stated_length"]

_BLOCK = 1 << 18
_LENGTH = re.compile(r"[0-9]{1,18}")
_AUTHORIZATION = "Authorization"
_ALWAYS = {"User-Agent": "ndpp-dense", "Accept-Encoding": "identity"}
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
    with open_http(url, patience, _headers(url, part)) as response:
        if response.status == 416:  # there is more than the server has: of something else
            advance(-part.done)
            part.restart()
            raise CutOffError("HTTP 416: it has less than was fetched before")
        _accept(response, url, part, advance)
        for block in blocks(response, patience):
            part.write(block)
            advance(len(block))
    if part.done < part.size:
        raise CutOffError(f"it ended after {part.done} of {part.size} bytes")


@contextmanager
def open_http(url: str, patience: Patience, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """The answer to a request. A user in the address is sent to its host alone, as HTTP's basic authentication.

    Args:
        url: http or https address.
        patience: How long to wait.
        headers: Of the request.

    Yields:
        What http.client makes of it; with status 416 too.

    Raises:
        CutOffError: It is worth another attempt; also of what arises while the answer is read.
        RefusedError: It is not.
    """
    try:
        with _opener(patience).open(_request(url, headers or _ALWAYS), timeout=patience.timeout) as response:
            yield response
    except (ZooError, CutOffError, RefusedError):
        raise
    except urllib.error.HTTPError as error:
        if error.code == 416:
            with error:
                yield error
            return
        error.close()
        kind = CutOffError if error.code in _WORTH_RETRYING else RefusedError
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (http.client.InvalidURL, ValueError) as error:  # of the address, or of one that it redirects to
        raise RefusedError("its address, or one that it redirects to, is none") from error
    except (OSError, http.client.HTTPException) as error:
        raise CutOffError(f"{getattr(error, 'reason', None) or error or type(error).__name__}") from error


def _request(url: str, headers: Mapping[str, str]) -> urllib.request.Request:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)), headers=dict(headers))
    if at:
        name, _, password = user.partition(":")
        secret = f"{unquote(name)}:{unquote(password)}".encode()
        # "Unredirected": not for another host that this one sends to.
        request.add_unredirected_header(_AUTHORIZATION, f"Basic {base64.b64encode(secret).decode()}")
    return request


def stated_length(response: Any) -> int | None:
    """The bytes that an answer says it has; None where it does not say.

    Raises:
        RefusedError: It says what is no number of bytes.
    """
    stated = response.headers.get("Content-Length")
    if stated is not None and not _LENGTH.fullmatch(stated.strip()):
        raise RefusedError(f"it states the length {stated!r:.40}, which is no number of bytes")
    return None if stated is None else int(stated)


def _headers(url: str, part: PartFile) -> dict[str, str]:
    headers = dict(_ALWAYS)
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
    length = stated_length(response)
    if length is not None and length != part.size - part.done:
        raise WrongBytesError(f"it has {length} bytes where {part.size - part.done} are needed")
    etag = response.headers.get("ETag", "")
    strong = etag if not etag.startswith("W/") else ""  # a weak one does not vouch for bytes
    part.remember(url, strong or response.headers.get("Last-Modified", ""))


def blocks(response: Any, patience: Patience) -> Iterator[bytes]:
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
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        less_safe = after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http")
        if less_safe or "@" in after.netloc:
            raise RefusedError(f"it redirects to {redacted_address(newurl)!r:.120}, which is not followed")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        secret = req.unredirected_hdrs.get(_AUTHORIZATION)
        if request is not None and secret and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            request.add_unredirected_header(_AUTHORIZATION, secret)
        return request

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Says what a refused redirect would have led to, before the parent class gives its own, shorter reason."""
        target = headers.get("location") or headers.get("uri") or ""
        if urlsplit(target).scheme not in ("", "http", "https"):
            raise RefusedError(f"it redirects to {redacted_address(target)!r:.120}, which is not followed")
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
