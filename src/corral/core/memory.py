"""How much memory this process has taken."""

from __future__ import annotations

import sys
from pathlib import Path


def max_rss_mb() -> float:
    """Largest resident memory of this process so far, in 10^6 bytes.

    Linux hands ``ru_maxrss`` of whoever started a process on to it, so the process's own record is read where there is
    one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")) / 1e6
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
