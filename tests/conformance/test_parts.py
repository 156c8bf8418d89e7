"""The parts of a conformance run that need no run: what is compared with what, and what is known to be lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance import behaviour, expected, offers, suite
from tests.conformance.paths import CLIENT_PATH, SERVER_PATHS, Leg, Outcome
from tests.conformance.suite import Verdict

PASSED = Verdict("SUCCESS", "", 1)
FAILED = Verdict("FAILURE", "why", 0, 1)
NOT_APPLICABLE = Verdict("INFO")
SKIPPED = Verdict("SKIPPED")


def test_what_passes_direct_and_not_through_is_lost() -> None:
    direct = dict.fromkeys(("s:kept", "s:failed", "s:gone", "s:skipped", "s:informed"), PASSED)
    through = {"s:kept": PASSED, "s:failed": FAILED, "s:skipped": SKIPPED, "s:informed": NOT_APPLICABLE}
    lost = {loss.name for loss in suite.differences(direct, through)}
    assert lost == {"s:failed", "s:gone", "s:skipped", "s:informed"}


def test_what_fails_through_alone_is_lost_and_what_fails_direct_too_is_not() -> None:
    direct = {"s:bad": FAILED, "s:skipped": SKIPPED}
    through = {"s:bad": FAILED, "s:skipped": FAILED, "s:new": FAILED, "s:better": PASSED}
    assert [loss.name for loss in suite.differences(direct, through)] == ["s:new", "s:skipped"]


def test_a_loss_says_what_came_of_it() -> None:
    [loss] = suite.differences({"s:a": PASSED}, {"s:a": FAILED})
    assert str(loss) == "s:a: SUCCESS direct, FAILURE through: why"


def test_of_several_verdicts_on_one_check_the_worst_counts(tmp_path: Path) -> None:
    folder = tmp_path / "server-tools-list-2026-11-22T19-45-03-823Z"
    folder.mkdir()
    checks = [{"id": "a", "status": status} for status in ("SUCCESS", "FAILURE", "SUCCESS", "INFO")]
    (folder / "checks.json").write_text(json.dumps(checks))
    verdicts = suite._read(tmp_path, "")
    assert verdicts == {"tools-list:a": Verdict("FAILURE", "", 2, 1)}
    assert suite.count(verdicts.values()) == "2/3"


def test_a_path_reports_surprises_and_entries_that_are_stale() -> None:
    leg = Leg("p", "r", {"s:a": PASSED, "s:b": PASSED}, {"s:a": FAILED, "s:b": PASSED})
    assert [loss.name for loss in Outcome("p", [leg], {}).surprises] == ["s:a"]
    assert Outcome("p", [leg], {"s:a": "because"}).surprises == []
    assert Outcome("p", [leg], {"s:a": "because"}).stale == []
    assert Outcome("p", [leg], {"s:a": "because", "s:b": "because"}).stale == ["s:b"]


def test_a_path_reports_what_fails_without_a_gateway() -> None:
    outcome = Outcome("p", [Leg("p", "r", {"s:a": FAILED, "s:b": PASSED, "s:c": SKIPPED}, {"s:b": PASSED})], {})
    assert (outcome.faults, outcome.surprises) == (["r s:a: why"], [])


def test_an_expected_loss_has_its_reason_above_it_or_above_its_group() -> None:
    text = "server:\n  # Because of\n  # this.\n  - s:a\n  - s:b-c\n\n  # Or that.\n  - s:$d/e\n"
    assert expected.parse(text) == {"s:a": "Because of this.", "s:b-c": "Because of this.", "s:$d/e": "Or that."}


@pytest.mark.parametrize("text", ["  - s:a\n", "  # Why.\n  - s:a\n\n  - s:b\n", "  # Why.\n  - s\n"])
def test_an_entry_without_a_reason_or_of_a_whole_scenario_is_refused(text: str) -> None:
    with pytest.raises(expected.NoReason):
        expected.parse(text)


def test_every_file_of_expected_losses_can_be_read_and_belongs_to_a_path() -> None:
    names = {path.name for path in SERVER_PATHS} | {CLIENT_PATH}
    files = {file.stem for file in expected.FOLDER.glob("*.yml")}
    assert files <= names
    for name in files:
        expected.read(name)


def test_the_fixtures_do_all_that_they_offer() -> None:
    assert behaviour.TOOLS.keys() == offers.SCHEMAS.keys()
