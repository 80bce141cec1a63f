"""How many simulated clients run at once."""

from __future__ import annotations

import math


def federation_config(clients: int, at_once: int | None = None, gpus: int = 0, *, cluster: bool = False) -> str:
    """Flower's federation settings under which clients run at once, whatever the number of cores.

    Parameters
    ----------
    clients : int
        Simulated nodes.
    at_once : int, optional
        So many of them run at the same time; all by default.
    gpus : int
        Of this machine; each client that runs gets its share of one. Without a share Ray hides them from clients.
    cluster : bool
        A Ray that is there already: as many clients run at once as its machines have cores.
    """
    config = f"num-supernodes={clients} client-resources-num-cpus=1"
    if cluster:
        return config
    at_once = min(clients, at_once or clients)
    config += f" init-args-num-cpus={at_once}"
    if gpus:
        share = math.floor(10_000 / math.ceil(at_once / gpus)) / 10_000  # rounded down: all have to fit
        config += f" client-resources-num-gpus={share} init-args-num-gpus={gpus}"
    return config
