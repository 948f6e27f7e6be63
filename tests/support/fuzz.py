"""How much is tried, and how to try it again.

Without FUZZ_TIMES every run tries the same examples, so that a build fails only for what was changed. FUZZ_TIMES=20
tries 20 times as many, and others each time. A failure prints the example and the line that repeats it.
"""

import os

from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        derandomize="FUZZ_TIMES" not in os.environ,
        deadline=None,
        print_blob=True,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
