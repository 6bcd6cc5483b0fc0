"""How long a test waits for a state before it gives up.

A deadline ends a test that waits in vain; it measures nothing. So a machine that is busy with other work must not miss
it: what has to be quick is judged by its order, or against a control in the same run.
"""

from __future__ import annotations

PATIENT_SECONDS = 90.0
