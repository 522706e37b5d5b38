"""Two hosts on one link."""

import subprocess
import uuid
from types import SimpleNamespace

import pytest

ADDRESS = "10.199.77.{}"


def ip(*words):
    result = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"ip {' '.join(words)}: {result.stderr.strip()}")


def connect(names, links):
    for name in names:
        ip("netns", "add", name)
    ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
    for index, (name, link) in enumerate(zip(names, links, strict=True), 1):
        ip("link", "set", link, "netns", name)
        ip("-n", name, "addr", "add", f"{ADDRESS.format(index)}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")
        ip("-n", name, "link", "set", "lo", "up")


@pytest.fixture
def two_hosts():
    """Two network namespaces: the address of the first, and of each the command that enters it and its interface."""
    tag = uuid.uuid4().hex[:6]
    names, links = [f"ndpp{tag}{end}" for end in "ab"], [f"v{tag}{end}" for end in "ab"]
    try:
        try:
            connect(names, links)
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        ends = [(["ip", "netns", "exec", name], link) for name, link in zip(names, links, strict=True)]
        yield SimpleNamespace(address=ADDRESS.format(1), ends=ends)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
