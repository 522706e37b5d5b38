"""Secrets in addresses: sent where they belong, shown and kept nowhere."""

import base64
import json
import logging
import subprocess
import sys

import pytest

from ndpp_dense.cli.main import main
from ndpp_dense.redaction import redacted
from ndpp_dense.zoo import ZooError, as_address, local_copy

SECRETS = ("alice", "s3cret", "t0ken", "s1gnature")
USER = "alice:s3cr%65t@"
QUERY = "?token=t0ken&X-Amz-Signature=s1gnature"


def with_user(address):
    return address.replace("://", f"://{USER}")


def hidden(text):
    return not any(secret in text for secret in (*SECRETS, "s3cr%65t"))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://a:b@host/x", "https://***@host/x"),
        ("https://a@host:80/x", "https://***@host:80/x"),
        ("https://a:b/c@host/x", "https://***@host/x"),
        ("https://a:b@c@host/x", "https://***@host/x"),
        ("https://host/x?token=1&b=2;c", "https://host/x?token=***&b=***;***"),
        ("https://host/x?t0ken", "https://host/x?***"),
        ("https://host/x#t0ken", "https://host/x#***"),
        ("https://host/pkg@1.0/x", "https://host/pkg@1.0/x"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("ndpp://name", "ndpp://name"),
        ("no address, a@b?c=d", "no address, a@b?c=d"),
        ("'https://a:b@host/x' and http://c@d?e", "'https://***@host/x' and http://***@d?***"),
    ],
)
def test_what_is_shown_of_an_address(address, shown):
    assert redacted(address) == shown


def test_a_user_is_sent_and_kept_nowhere(serve, behaviour, fetch, cache, content, caplog):
    does = behaviour(cut_after=100_000, cuts=1)
    with caplog.at_level(logging.DEBUG):
        path = fetch(with_user(serve(does)))
    assert path.read_bytes() == content
    wanted = "Basic " + base64.b64encode(b"alice:s3cret").decode()
    assert [request["Authorization"] for request in does.requests] == [wanted] * 2
    assert not any("@" in request["Host"] for request in does.requests)
    assert hidden(caplog.text)


def test_notes_of_a_transfer_hold_no_secret(serve, behaviour, fetch, cache):
    with pytest.raises(ZooError) as caught:
        fetch(with_user(serve(behaviour(cut_after=1000))))
    assert hidden(str(caught.value))
    (note,) = cache.blobs.glob("*.json")
    assert hidden(note.read_text())


@pytest.mark.parametrize("status", [403, 404, 500])
def test_errors_and_mirrors_hold_no_secret(serve, behaviour, fetch, monkeypatch, capsys, caplog, status):
    monkeypatch.setenv("NDPP_ZOO_MIRROR", with_user(serve(behaviour(status=status))))
    with caplog.at_level(logging.DEBUG), pytest.raises(ZooError, match=r"http://\*\*\*@127") as caught:
        fetch(with_user(serve(behaviour(status=status))))
    assert hidden(str(caught.value) + caplog.text + "".join(capsys.readouterr()))


def test_offline_names_the_place_without_secrets(fetch, monkeypatch):
    monkeypatch.setenv("NDPP_OFFLINE", "1")
    with pytest.raises(ZooError, match="NDPP_OFFLINE is set") as caught:
        fetch(f"https://{USER}example.org")
    assert hidden(str(caught.value))


@pytest.mark.parametrize("user", ["alice:s3cret/x@", "alice:s3cret#x@", "alice:[s3cret@", "alice:s3cret@t0ken:x@"])
def test_addresses_that_are_none_hold_no_secret(fetch, monkeypatch, user):
    monkeypatch.setenv("NDPP_ZOO_MIRROR", f"https://{user}example.org:port/x")
    with pytest.raises(ZooError) as caught:
        fetch()
    assert hidden(str(caught.value))


def test_redirects_take_no_user_to_another_host(serve, behaviour, fetch, content):
    there = behaviour()
    here = behaviour(status=302, location=f"{serve(there)}/toy-1.safetensors{QUERY}")
    assert fetch(with_user(serve(here))).read_bytes() == content
    assert "Authorization" in here.requests[0]
    assert "Authorization" not in there.requests[0]


def test_redirects_to_an_address_with_a_user_are_not_followed(serve, behaviour, fetch):
    there = behaviour()
    here = behaviour(status=302, location=with_user(serve(there)))
    with pytest.raises(ZooError, match="is not followed") as caught:
        fetch(serve(here))
    assert hidden(str(caught.value))
    assert there.requests == []


def test_weights_at_an_address_become_a_file_without_secrets(serve, behaviour, zoo, content, tmp_path):
    zoo()  # a home of its own
    does = behaviour(cut_after=5000, cuts=1)
    address = with_user(f"{serve(does)}/a%2e%2e/we ird.pth{QUERY}")
    path = as_address(address)
    assert hidden(path)
    assert path.endswith("we_ird.pth")
    with open(path, "rb") as stream:
        assert stream.read() == content
    assert does.requests[0]["path"].endswith(QUERY)
    asked = len(does.requests)
    assert str(local_copy(address)) == path
    assert len(does.requests) == asked  # not again


def test_weights_that_are_not_there_are_named_without_secrets(serve, behaviour, zoo, monkeypatch):
    zoo()
    with pytest.raises(ZooError, match="HTTP 404") as caught:
        as_address(with_user(f"{serve(behaviour(status=404))}/x.pth{QUERY}"))
    assert hidden(str(caught.value))
    monkeypatch.setenv("NDPP_OFFLINE", "1")
    with pytest.raises(ZooError, match="NDPP_OFFLINE") as caught:
        as_address(f"https://{USER}example.org/x.pth{QUERY}")
    assert hidden(str(caught.value))


def test_commands_show_no_secret(serve, behaviour, zoo, monkeypatch, capsys):
    from ndpp_dense.zoo.index import write_index

    index = zoo(with_user(serve(behaviour(status=404))))
    write_index(index)
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    assert main(["zoo", "info", "toy"]) == 0
    assert main(["zoo", "download", "toy"]) == 2
    assert json.loads(index.path.read_text())["models"][0]["files"][0]["urls"]  # it is there, and not shown
    shown = "".join(capsys.readouterr())
    assert "http://***@127" in shown
    assert hidden(shown)


def test_logs_of_frameworks_and_tracebacks_hold_no_secret():
    code = (
        "import logging; from ndpp_dense.redaction import hide_secrets; hide_secrets(); logging.basicConfig(level=0);"
        f"logging.getLogger('fvcore').info('Loading from %s', 'https://{USER}host/x{QUERY}');"
        "\ntry:\n  raise OSError('https://alice@host')\nexcept OSError:\n  logging.exception('it failed')\n"
        f"raise ValueError('https://{USER}host/x{QUERY}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("https://***@host") == 3
    assert hidden(done.stderr.replace(code, "").replace("alice@host')", ""))
