"""Errors that say what was expected, what came, where, and what to do next."""

from __future__ import annotations


class TavitError(Exception):
    """Base of every error this project raises on purpose.

    Parameters
    ----------
    expected : str
        What the code needed.
    received : str
        What it got instead.
    where : str, optional
        Node, task, cycle, round or step, as far as they are known.
    hint : str, optional
        What the reader can do about it.
    """

    def __init__(self, expected: str, received: str, where: str = "", hint: str = "") -> None:
        self.expected = expected
        self.received = received
        self.where = where
        self.hint = hint
        parts = [f"expected {expected}", f"received {received}"]
        if where:
            parts.append(f"at {where}")
        if hint:
            parts.append(hint)
        super().__init__("; ".join(parts))

    def told(self) -> str:
        """What another machine may read of this error; a `DataError` keeps file names to itself."""
        return f"{type(self).__name__}: {self}"

    def copy(self) -> TavitError:
        """Make the same error without its traceback, to keep it or to raise it in another thread."""
        return type(self)(self.expected, self.received, self.where, self.hint)

    def __reduce__(self) -> tuple[type[TavitError], tuple[str, str, str, str]]:
        """Rebuild from the four fields, so that the error survives process borders."""
        return type(self), (self.expected, self.received, self.where, self.hint)


class ConfigError(TavitError):
    """The configuration names something unknown, or a value has the wrong type or range."""


class _LocalError(TavitError):
    """An error whose findings name files of this machine."""

    def told(self) -> str:
        """Expectation and advice; what was found, and where, stays in this machine's log."""
        advice = f"; {self.hint}" if self.hint else ""
        return f"{type(self).__name__}: expected {self.expected}{advice}; this node's log says which file"


class DataError(_LocalError):
    """A folder, an image or a pair cannot be used; `expected` and `hint` never name a file."""


class ModelError(TavitError):
    """Parts do not fit together, or tensors do not fit a part."""


class ProtocolError(TavitError):
    """A frame is malformed, out of order, or not what this moment of the session allows."""


class SessionError(TavitError):
    """A session was refused, cut, or ran into a deadline."""


class CapacityError(SessionError):
    """There is no room for a session or a stream now; later there may be."""


class UnreachableError(SessionError):
    """A client cannot connect to the body service; the server asks it again what can carry its frames."""


class CheckpointError(_LocalError):
    """A checkpoint is missing, damaged, or another configuration's; `expected` and `hint` never name a file."""


class MissingWeightsError(TavitError):
    """A client has lost the head and tail that it was sent before; the server sends them again."""


class QuorumError(TavitError):
    """Too few clients take part for the run to go on."""
