from __future__ import annotations

from macula_trio._wire import messages as wire
from macula_trio._wire.correlation import correlation_of


def test_what_belongs_together_has_one_key_and_the_rest_has_none() -> None:
    asked, answered = wire.Ping(timestamp=5), wire.Pong(timestamp=5, server_time=6)
    assert correlation_of(asked) == correlation_of(answered) != correlation_of(wire.Ping(timestamp=6))
    assert correlation_of(wire.Disconnect(reason="normal", message="")) is None
