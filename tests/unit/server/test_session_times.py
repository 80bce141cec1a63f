"""How long a round's sessions took: from the start of the first to the end of the last."""

from types import SimpleNamespace

from tavit_flwr.server.report import _sessions_s


def test_sessions_one_after_another_are_added_up():
    """Each took 3 s; the second began when the first had ended, so that the round's sessions took 6."""
    answered = {1: 103.0, 2: 106.0}
    opened = SimpleNamespace(sessions={node: (None, SimpleNamespace(answered=end)) for node, end in answered.items()})
    replies = [SimpleNamespace(participant=SimpleNamespace(node_id=node), metrics={"wall-s": 3.0}) for node in answered]
    assert _sessions_s(opened, replies) == 6.0
    assert _sessions_s(opened, replies[:1]) == 3.0
    assert _sessions_s(opened, []) == 0.0
