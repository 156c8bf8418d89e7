"""The soak in short: fewer principals, and bounded by steps rather than by time."""

from __future__ import annotations

import pytest

from tests.soak.storm import Plan, soak


@pytest.mark.parametrize("seed", [1])
async def test_no_answer_notification_or_question_reaches_the_wrong_caller_whatever_the_storm(seed: int) -> None:
    ledger = await soak(Plan(seed, principals=20, steps=20, trouble_every=80))
    assert not ledger.findings(), f"{ledger.findings()} with seed {seed}"
    # It was a storm: all sorts of things happened in it.
    assert min(ledger.calls, ledger.cancels, ledger.disconnects, ledger.deletes, ledger.restarts, ledger.refusals) > 0
    assert min(ledger.questions, ledger.notifications) > 0
