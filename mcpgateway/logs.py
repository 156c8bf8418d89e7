"""Logging: readable lines on a terminal, JSON elsewhere, and no secrets in either.

Modules log through `logging.getLogger("mcpgateway.…")`, or through `get_logger` where a line has fields. A request's id is
a field like any other, `request_id=…`: it is handed down with the call, so that no task inherits another call's.
"""

from __future__ import annotations

import json as json_codec
import logging
import re
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SHORTEST_SECRET = 6  # shorter ones would blot out ordinary words
_bearer = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_query = re.compile(r"(?<=\S)\?[^\s\"'<>]*\w[^\s\"'<>]*")

_hidden: set[str] = set()
_secrets = re.compile(r"(?!)")


def setup(json: bool | None = None, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging, uvicorn's too, to `stream` (stderr). `json` None: JSON unless the stream is a terminal."""
    stream = stream or sys.stderr
    as_json = not stream.isatty() if json is None else json
    handler = logging.StreamHandler(stream)
    rendering = _rendering(as_json, colors=stream.isatty())
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=rendering, foreign_pre_chain=_common()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines have fields: `log.info("tool called", request_id=…, upstream=…)`."""
    processors = [structlog.stdlib.filter_by_level, *_common(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    logger = structlog.wrap_logger(logging.getLogger(name), processors=processors, wrapper_class=structlog.stdlib.BoundLogger)
    return cast(structlog.stdlib.BoundLogger, logger)


def hide(*secrets: str) -> None:
    """Blot these strings out of every line from now on: a second net under code that does not log them anyway."""
    global _secrets
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            _hidden.update({secret, json_codec.dumps(secret)[1:-1], repr(secret)[1:-1]})
    longest_first = sorted(_hidden, key=len, reverse=True)
    _secrets = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def redacted(text: str) -> str:
    """`text` without the hidden strings, bearer tokens and URL queries."""
    return _query.sub("?***", _bearer.sub(r"\1 ***", _secrets.sub("***", text)))


def _common() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(as_json: bool, *, colors: bool) -> list[Processor]:
    renderer: Processor = structlog.processors.JSONRenderer(default=repr)
    if not as_json:
        renderer = structlog.dev.ConsoleRenderer(colors=colors)
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return [clean, _drop_colored_copy, structlog.processors.format_exc_info, _redact, renderer]


def _drop_colored_copy(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn hands each of its messages over a second time, with colors
    return event


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Runs on values, before they are rendered: a pattern cannot then run over the end of one into the next."""
    return {key: _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {redacted(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_clean(item) for item in value]
    return redacted(value if isinstance(value, str) else repr(value))
