"""Who is there: nodes enrol before the first round, and from then on come, go and come back between rounds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from tavit_flwr.config import TavitConfig
from tavit_flwr.errors import QuorumError
from tavit_flwr.server.enrolment import Participant, questions, read_answer, say_who
from tavit_flwr.server.inquiry import Inquiry
from tavit_flwr.server.waiting import patiently, pause_s, wait_for_nodes
from tavit_flwr.wire.probe import Probe

logger = logging.getLogger("flwr")

#: Longest wait for others where nobody at all can take part: it is more likely the experiment's fault.
ALONE_S = 10.0

_TWICE = "expected a name of its own for every client; give every SuperNode on one machine its own state-dir"


class Roster:
    """Asks nodes who they are, and keeps the answers.

    Before the first round all nodes are asked, and others that come while too few can take part. Between rounds, nodes
    that are new are asked, and those again that did not answer for themselves in the last round or could not reach the
    body service; a round waits for their answers for ``federation.late_timeout_s`` and goes on without those that are
    late. Nobody is waited for twice: a late answer counts from the round after it.

    Parameters
    ----------
    grid : Grid
        Flower's.
    config : TavitConfig
        The experiment; goes to every node that is asked.
    probe : Probe
        Where the body service is, for clients to try.

    Attributes
    ----------
    absent : list of str
        Who was enrolled before and is not there, as of the last `refresh`.
    """

    def __init__(self, grid: Grid, config: TavitConfig, probe: Probe) -> None:
        self._grid = grid
        self._config = config
        self._probe = probe
        self._inquiry = Inquiry(grid)
        self._enrolled: dict[int, Participant] = {}
        self._idle: set[int] = set()
        self._doubtful: set[int] = set()
        self._waited_for: set[int] = set()
        self._problems: dict[int, str] = {}
        self._there: set[int] = set()
        self.absent: list[str] = []

    def gather(self) -> list[Participant]:
        """Wait for nodes and enrol them, before the first round.

        Returns
        -------
        list of Participant
            Sorted by client name. Nodes that answer with an error, or not at all, or with the name of another are
            reported and left out.

        Raises
        ------
        QuorumError
            When fewer than ``federation.min_nodes`` connect or can take part.
        """
        federation = self._config.federation
        began = time.monotonic()
        nodes = wait_for_nodes(self._grid, federation.min_nodes, federation.wait_for_nodes_s)
        participants = self._enrol(nodes, nodes)
        while len(participants) < federation.min_nodes:  # others may be on their way, or be mended and start again
            patience_s = federation.wait_for_nodes_s if participants else min(ALONE_S, federation.wait_for_nodes_s)
            if time.monotonic() - began > patience_s:
                break
            time.sleep(1.0)
            before, nodes = nodes, sorted(patiently(self._grid.get_node_ids))
            participants = self._enrol([node for node in nodes if node not in before], nodes)
        if len(participants) < federation.min_nodes:
            raise QuorumError(
                f"at least {federation.min_nodes} nodes that can take part", f"{len(participants)}", "enrolment",
                "; ".join(self._problems.values()) or "start more nodes",
            )  # fmt: skip
        say_who(participants, self._config)
        self._there = {one.node_id for one in participants}
        return participants

    def _enrol(self, newcomers: Sequence[int], nodes: Sequence[int]) -> list[Participant]:
        """Ask newcomers, and see who of all nodes can take part."""
        timeout_s = self._config.federation.enrol_timeout_s
        self._ask(newcomers)
        self._listen(newcomers, timeout_s)
        for node in sorted(self._inquiry.unanswered().intersection(newcomers)):
            self._problem(node, f"node {node}: no answer within {timeout_s:g} s")
        for one in _namesakes(self._present(nodes)):
            self._problem(one.node_id, f"node {one.node_id}, client {one.client}: {_TWICE}")
        return self._present(nodes)

    def refresh(self) -> list[Participant]:
        """See who is there now, before a round.

        Returns
        -------
        list of Participant
            Sorted by client name. `absent` says who is missing.

        Raises
        ------
        QuorumError
            When nobody is there within ``federation.wait_for_nodes_s``.
        """
        federation = self._config.federation
        deadline = time.monotonic() + federation.wait_for_nodes_s
        while True:
            before = dict(self._enrolled)
            nodes = sorted(patiently(self._grid.get_node_ids))
            self.doubt(set(self._enrolled) - set(nodes))  # they may come back as somebody else
            self._listen([], 0.0)
            self._ask(self._unknown(nodes))
            self._listen([node for node in nodes if node not in self._waited_for], federation.late_timeout_s)
            self._settle_names(nodes, before)
            participants = self._present(nodes)
            if participants:
                self._compare(participants, nodes)
                return participants
            if time.monotonic() > deadline:
                raise QuorumError(
                    f"at least one client within {federation.wait_for_nodes_s:g} s", "none", "the start of a round",
                    "run again with resume=true when they are back",
                )  # fmt: skip
            time.sleep(1.0)

    def _compare(self, participants: Sequence[Participant], nodes: Sequence[int]) -> None:
        """Say who is new or back, and note who is absent."""
        for one in participants:
            if one.node_id not in self._there:
                logger.info("node %s, client %s, task %s: takes part from now on", one.node_id, one.client, one.task)
        self._there = {one.node_id for one in participants}
        clients, connected = {one.client for one in participants}, set(nodes)
        self.absent = [
            f"node {one.node_id}, client {one.client}, task {one.task}: "
            + ("no answer since the last round" if one.node_id in connected else "not connected")
            for one in sorted(self._enrolled.values(), key=lambda one: one.client)
            if one.client not in clients
        ]

    def doubt(self, nodes: Iterable[int]) -> None:
        """Ask these nodes again before they take part."""
        for node in nodes:
            self._doubtful.add(node)
            self._waited_for.discard(node)

    def _unknown(self, nodes: Sequence[int]) -> list[int]:
        passed = self._idle.union(self._inquiry.unanswered(), self._enrolled.keys() - self._doubtful)
        return [node for node in nodes if node not in passed]

    def _ask(self, nodes: Sequence[int]) -> None:
        self._inquiry.ask(questions(nodes, self._config, self._probe))

    def _listen(self, nodes: Iterable[int], timeout_s: float) -> None:
        """Take answers in until these nodes have given theirs, or the time is up."""
        wanted = set(nodes)
        self._waited_for |= wanted
        began = time.monotonic()
        while waiting := self._inquiry.unanswered():
            for node, answer in self._inquiry.answers():
                waiting.discard(node)
                if answer is None:
                    self._problem(node, f"node {node}: the question could not be sent to it")
                else:
                    self._read(node, answer)
            remaining_s = began + timeout_s - time.monotonic()
            if remaining_s <= 0 or not wanted & waiting:
                return
            time.sleep(min(pause_s(time.monotonic() - self._inquiry.heard), remaining_s))

    def _read(self, node: int, reply: Message) -> None:
        answer = read_answer(node, reply, self._config)
        if isinstance(answer, str) and answer:
            self._problem(node, answer)
            return
        self._doubtful.discard(node)
        self._problems.pop(node, None)
        if isinstance(answer, Participant):
            self._enrolled[node] = answer
        else:
            self._enrolled.pop(node, None)
            self._idle.add(node)

    def _problem(self, node: int, problem: str) -> None:
        """Report why a node is left out, once for each reason."""
        self._enrolled.pop(node, None)
        if self._problems.get(node) != problem:
            self._problems[node] = problem
            logger.warning("left out: %s", problem)

    def _present(self, nodes: Iterable[int]) -> list[Participant]:
        there = [self._enrolled[node] for node in nodes if node in self._enrolled and node not in self._doubtful]
        return sorted(there, key=lambda one: (one.client, one.node_id))

    def _settle_names(self, nodes: Sequence[int], before: Mapping[int, Participant]) -> None:
        """Of two nodes that go by one name, find the one that is there: a restarted SuperNode may have a new number."""
        counts = Counter(one.client for one in self._present(nodes))
        if max(counts.values(), default=0) < 2:
            return
        known = [one.node_id for one in self._present(nodes) if counts[one.client] > 1 and one.node_id in before]
        self.doubt(known)
        self._ask(known)
        self._listen(known, self._config.federation.late_timeout_s)
        for one in _namesakes(sorted(self._present(nodes), key=lambda one: one.node_id not in before)):
            self._problem(one.node_id, f"node {one.node_id}, client {one.client}: {_TWICE}")


def _namesakes(participants: Sequence[Participant]) -> list[Participant]:
    """Those that go by a name which one before them has."""
    first: dict[str, Participant] = {}
    return [one for one in participants if first.setdefault(one.client, one) is not one]
