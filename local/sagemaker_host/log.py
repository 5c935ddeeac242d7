"""This host's log: one JSON line per outcome on standard error."""

from __future__ import annotations

import json
import sys
import time


def log(event: str, **facts: object) -> None:
    """Write one line: the event in past tense, its facts as keys."""
    print(json.dumps({"at": round(time.time(), 3), "event": event, **facts}), file=sys.stderr, flush=True)
