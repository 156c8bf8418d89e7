"""Logging: forms, fields, and what never gets through."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from mcpgateway import logs

PLANTED = 'pl"anted\\secret'


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def last(stream: io.StringIO) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return line


def test_away_from_a_terminal_each_line_is_an_object_with_its_fields(stream: io.StringIO) -> None:
    logs.setup(stream=stream)
    logs.get_logger("mcpgateway.test").info("tool called", request_id="r1", upstream="crm")
    line = last(stream)
    assert (line["event"], line["request_id"], line["upstream"]) == ("tool called", "r1", "crm")
    assert (line["level"], line["logger"]) == ("info", "mcpgateway.test") and line["timestamp"].endswith("Z")


def test_plain_loggers_and_uvicorns_come_out_in_the_same_form(stream: io.StringIO) -> None:
    logs.setup(json=True, stream=stream)
    logging.getLogger("uvicorn.error").info("started on %s", 4444, extra={"request_id": "r2"})
    line = last(stream)
    assert (line["event"], line["logger"], line["request_id"]) == ("started on 4444", "uvicorn.error", "r2")


def test_on_a_terminal_lines_are_for_people(stream: io.StringIO) -> None:
    logs.setup(json=False, stream=stream)
    logs.get_logger("mcpgateway.test").warning("slow", request_id="r3")
    text = stream.getvalue()
    assert "slow" in text and "request_id=r3" in text and not text.startswith("{")


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logs.setup(json=True, level="warning", stream=stream)
    logs.get_logger("mcpgateway.test").info("chatter")
    logging.getLogger("mcpgateway.test").info("chatter")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_hidden_strings_are_blotted_out_wherever_they_stand(stream: io.StringIO, as_json: bool) -> None:
    logs.setup(json=as_json, stream=stream)
    logs.hide(PLANTED)
    log = logs.get_logger("mcpgateway.test")
    log.info(f"event {PLANTED}", field=PLANTED, nested={"deep": [PLANTED], PLANTED: 1}, thing={PLANTED})
    try:
        raise ValueError(PLANTED)
    except ValueError:
        log.exception("failed")
        logging.getLogger("mcpgateway.plain").exception("failed with %r", PLANTED)
    text = stream.getvalue()
    assert "anted" not in text and "***" in text


def test_credentials_nobody_registered_are_blotted_out_by_their_form() -> None:
    for text, redacted in [
        ("Authorization: Bearer abc.DEF-123_4=", "Authorization: Bearer ***"),
        ("authorization: bearer abcdef", "authorization: bearer ***"),
        ("GET https://h:1/mcp?key=abc&x=%20 HTTP/1.1", "GET https://h:1/mcp?*** HTTP/1.1"),
        ('"POST /mcp?abc"', '"POST /mcp?***"'),
        ("really? yes", "really? yes"),
    ]:
        assert logs.redacted(text) == redacted


def test_short_strings_are_not_hidden_for_they_would_blot_out_words() -> None:
    logs.hide("the", "")
    assert logs.redacted("the end") == "the end"


def test_a_redacted_line_is_still_json(stream: io.StringIO) -> None:
    logs.setup(json=True, stream=stream)
    logging.getLogger("x").warning('got "http://h/?a=1" and "more"')
    assert last(stream)["event"] == 'got "http://h/?***" and "more"'
