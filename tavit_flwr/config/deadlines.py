"""Deadlines that follow from the schedule, where the configuration leaves them at 0."""

from __future__ import annotations

from tavit_flwr.config.schema import TavitConfig

SHORTEST_SESSION_S = 3600.0
"""Ours: evaluation sessions have as many steps as the images have windows, which the schedule does not know."""

LONGEST_ROUND_S = 43200.0
"""Flower's: it forgets a message 12 hours after it was written (``flwr.app.DEFAULT_TTL``)."""

REST_OF_A_ROUND_S = 600.0
"""Ours: for messages, starting clients and opening images, besides the session."""


def fill_deadlines(config: TavitConfig) -> None:
    """Replace deadlines of 0 by the time in which every step of the longest session may use up its own deadline.

    A stalled client is caught by ``wire.step_timeout_s``, long before; these two only bound what makes progress.
    """
    wire, federation = config.wire, config.federation
    if wire.session_timeout_s == 0:
        steps = max((phase.steps for phase in config.schedule.phases), default=0)
        longest = LONGEST_ROUND_S - REST_OF_A_ROUND_S
        wire.session_timeout_s = min(
            longest, max(SHORTEST_SESSION_S, wire.join_timeout_s + steps * wire.step_timeout_s)
        )
    if federation.round_timeout_s == 0:
        federation.round_timeout_s = wire.session_timeout_s + REST_OF_A_ROUND_S
