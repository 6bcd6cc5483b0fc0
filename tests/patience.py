"""How long a test waits for a state before it gives up.

A deadline ends a test that waits in vain; it measures nothing. So a machine that is busy with other work must not miss
it: what has to be quick is judged by its order, or against a control in the same run. Whoever works on code that may
fail often sets RELAYD_PATIENT_SECONDS=10.
"""

from __future__ import annotations

import os

PATIENT_SECONDS = float(os.environ.get("RELAYD_PATIENT_SECONDS", "90"))
