"""Can this client reach the body service? Tried once, before its first session."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import grpc
from flwr.app import ConfigRecord

from tavit_flwr.errors import ProtocolError
from tavit_flwr.wire.link import Door
from tavit_flwr.wire.stream_server import PROBE, SERVICE, TOKEN_KEY

_NEEDED_BYTES = 4096


@dataclass(frozen=True)
class Probe:
    """Where the body service is, whom to trust there, and what it answers to.

    Attributes
    ----------
    address : str
        As advertised; empty where the service offers no stream.
    certificate_pem : bytes
        Empty means no TLS, which the server must have chosen explicitly.
    token : str
        Opens nothing: the service says only that it is the one.
    """

    address: str
    certificate_pem: bytes
    token: str

    def to_values(self) -> dict[str, str | bytes]:
        """As part of a record."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Probe:
        """Read it; `ProtocolError` where a value is missing, as when two versions of the app meet."""
        values = {field.name: record.get(field.name) for field in fields(cls)}
        address, certificate_pem, token = values.values()
        if not isinstance(address, str) or not isinstance(certificate_pem, bytes) or not isinstance(token, str):
            raise ProtocolError(
                f"{sorted(values)} in the question", f"{sorted(record)}",
                hint="run the same version of the app on the server and on every node",
            )  # fmt: skip
        return cls(address, certificate_pem, token)

    def failure(self, timeout_s: float) -> tuple[str, str]:
        """Connect, and say what kept this client from it.

        Returns
        -------
        tuple of str
            In words for others and for this node's own log: gRPC's details may name a proxy of this network. Both are
            empty where the service has answered.
        """
        channel = Door(self.address, self.certificate_pem, _NEEDED_BYTES).channel()
        try:
            channel.unary_unary(f"/{SERVICE}/{PROBE}")(b"", metadata=((TOKEN_KEY, self.token),), timeout=timeout_s)
        except grpc.RpcError as error:
            told = f"no connection to {self.address} within {timeout_s:g} s ({error.code().name})"
            return told, f"{told}: {error.details()}"
        finally:
            channel.close()
        return "", ""
