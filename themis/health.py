"""Whether going on makes sense, told from the answers as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from themis.stored import RETRIED

if TYPE_CHECKING:
    from themis.work import Done

DEAD_AFTER = 3
"""Times the requests in progress: so many in a row without an answer mean that the endpoint is gone."""
DEAD_AT_LEAST = 10
"""But never fewer: a few questions in a row may well be such as break a server."""


class Health:
    """Tells from the answers as they come whether going on makes sense.

    Args:
        in_progress: Requests in progress at once: several times as many errors of the infrastructure in a row mean
            that the endpoint is gone. Each stands for several attempts of the model over a minute or so.
        max_errors: The caller's own bound on errors, None for none.
    """

    def __init__(self, in_progress: int, max_errors: int | None = None) -> None:
        self._dead_after = max(DEAD_AT_LEAST, DEAD_AFTER * in_progress)
        self._max_errors = max_errors
        self._errors = 0
        self.in_a_row: list[Done] = []
        """The errors of the infrastructure since the last answer: they may well be the endpoint's."""

    def verdict(self, done: Done) -> str | None:
        """Why the run should stop after this answer; None to go on."""
        generation = done.generation
        if generation.status == "ok" or generation.error_kind == "model":
            self.in_a_row.clear()
            return None
        self._errors += 1
        if generation.error_kind == RETRIED:
            self.in_a_row.append(done)
        reason = f"{generation.error_type}: {generation.error_message}"
        if done.fatal:
            return reason
        if len(self.in_a_row) >= self._dead_after:
            return f"{len(self.in_a_row)} requests in a row had no answer, the last one for {reason}"
        if self._max_errors is not None and self._errors > self._max_errors:
            return f"{self._errors} errors are more than max_errors={self._max_errors}, the last one {reason}"
        return None
