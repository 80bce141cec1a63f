"""Do a job message by message, each perhaps in a process of its own: the other carrier.

A message brings the server's answers. What was done before is read from the scratch, the step under way is run again
from its start, with the answers that are there, up to the first request that has none; these requests are the reply.
A message that comes again gets the same reply.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from flwr.app import RecordDict
from torch import Tensor

from tavit_flwr.client.jobs import Job, Result
from tavit_flwr.client.replay import ReplayCarrier, Suspended
from tavit_flwr.client.scratch import Memory, Scratch, frame_names
from tavit_flwr.client.store import PrivateStore
from tavit_flwr.client.workshop import Workshop
from tavit_flwr.errors import CheckpointError, SessionError
from tavit_flwr.wire.ledger import Ledger
from tavit_flwr.wire.messages import frames_of
from tavit_flwr.wire.records import Order


def by_message(
    kind: type[Job], workshop: Workshop, order: Order, content: RecordDict, tensors: Mapping[str, Tensor]
) -> tuple[list[bytes], Result | None]:
    """Answer one message of a session.

    Parameters
    ----------
    kind : type
        Of the job.
    workshop : Workshop
        This client's images and architecture.
    order : Order
        The session; the same in each of its messages.
    content : RecordDict
        Frames, but for the first message.
    tensors : mapping
        Head and tail, in the first message.

    Returns
    -------
    tuple
        Frames for the server, and the job's result once it is finished.

    Raises
    ------
    TavitError
        From images, model or disk; for frames that nobody asked for.
    """
    began = time.time()
    scratch = Scratch(PrivateStore(workshop.node.state_dir, order.run_key, workshop.node.client).folder, order.token)
    frames = frames_of(content, workshop.limits(order).max_frame_bytes) or []
    names = frame_names(frames)
    try:
        memory = scratch.load()
        if memory is None and frames:
            raise SessionError(
                "what this session has left on this node", "nothing", workshop.where(order),
                "its state-dir was emptied, or is another one than at the session's start",
            )  # fmt: skip
        if memory is None:
            scratch.begin()
            memory = Memory(began=began, paused=began)
            job = kind.begin(workshop, order, tensors)
        else:
            job = kind(workshop, order, scratch.tensors(memory), memory.notes)
            if memory.request == names:
                return _again(scratch, memory, job, workshop, order, frames)
            scratch.keep_answers(names, frames)
        memory.request = names
        memory.wait_s += max(0.0, began - memory.paused)
        return _go_on(scratch, memory, job, workshop, order, frames, began)
    except OSError as error:
        raise CheckpointError(
            "room for this session's state", str(error), "scratch", "free space or set the node's state-dir"
        ) from error


def _go_on(
    scratch: Scratch, memory: Memory, job: Job, workshop: Workshop, order: Order, frames: list[bytes], began: float
) -> tuple[list[bytes], Result | None]:
    carrier = _carrier(scratch, memory, workshop, order)
    _count(carrier.ledger, "down", frames)
    result = None
    try:
        job.run(carrier)
    except Suspended:
        pass
    else:
        now = time.time()
        result = job.conclude(carrier, compute_s=memory.compute_s + now - began, wall_s=now - memory.began)
        memory.metrics = result.metrics
    tensors = job.tensors() if job.changed or memory.count == 0 else None
    memory.notes, memory.cursor, memory.ledger = job.notes(), job.cursor, carrier.ledger.as_dict()
    memory.paused = time.time()
    memory.compute_s += max(0.0, memory.paused - began)
    scratch.commit(memory, carrier.requests, tensors, carrier.encode.residuals)
    return carrier.requests, result


def _again(
    scratch: Scratch, memory: Memory, job: Job, workshop: Workshop, order: Order, frames: list[bytes]
) -> tuple[list[bytes], Result | None]:
    """Give the same reply to the same message, and count it."""
    carrier = _carrier(scratch, memory, workshop, order)
    replies = scratch.replies(memory)
    _count(carrier.ledger, "down", frames, ", resent")
    _count(carrier.ledger, "up", replies, ", resent")
    memory.ledger = carrier.ledger.as_dict()
    scratch.note(memory)
    if memory.metrics is None:
        return replies, None
    result = job.conclude(carrier, compute_s=memory.compute_s, wall_s=memory.paused - memory.began)
    return replies, replace(result, metrics=memory.metrics)


def _carrier(scratch: Scratch, memory: Memory, workshop: Workshop, order: Order) -> ReplayCarrier:
    ledger = Ledger()
    ledger.restore(memory.ledger)
    return ReplayCarrier(
        order.phase, workshop.limits(order), scratch.answers(memory.cursor), ledger, memory.wait_s,
        scratch.residuals(memory),
    )  # fmt: skip


def _count(ledger: Ledger, direction: str, frames: list[bytes], suffix: str = "") -> None:
    for (kind, _), frame in zip(frame_names(frames), frames, strict=True):
        ledger.add(direction, f"{kind}{suffix}", len(frame))
