"""One order and all that follows from it: where a session's frames travel in Flower messages, a row of messages."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from tavit_flwr.config import MESSAGES
from tavit_flwr.errors import ProtocolError, SessionError, TavitError
from tavit_flwr.server.body_service import BodyService
from tavit_flwr.wire.exchange import Attachment
from tavit_flwr.wire.messages import FRAMES, frames_of, frames_record
from tavit_flwr.wire.records import CONFIG, METRICS, MISSING_WEIGHTS

logger = logging.getLogger("flwr")

#: Of error replies that this process writes in a client's place, because its session has ended.
ERROR_CODE = 1001


class Correspondence:
    """Passes a client's frames to its session's exchange, and the answers back in the next message.

    A session over the stream has one reply, the final one. By messages, a reply carries frames, and the final one
    brings the last frames along. In either case a client may first ask for weights that it has lost; once.

    Parameters
    ----------
    order : Message
        What the client was sent first.
    service : BodyService
        Hosts the session that the order names.
    resupply : callable
        Gives a node the weights that it was sent before and has lost.
    on_answer : callable
        Called, from any thread, when there may be something to send.

    Attributes
    ----------
    final : Message or None
        The reply to the order, once it is there.
    """

    def __init__(
        self,
        order: Message,
        service: BodyService,
        resupply: Callable[[int], dict[str, ArrayRecord]],
        on_answer: Callable[[], object],
    ) -> None:
        self.order = order
        self.final: Message | None = None
        self._service = service
        self._on_answer = on_answer
        self._resupply = resupply
        self._asks_for_weights = self._resupplied = False
        record = order.content.config_records[CONFIG]
        self._session = service.find(str(record["token"]))
        self._token = str(record["token"])
        self._attachment: Attachment | None = None
        self._requests: deque[bytes] = deque()
        self._answers: list[bytes] = []
        self._offered = False
        self._last: Message | None = None

    @property
    def node(self) -> int:
        """The node that was asked."""
        return self.order.metadata.dst_node_id

    def take(self, reply: Message) -> None:
        """Take a reply in; never raises, whatever it holds."""
        session = self._session
        if reply.has_error() and reply.error.code == MISSING_WEIGHTS and not self._resupplied:
            logger.warning("node %s: %s; they are sent again", self.node, reply.error.reason)
            self._asks_for_weights = self._resupplied = True
            return
        if reply.has_error() or session is None or session.carrier != MESSAGES:
            if session is not None:  # it brings nothing more, so nobody is to wait for it
                reason = f": {reply.error.reason}" if reply.has_error() else " before its session was over"
                session.give_up(f"its node has answered{reason}")
            self.final = reply
            return
        try:
            frames = frames_of(reply.content, self._service.max_frame_bytes)
            if METRICS in reply.content:
                self._last = reply
            elif frames is None:
                raise ProtocolError("frames or a result", f"{sorted(reply.content)[:4]}", session.where)
            self._requests.extend(frames or [])
        except TavitError as error:
            self._fail(error)

    def next_message(self) -> Message | None:
        """Give the next message to send, or None while the session is at work, or when there is none.

        `final` is set when all frames are worked off after the final reply, or when the session has ended.
        """
        if self.final is not None:
            return None
        if self._asks_for_weights:
            self._asks_for_weights = False
            return self._message(self._resupply(self.node))
        try:
            if self._attachment is not None:
                self._attachment.check()  # an ended session has no use for what the client may still send
            if not self._work_off():
                return None
        except TavitError as error:
            self._fail(error)
            return None
        if self._last is not None:
            self.final = self._last
            return None
        answers, self._answers = self._answers, []
        return self._message({FRAMES: frames_record(answers)})

    def not_sent(self) -> None:
        """End it: Flower has not taken the message last given."""
        hint = (
            "see Flower's log above; it refuses nodes that it does not know any more, and requests that are too large"
        )
        self._fail(SessionError("a message that Flower takes", "one that could not be sent", f"node {self.node}", hint))

    def _message(self, records: Mapping[str, ArrayRecord | ConfigRecord]) -> Message:
        content = RecordDict({CONFIG: self.order.content.config_records[CONFIG], **records})
        return Message(content=content, message_type=self.order.metadata.message_type, dst_node_id=self.node)

    def _work_off(self) -> bool:
        """Pass the frames on one by one; whether all have been answered."""
        while self._requests:
            if self._attachment is None:
                self._attachment = self._service.attach(self._token, self._on_answer)
            if not self._offered:
                self._attachment.offer(self._requests[0])
                self._offered = True
            answer = self._attachment.take(sent=self._last is None)
            if answer is None:
                return False
            self._answers.append(answer)
            self._requests.popleft()
            self._offered = False
        return bool(self._answers) or self._last is not None

    def _fail(self, error: TavitError) -> None:
        if self._session is not None:
            self._session.give_up(str(error))
        self.final = Message(error=Error(ERROR_CODE, error.told()), reply_to=self.order)
