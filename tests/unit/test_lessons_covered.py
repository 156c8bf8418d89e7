"""Every fault that `docs/explanation/lessons.md` lists names tests that exist, or says why it does not apply."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "explanation" / "lessons.md").read_text(encoding="utf-8")
ROWS = {row.split("|")[1].strip(): row for row in TABLE.splitlines() if re.match(r"\| [IPUC]\d+ \|", row)}
IDS = [f"{kind}{number}" for kind, last in (("I", 12), ("P", 21), ("U", 12), ("C", 10)) for number in range(1, last + 1)]


def names_of_all_tests() -> set[str]:
    """The names of all test functions."""
    files = (path for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts)
    return {name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))}


THERE = names_of_all_tests()


def test_every_fault_has_one_row() -> None:
    assert list(ROWS) == IDS


@pytest.mark.parametrize("id", IDS)
def test_a_row_names_tests_that_exist_or_says_why_it_does_not_apply(id: str) -> None:
    row = ROWS[id]
    named = set(re.findall(r"`(test_\w+)`", row))
    assert named <= THERE, named - THERE
    assert named or "Does not apply" in row


@pytest.mark.parametrize("id", [id for id in IDS if "Does not apply" not in ROWS[id]])
def test_a_row_names_a_test_that_carries_its_id(id: str) -> None:
    assert re.search(rf"`test_(\w+_)?{id.lower()}_\w+`", ROWS[id])
