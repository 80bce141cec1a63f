"""The client's private store, on the node's own disk: optimiser moments, weights that it has last, frozen passes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tavit_flwr.errors import CheckpointError
from tavit_flwr.files import remove_unfinished, write_tensors


class PrivateStore:
    """Moments of one client in one run.

    A version is the number of the round that made it. The version before is kept, because the server may be stopped
    after this client saved and before it wrote its own checkpoint; it then asks for the one before.

    Parameters
    ----------
    root : Path
        The node's state folder.
    run_key, client : str
        Name the run and the client. Both come over the network, so they are hashed, never used as paths.
    """

    def __init__(self, root: Path, run_key: str, client: str) -> None:
        self.folder = root / hashed(run_key) / hashed(client)

    def path(self, version: int) -> Path:
        """File of one version."""
        return self.folder / f"moments-{version:06d}.safetensors"

    def save(self, version: int, moments: dict[str, Tensor], loaded: int = 0) -> Path:
        """Write a version beside and rename it; forget all others but the one it continues from.

        Parameters
        ----------
        version : int
            The round that made the moments.
        moments : dict
            See `tavit_flwr.split.optimisers.moments`.
        loaded : int
            The version that the round began from, which the server may ask for again; 0 keeps the newest older one.

        Raises
        ------
        CheckpointError
            When the disk is full or the folder cannot be written; earlier versions stay.
        """
        try:
            self._make_folder()
            write_tensors(self.path(version), moments)
            before = {one for one in self.folder.glob("moments-*.safetensors") if one < self.path(version)}
            kept = {self.path(version), self.path(loaded) if loaded else max(before, default=self.path(version))}
            for old in set(self.folder.glob("moments-*.safetensors")) - kept:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "room for this client's moments", str(error), f"{self.folder}", "free space or set the node's state-dir"
            ) from error
        return self.path(version)

    def load(self, version: int) -> dict[str, Tensor] | None:
        """Read a version; None where there is none, so that the caller can say that it starts afresh."""
        path = self.path(version)
        if version <= 0 or not path.is_file():
            return None
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "readable moments", str(error), str(path), "delete the file to start afresh"
            ) from error
        return tensors

    def keep(self, kind: str, key: str, tensors: dict[str, Tensor], beside: str) -> None:
        """Keep tensors of one kind under the key of their content, and of those before only `beside`.

        Raises
        ------
        CheckpointError
            When the disk is full or the folder cannot be written.
        """
        path = self._keyed(kind, key)
        try:
            self._make_folder()
            if not path.is_file():
                write_tensors(path, tensors)
            for old in set(self.folder.glob(f"{kind}-*.safetensors")) - {path, self._keyed(kind, beside)}:
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "room for what this client works with", str(error), f"{self.folder}",
                "free space or set the node's state-dir",
            ) from error  # fmt: skip

    def kept(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Read tensors; None where these are not there, or not readable."""
        try:
            tensors: dict[str, Tensor] = load_file(self._keyed(kind, key))
        except (SafetensorError, OSError):
            return None
        return tensors

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_unfinished(self.folder)

    def _keyed(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{hashed(key)}.safetensors"


def hashed(name: str) -> str:
    """Make a file name of any text, such as a name that came over the network."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def default_state_dir() -> Path:
    """``$TAVIT_STATE_DIR``, or ``tavit`` in the user's state folder."""
    configured = os.environ.get("TAVIT_STATE_DIR")
    if configured:
        return Path(configured).expanduser().absolute()
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "tavit"
