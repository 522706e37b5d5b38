"""Names of others can neither steer a terminal nor end what writes them."""

import logging

import pytest

from ndpp_dense.cli.output import say
from ndpp_dense.redaction import hide_secrets, printable


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("cells", "cells"),
        ("Zelle \u00e4 \u7d30\u80de \U0001f9eb", "Zelle \u00e4 \u7d30\u80de \U0001f9eb"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("error\rok   ", "error\\rok   "),
        ("\ud800", "\\ud800"),
        ("f\udce4.png", "f\\udce4.png"),  # a file name in Latin-1, as Python lists it
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x07\x08\x00", "\\x07\\x08\\x00"),
    ],
)
def test_signs_are_written_out(text, safe, capsys):
    assert printable(text) == safe
    say(text)
    assert capsys.readouterr().out == f"{safe}\n"
    safe.encode("utf-8")


def test_logs_keep_the_colours_of_frameworks_and_nothing_else(caplog):
    before = logging.getLogRecordFactory()
    try:
        hide_secrets()
        logging.getLogger("ndpp_dense.test").warning("%s", "\x1b[34mblue\x1b[0m \x1b]0;title\x07 \udce4")
    finally:
        logging.setLogRecordFactory(before)
    assert caplog.messages == ["\x1b[34mblue\x1b[0m \\x1b]0;title\\x07 \\udce4"]
