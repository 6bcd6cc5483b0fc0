"""The relay with shorter patience, so that a test need not wait for it: `python -m tests.daemon.hurried --config …`."""

from __future__ import annotations

from relayd import parts
from relayd.cli import main

FINISH_SECONDS = 0.5

if __name__ == "__main__":
    parts.FINISH_SECONDS = FINISH_SECONDS
    main()
