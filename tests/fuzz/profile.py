"""How long the property tests of this folder look for trouble.

In the suite they try the same few examples each time. For a longer search, with new examples each time:

    MCPGATEWAY_FUZZ_EXAMPLES=20000 make test T=tests/fuzz
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def fuzzed(examples: int) -> settings:
    """The settings of one property test that tries so many examples in the suite."""
    wished = int(os.environ.get("MCPGATEWAY_FUZZ_EXAMPLES", "0"))
    return settings(
        max_examples=wished or examples,
        derandomize=not wished,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
