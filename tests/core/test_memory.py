"""Peak memory is a plausible number that never falls."""

from __future__ import annotations

from corral.core.memory import max_rss_mb


def test_the_peak_is_that_of_a_python_process_and_never_falls():
    before = max_rss_mb()
    assert 5 < before < 1e6
    assert max_rss_mb() >= before
