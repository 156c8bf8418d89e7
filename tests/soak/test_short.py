"""The soak in short: fewer principals, and bounded by steps rather than by time."""

from __future__ import annotations

import pytest

from tests.soak.storm import Plan, soak


@pytest.mark.parametrize("seed", [1])
async def test_no_answer_notification_or_question_reaches_the_wrong_caller_whatever_the_storm(seed: int) -> None:
    """Rows I1, I2, I3, I8, I11, P10, P14, U1, U6, C1 and C5 of the lessons, all at once."""
    ledger = await soak(Plan(seed, principals=20, steps=20, trouble_every=60))
    assert not ledger.findings(), f"{ledger.findings()} with seed {seed}"
    # It was a storm: all sorts of things happened in it.
    assert min(ledger.cancels, ledger.disconnects, ledger.deletes, ledger.questions, ledger.notifications) > 0
    assert min(ledger.breaks, ledger.losses, ledger.refusals) > 0
