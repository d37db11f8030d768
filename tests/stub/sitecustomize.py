"""On the path of a workflow that crashes: its jobs are done by the server of ``crash.py``."""

import os
import sys

if "CRASH_SERVER" in os.environ and sys.orig_argv[1:3] == ["-m", "repro.cli"]:
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent.parent))
    import crash

    crash.client()
