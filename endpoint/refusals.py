"""Why an invocation gets no prediction: an HTTP status, a code, a sentence and, where there is one, the row."""

from __future__ import annotations

from typing import Any, Final

import msgspec

# A message may quote what the caller sent, and a caller may send megabytes.
LONGEST_MESSAGE: Final = 500


class Refusal(Exception):
    """An answer other than a prediction. Never says how the code is built, only what to do about the request."""

    def __init__(self, status: int, code: str, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ..."
        self.row = row

    def body(self) -> bytes:
        """`{"error": {"code", "message", "row"}}` in JSON; `row` counts from 0 and is left out where there is none."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.row is not None:
            error["row"] = self.row
        return msgspec.json.encode({"error": error})


class BadRequest(Refusal):
    """The caller's mistake in the body or the attributes (400)."""

    def __init__(self, code: str, message: str, row: int | None = None) -> None:
        super().__init__(400, code, message, row)
