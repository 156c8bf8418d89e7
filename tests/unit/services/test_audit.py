"""The audit log's file, which other programs move away and delete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpgateway.auth.principals import Principal
from mcpgateway.protocol.call import Call
from mcpgateway.services.audit import LOOK_SECONDS, FileAudit
from mcpgateway.services.conversation import Conversation
from tests.fakes.clock import FakeClock

ALICE = Conversation("c", Principal("static", "alice"), "2025-11-25")


class Log:
    """An audit log in a folder of its own, on a clock that the test moves."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.folder = folder
        self.path = folder / "audit.jsonl"
        self.clock = clock
        self.audit = FileAudit(str(self.path), arguments=False, hide=str, clock=clock)

    def say(self, number: int) -> None:
        """Record a call with a number of its own, after the time in which nobody looks at the path."""
        self.clock.advance(LOOK_SECONDS)
        self.audit.record(f"up-{number}", ALICE, Call("ping", client=ALICE), None, 0.001)

    def said(self, name: str = "audit.jsonl") -> list[str]:
        return [json.loads(line)["upstream"] for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path, clock: FakeClock) -> Iterator[Log]:
    made = Log(tmp_path, clock)
    yield made
    made.audit.close()


def test_a_file_that_was_moved_away_is_followed_by_a_new_one(log: Log) -> None:
    log.say(1)
    log.path.rename(log.folder / "audit.jsonl.1")
    log.say(2)
    assert (log.said("audit.jsonl.1"), log.said()) == (["up-1"], ["up-2"])
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_deleted_is_followed_by_a_new_one(log: Log) -> None:
    log.say(1)
    log.path.unlink()
    log.say(2)
    assert log.said() == ["up-2"]


def test_a_file_that_another_program_made_at_the_path_is_appended_to(log: Log) -> None:
    log.say(1)
    log.path.rename(log.folder / "audit.jsonl.1")
    log.path.write_text('{"upstream": "theirs"}\n')
    log.say(2)
    log.say(3)
    assert log.said() == ["theirs", "up-2", "up-3"]


def test_a_file_that_was_emptied_in_place_is_written_from_its_beginning(log: Log) -> None:
    log.say(1)
    os.truncate(log.path, 0)
    log.say(2)
    assert log.said() == ["up-2"]


def test_calls_that_follow_each_other_closely_do_not_look_at_the_path(log: Log) -> None:
    log.say(1)
    log.path.rename(log.folder / "audit.jsonl.1")
    log.audit.record("up-2", ALICE, Call("ping", client=ALICE), None, 0.001)
    assert log.said("audit.jsonl.1") == ["up-1", "up-2"] and not log.path.exists()


def test_where_no_new_file_can_be_made_lines_go_on_into_the_old_one_and_it_is_said(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.say(1)
    log.path.rename(log.folder / "audit.jsonl.1")
    log.path.mkdir()
    log.say(2)
    assert log.said("audit.jsonl.1") == ["up-1", "up-2"] and "cannot go on in a new file" in caplog.text
    log.path.rmdir()
    log.say(3)
    assert log.said() == ["up-3"]


def test_looking_leaves_no_file_open(log: Log) -> None:
    log.say(1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        log.path.unlink()
        log.say(number)
    assert len(os.listdir("/proc/self/fd")) == before
