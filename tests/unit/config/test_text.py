"""Where a configuration's keys stand, and at what price that is found out."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import pytest

from mcpgateway.config.text import locate


@pytest.mark.parametrize("written", ['"a b"', "'a b'", r'"\u0061\u0020b"', r"'\x61 b'"])
def test_a_key_is_found_however_it_is_quoted(written: str) -> None:
    located = locate(f"{{\n{written}: 1}}", "mcp.json")
    assert located.data == {"a b": 1} and located.lines == {("a b",): 2}


def test_a_key_of_an_ordinary_file_costs_few_steps() -> None:
    text = json.dumps({f"caller-{number}": {"headers": {"Authorization": "x"}} for number in range(100)})
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        located = locate(text, "mcp.json")
    finally:
        sys.setprofile(before)
    assert len(located.lines) == 300
    assert calls < 300 * 50
