"""What a session by messages must remember between two of them, on the node's own disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tavit_flwr.client.store import hashed
from tavit_flwr.errors import CheckpointError, ProtocolError
from tavit_flwr.files import write_bytes, write_json, write_tensors
from tavit_flwr.wire.frames import identity

#: A frame's name: kind and step.
Name = tuple[str, int]


@dataclass
class Memory:
    """All of a session between two messages but its tensors and frames.

    Attributes
    ----------
    count : int
        Messages answered.
    request : list of [kind, step]
        Names of the frames that the last message brought; empty for the first.
    replies : int
        Frames in the answer to it.
    metrics : dict or None
        In the answer to it, where that was the session's last.
    notes : dict
        The job's.
    cursor : int
        The job's.
    tensors : int
        The message after which the job's tensors were written.
    residuals : int
        The message after which what int8 lost of gradients was written; 0 where nothing was.
    ledger : dict
        Bytes and frames so far.
    began, paused : float
        When the first message came and the last one was answered, by the clock of this node.
    compute_s, wait_s : float
        Seconds in this app, and between its messages.
    """

    count: int = 0
    request: list[list[Any]] = field(default_factory=list)
    replies: int = 0
    metrics: dict[str, float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    cursor: int = 0
    tensors: int = 0
    residuals: int = 0
    ledger: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    paused: float = 0.0
    compute_s: float = 0.0
    wait_s: float = 0.0


class Scratch:
    """Files of one session by messages.

    ``session.json`` is written last and by renaming, so a handler that is killed leaves the state of the message
    before. The files stay after the last message, so that this one too can be repeated; the client's next session
    removes them.

    Parameters
    ----------
    folder : Path
        The client's own.
    token : str
        Names the session. It comes over the network, so it is hashed, never used as a path.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._sessions = folder / "sessions"
        self._folder = self._sessions / hashed(token)

    def begin(self) -> None:
        """Remove this client's earlier sessions, and make room for this one."""
        shutil.rmtree(self._sessions, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)

    def load(self) -> Memory | None:
        """Read what the last message left; None before the first."""
        path = self._folder / "session.json"
        try:
            return Memory(**json.loads(path.read_text())) if path.is_file() else None
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError("a readable session", str(error), str(path), "it will start anew") from error

    def tensors(self, memory: Memory) -> dict[str, Tensor]:
        """The job's tensors."""
        return self._load(self._tensors(memory.tensors))

    def residuals(self, memory: Memory) -> dict[str, Tensor]:
        """What int8 lost of the gradients sent last."""
        return self._load(self._residuals(memory.residuals)) if memory.residuals else {}

    def _load(self, path: Path) -> dict[str, Tensor]:
        try:
            loaded: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError("readable weights", str(error), str(path), "it will start anew") from error
        return loaded

    def keep_answers(self, names: list[list[Any]], frames: list[bytes]) -> None:
        """Write the frames that a message brought; see `frame_names`."""
        for (kind, step), frame in zip(names, frames, strict=True):
            write_bytes(self._folder / f"answer-{step}-{kind}", frame)

    def answers(self, cursor: int) -> dict[Name, Path]:
        """Files of the answers from a step on."""
        found: dict[Name, Path] = {}
        for path in self._folder.glob("answer-*"):
            _, step, kind = path.name.split("-")
            if int(step) >= cursor:
                found[kind, int(step)] = path
        return found

    def replies(self, memory: Memory) -> list[bytes]:
        """Frames of the answer to the last message."""
        return [self._reply(memory.count, index).read_bytes() for index in range(memory.replies)]

    def commit(
        self,
        memory: Memory,
        replies: list[bytes],
        tensors: dict[str, Tensor] | None,
        residuals: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write all that the next message needs, then forget what it does not."""
        memory.count += 1
        memory.replies = len(replies)
        for index, frame in enumerate(replies):
            write_bytes(self._reply(memory.count, index), frame)
        if tensors is not None:
            memory.tensors = memory.count
            write_tensors(self._tensors(memory.count), tensors)
        if residuals and replies:
            memory.residuals = memory.count
            write_tensors(self._residuals(memory.count), dict(residuals))
        self.note(memory)
        needed = {self._folder / "session.json", self._tensors(memory.tensors), *self.answers(memory.cursor).values()}
        needed |= {self._reply(memory.count, index) for index in range(memory.replies)}
        needed.add(self._residuals(memory.residuals))
        for path in set(self._folder.iterdir()) - needed:
            path.unlink(missing_ok=True)

    def note(self, memory: Memory) -> None:
        """Write what is remembered, but no files besides."""
        write_json(self._folder / "session.json", asdict(memory))

    def _tensors(self, count: int) -> Path:
        return self._folder / f"tensors-{count}.safetensors"

    def _residuals(self, count: int) -> Path:
        return self._folder / f"residuals-{count}.safetensors"

    def _reply(self, count: int, index: int) -> Path:
        return self._folder / f"reply-{count}-{index}"


def frame_names(frames: list[bytes]) -> list[list[Any]]:
    """Names of frames, fit to be parts of file names: a known kind and a number."""
    names = []
    for frame in frames:
        name = identity(frame)
        if name is None or not name[1].isdecimal() or len(name[1]) > 9 or not name[1].isascii():
            raise ProtocolError("frames of known kinds with numbered steps", "another frame")
        names.append([name[0], int(name[1])])
    return names
