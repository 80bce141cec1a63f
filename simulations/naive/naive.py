"""The naive way: one Flower message per exchange, as Flower's vertical-fl example does; task-specific, plain SGD.

A client keeps head and tail in ``context.state`` and makes the head's graph anew in every message. Not part of the
product: `simulations.bench.naive_way` measures it beside ours.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from tavit_flwr.models import build_parts
from tavit_flwr.split.client_side import head_backward, head_forward, tail_forward_backward
from tavit_flwr.split.phases import set_moving
from tavit_flwr.split.server_side import body_backward, body_forward

client = ClientApp()
server = ServerApp()
_LR, _SEED = 1e-3, 0


@client.train()
def on_train(message: Message, context: Context) -> Message:
    """``forward``: finish the step before, and send smashed activations; ``backward``: the gradient of the features."""
    run, order = context.run_config, message.content.config_records["order"]
    parts = build_parts(str(run["preset"]), seed=_SEED)
    head, tail = parts.head, parts.tail
    if "parts" in context.state:
        saved = context.state.array_records["parts"].to_torch_state_dict()
        head.load_state_dict({key[5:]: value for key, value in saved.items() if key.startswith("head/")})
        tail.load_state_dict({key[5:]: value for key, value in saved.items() if key.startswith("tail/")})
    for part in (head, tail):
        set_moving(part, True)
    arrived = {name: array.to_torch_state_dict() for name, array in message.content.array_records.items()}
    step, stage = int(str(order["step"])), str(order["stage"])

    def whole_pass(number: int, features: Tensor) -> Tensor:
        degraded, clean = _batch(run, number)
        head_pass = head_forward(head, degraded, moves=True)
        tail_pass = tail_forward_backward(tail, features, head_pass, degraded, clean)
        if "grad_smashed" in arrived.get("down", {}):
            head_backward(head_pass, arrived["down"]["grad_smashed"], tail_pass.grad_local)
        return tail_pass.grad_features

    if stage == "backward":
        up = {"grad_features": whole_pass(step, arrived["down"]["features"])}
    else:
        if step > 0:
            whole_pass(step - 1, arrived["down"]["features"])
            parameters = [*head.parameters(), *tail.parameters()]
            torch.optim.SGD(parameters, lr=_LR).step()
        up = {"smashed": head_forward(head, _batch(run, step)[0], moves=True).sent}
        state = {f"head/{key}": value for key, value in head.state_dict().items()}
        state |= {f"tail/{key}": value for key, value in tail.state_dict().items()}
        context.state["parts"] = ArrayRecord(state)
    content = RecordDict({"up": ArrayRecord({key: value.detach().contiguous() for key, value in up.items()})})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Step by step: activations of all clients, features back, gradients of all clients, gradients back."""
    run = context.run_config
    body = build_parts(str(run["preset"]), seed=_SEED).body
    set_moving(body, False)
    nodes = sorted(grid.get_node_ids())
    down: dict[int, dict[str, Tensor]] = {node: {} for node in nodes}
    seconds, first = [], 0.0
    for step in range(int(str(run["steps"]))):
        began = time.monotonic()
        smashed = _exchange(grid, step, "forward", down)
        first = first or time.time()  # the activations of the first step are there
        passes = {node: body_forward(body, smashed[node], input_gradient=True, moves=False) for node in nodes}
        down = {node: {"features": one.sent} for node, one in passes.items()}
        gradients = _exchange(grid, step, "backward", down)
        for node, one in passes.items():
            grad_smashed = body_backward(one, gradients[node])
            if grad_smashed is None:
                raise RuntimeError("no gradient of the smashed activations")
            down[node]["grad_smashed"] = grad_smashed
        seconds.append(time.monotonic() - began)
    Path(str(run["output"])).write_text(json.dumps({"clients": len(nodes), "seconds": seconds, "first": first}))


def _exchange(grid: Grid, step: int, stage: str, down: dict[int, dict[str, Tensor]]) -> dict[int, Tensor]:
    messages = []
    for node, tensors in down.items():
        content = RecordDict({"order": ConfigRecord({"step": step, "stage": stage})})
        if tensors:
            content["down"] = ArrayRecord({key: value.contiguous() for key, value in tensors.items()})
        messages.append(Message(content=content, message_type="train", dst_node_id=node))
    answers = {}
    for reply in grid.send_and_receive(messages, timeout=120):
        if reply.has_error():
            raise RuntimeError(f"node {reply.metadata.src_node_id}: {reply.error.reason}")
        arrays = reply.content.array_records["up"].to_torch_state_dict()
        (answers[reply.metadata.src_node_id],) = arrays.values()
    if len(answers) < len(down):
        raise RuntimeError(f"{len(answers)} of {len(down)} clients answered")
    return answers


def _batch(run: UserConfig, step: int) -> tuple[Tensor, Tensor]:
    """Random images: what they show does not change what a step costs."""
    batch, crop = int(str(run["batch"])), int(str(run["crop"]))
    draws = torch.Generator().manual_seed(step)
    clean = torch.rand((batch, 3, crop, crop), generator=draws) * 2 - 1
    return clean + 0.1 * torch.randn(clean.shape, generator=draws), clean
