"""Words for what happens in a mesh: one event, or many alike.

Pure.  `TELLINGS` is the vocabulary: every event that the library emits and a simulated world tells.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from macula_trio._cli.happenings import FAULT, Happening
from macula_trio._cli.output import ID_DIGITS, count
from macula_trio.testing._faults import LinkModel

NAMES_MAX: Final = 3  # as many are named; more are counted
SPAN_S: Final = 0.1  # a shorter one is not told


@attrs.frozen
class Group:
    """Like events of one moment, and the words for them."""

    happenings: Sequence[Happening]
    names: Mapping[str, str]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of the first."""
        return self.happenings[0].facts

    @property
    def times(self) -> str:
        """How often, if more than once."""
        return "" if len(self.happenings) == 1 else f" {len(self.happenings)} times"

    def values(self, fact: str) -> list[Any]:
        """What a fact was, each value once, those in lists too."""
        found: dict[Any, None] = {}
        for happening in self.happenings:
            value = happening.facts.get(fact)
            items = value if isinstance(value, list) else [value]
            found.update(dict.fromkeys(json.dumps(item) if isinstance(item, (list, dict)) else item for item in items))
        return [value for value in found if value is not None]

    def some(self, fact: str, noun: str) -> str:
        """The values of a fact: named when they are few, counted when not."""
        return _some([written(self.names.get(value, value)) for value in self.values(fact)], noun)

    def numbers(self, fact: str, noun: str, *, optional: bool = False) -> str:
        """How many there were, of a number or of a list: one number, or from the least to the most.

        Args:
          fact: its name.
          noun: for one of them.
          optional: whether none is not worth a word.
        """
        found = [happening.facts.get(fact) for happening in self.happenings]
        sizes = sorted(len(item) if isinstance(item, list) else item or 0 for item in found)
        if optional and not sizes[-1]:
            return ""
        if sizes[0] == sizes[-1]:
            return count(sizes[0], noun)
        return f"{sizes[0]} to {count(sizes[-1], noun)}"

    def took(self) -> str:
        """The fact ``seconds``, as milliseconds: one, or from the least to the most."""
        found = sorted(happening.facts.get("seconds") or 0.0 for happening in self.happenings)
        least, most = f"{found[0] * 1000:.1f}", f"{found[-1] * 1000:.1f}"
        return f"{most} ms" if least == most else f"{least} to {most} ms"

    def span(self) -> str:
        """How long it went on, unless that was but a moment."""
        span_s = (self.happenings[-1].t_us - self.happenings[0].t_us) / 1e6
        return f", over {span_s:.3g} s" if span_s >= SPAN_S else ""


Words = Callable[[Group], str]

# For facts whose names are none, when there are many values.
_NOUNS: Final = {"address": "place", "before": "place", "hosts": "machine", "skew_ms": "number", "bootstrap": "node"}


@attrs.frozen(kw_only=True)
class Telling:
    """How an event is told.

    Attributes:
      words: for one or many of it.
      by: facts in which those must be equal that are told in one line, where the lines suffice.
      quiet: by its facts, whether it is only counted.
      who: fact that names who did it; the node of the line by default.
    """

    words: Words
    by: tuple[str, ...] = ()
    quiet: Callable[[Mapping[str, Any]], bool] | None = None
    who: str | None = None


def as_it_is(group: Group) -> str:
    """Words for an event that only its scenario knows."""
    name = group.happenings[0].event.removeprefix(FAULT)
    facts = {fact: group.values(fact) for fact in group.facts}
    # Those in which they differ would be a jumble.
    told = [_fact(fact, group.facts[fact]) for fact in facts if not group.times or _is_common(group, fact)]
    return " ".join([f"{name}{group.times}", *filter(None, told)])


def _is_common(group: Group, fact: str) -> bool:
    return all(happening.facts.get(fact) == group.facts[fact] for happening in group.happenings)


def _fact(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{name}={_some([written(item) for item in value], 'item') or '[]'}"
    return f"{name}={written(value)}"


def written(value: object) -> str:
    """Write a fact: ids and hashes are cut, numbers lose what nobody reads."""
    if isinstance(value, bool) or not isinstance(value, (float, str)):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    is_id = len(value) >= 2 * ID_DIGITS and set(value) <= set("0123456789abcdef")
    return value[:ID_DIGITS] if is_id else value


def _some(values: Iterable[str], noun: str) -> str:
    distinct = list(dict.fromkeys(values))
    return ", ".join(distinct) if len(distinct) <= NAMES_MAX else count(len(distinct), noun)


def _called(group: Group) -> str:
    hops = f" in {group.numbers('hops', 'hop')}"
    where = group.some("provider", "node")
    return f"called {group.some('procedure', 'procedure')}{group.times} on {where}{hops}, {group.took()}"


def _published(group: Group) -> str:
    return f"published on {group.some('topic', 'topic')}{group.times} to {group.numbers('targets', 'node')}"


def _delivered(group: Group) -> str:
    verb = "received" if group.values("outcome") == ["delivered"] else f"{group.some('outcome', 'outcome')}:"
    publisher = group.some("publisher", "node")
    origin = f" from {publisher}" if publisher else ""
    return f"{verb} {group.some('topic', 'topic')}{group.times}{origin}"


def _stored(verb: str) -> Words:
    def words(group: Group) -> str:
        rest = "".join(
            f", {found}"
            for fact, noun in (("refused", "refusal"), ("unreachable", "unreachable node"))
            if (found := group.numbers(fact, noun, optional=True))
        )
        return f"{verb} {group.some('key', 'key')}{group.times} with {group.numbers('replicas', 'replica')}{rest}"

    return words


def _joined(group: Group) -> str:
    return f"joined{group.times if len(group.values('nodes')) == 1 else ''}, knows {group.numbers('nodes', 'node')}"


def _said(template: str, *facts: str) -> Words:
    """Words with the values of facts in the places of ``{}``; what has several is named or counted."""

    def words(group: Group) -> str:
        texts = [group.some(fact, _NOUNS.get(fact, fact)) for fact in facts]
        return template.format(*texts) + group.times

    return words


def _each(verb: str, fact: str = "node") -> Words:
    """Words for what befalls each by itself: who it is stands in front."""
    return lambda group: verb if len(group.happenings) == len(group.values(fact)) else f"{verb}{group.times}"


def _cut_off(group: Group) -> str:
    side, others = group.some("side", "machine"), group.some("others", "machine") or "everybody else"
    told = (
        f"loses what goes from {side} to {others}" if group.facts.get("one_way") else f"cuts {side} off from {others}"
    )
    return f"{told}{group.times}"


def _of_path(group: Group) -> str:
    ends = [group.some(end, "machine") or "any" for end in ("source", "target")]
    changed = [
        f"{field.name}={written(group.facts[field.name])}"
        for field in attrs.fields(LinkModel)
        if field.name in group.facts and group.facts[field.name] not in (None, field.default)
    ]
    return f"{ends[0]} to {ends[1]}: {' '.join(changed) or 'nothing in the way'}{group.times}"


def _is_idle(facts: Mapping[str, Any]) -> bool:
    return not any(facts.get(fact) for fact in ("calls", "calls_cancelled", "calls_turned_away"))


def _always(_facts: Mapping[str, Any]) -> bool:
    return True


# The vocabulary: every event that the library emits and the world tells.  Others are told as they are.
TELLINGS: Final[Mapping[str, Telling]] = {
    "node.started": Telling(words=_each("started"), who="node"),
    "node.restarted": Telling(words=_each("restarted"), who="node"),
    "node.stopped": Telling(words=_each("left"), who="node"),
    "node.crashed": Telling(words=_each("crashed"), who="node"),
    "node.joined": Telling(words=_joined),
    "node.join_delayed": Telling(words=_said("has not joined yet by {}", "bootstrap")),
    "node.bootstrap_failed": Telling(words=_said("could not join by {}: {}", "endpoint", "reason")),
    "node.draining": Telling(words=_said("drains, calls still run: {}", "calls"), by=("calls",), quiet=_is_idle),
    "node.drained": Telling(
        words=_said("is drained; calls cancelled: {}, turned away: {}", "calls_cancelled", "calls_turned_away"),
        by=("calls_cancelled", "calls_turned_away"),
        quiet=_is_idle,
    ),
    "fault.crash": Telling(words=_each("crashed", "host"), who="host"),
    "fault.restart": Telling(
        words=_each("lost all storage", "host"),
        who="host",
        quiet=lambda facts: facts.get("keep_storage") is not False,  # the node tells that it is back
    ),
    "fault.partition": Telling(words=_cut_off, by=("side", "others", "one_way")),
    "fault.heal": Telling(words=lambda group: f"is whole again{group.times}"),
    "fault.link": Telling(words=_of_path, by=tuple(field.name for field in attrs.fields(LinkModel))),
    "fault.clog": Telling(words=_said("holds back all of {}", "hosts")),
    "fault.unclog": Telling(words=_said("lets go of {}", "hosts")),
    "fault.skew": Telling(words=_said("clock is wrong by {} ms", "skew_ms"), by=("skew_ms",), who="host"),
    "fault.address": Telling(words=_said("moves from {} to {}", "before", "address"), who="host"),
    "fault.port": Telling(words=_said("is seen at port {1}, no more at {0}", "before", "port"), who="host"),
    "link.opened": Telling(words=_said("opened a link"), quiet=_always),
    "link.closed": Telling(words=_said("closed a link"), quiet=_always),
    "link.redial": Telling(words=_said("dials {} again, whom it has lost", "endpoint"), by=("peer",)),
    "link.migrated": Telling(words=_said("follows a peer from {} to {}", "before", "endpoint"), by=("peer",)),
    "link.refused": Telling(words=_said("refused {}: {}", "address", "reason"), by=("reason",)),
    "identity_conflict": Telling(words=_said("shares its key with another node, at {}", "address"), by=("address",)),
    "identity.renewal_due": Telling(words=_said("should renew its certificate, valid until {}", "valid_until")),
    "identity.renewed": Telling(words=_said("has a new certificate, valid until {}", "valid_until")),
    "identity.untrusted": Telling(words=_said("would not let itself in: {}", "reason")),
    "trust.reloaded": Telling(words=_said("judges its peers anew, by {}", "policy"), by=("policy",)),
    "endpoint.changed": Telling(words=_said("is reached at {1}, no more at {0}", "before", "endpoint")),
    "peer.penalized": Telling(
        words=_said("refuses {} for a while: it broke the rules too often", "offender"), by=("offender",)
    ),
    "trust.blocked": Telling(words=_said("blocks {}", "peer"), by=("peer",)),
    "dht.stored": Telling(words=_stored("stored"), by=("kind",)),
    "dht.withdrawn": Telling(words=_stored("withdrew"), by=("kind",)),
    "dht.value_received": Telling(words=_said("received a value"), quiet=_always),
    "dht.value_refused": Telling(words=_said("refused a value: {}", "reason")),
    "dht.clock_skew": Telling(words=_said("hears that its clock is {} s behind", "seconds")),
    "clock.differs": Telling(words=_said("meets {}, whose clock is {} s ahead", "peer", "ahead_s"), by=("ahead_s",)),
    "dht.rate_limited": Telling(words=_said("is asked too much by {}", "peer"), by=("request",)),
    "dht.endpoint_refuted": Telling(words=_said("does not find {} at {}", "peer", "endpoint")),
    "dht.value_not_passed_on": Telling(words=_said("is too busy to pass on a value of {}", "owner"), by=("owner",)),
    "health.failed": Telling(words=_said("finds itself unwell: {}", "reason"), by=("reason",)),
    "message.failed": Telling(words=_said("could not send a message to {}: {}", "peer", "reason"), by=("reason",)),
    "message.dropped": Telling(words=_said("did not send a message to {}: {}", "peer", "reason"), by=("reason",)),
    "message.unconfirmed": Telling(words=_said("does not know whether {} got a message: {}", "peer", "reason")),
    "rpc.called": Telling(words=_called, by=("procedure",)),
    "rpc.failed": Telling(words=_said("failed to call {}: {}", "procedure", "reason"), by=("procedure",)),
    "rpc.started": Telling(words=_said("began to run {}", "procedure"), quiet=_always),
    "rpc.repeated": Telling(words=_said("calls {} once more", "procedure"), by=("procedure",)),
    "rpc.served": Telling(
        words=_said("ran {} for {}, {}", "procedure", "caller", "outcome"),
        by=("procedure", "outcome"),
        quiet=lambda facts: facts.get("outcome") == "ok",  # the caller tells the same
    ),
    "rpc.handler_failed": Telling(words=_said("handler of {} failed", "procedure"), by=("procedure",)),
    "rpc.cast_dropped": Telling(words=_said("dropped a cast of {}", "procedure"), by=("procedure",)),
    "rpc.forbidden": Telling(words=_said("did not let {} call {}", "caller", "procedure"), by=("procedure",)),
    "rpc.route_refused": Telling(words=_said("refused a forwarded {}: {}", "payload_type", "reason"), by=("reason",)),
    "pubsub.published": Telling(words=_published, by=("topic",)),
    "pubsub.delivered": Telling(words=_delivered, by=("topic", "outcome")),
    "pubsub.dropped": Telling(words=_said("waited in vain to send {} to {}", "topic", "subscriber"), by=("topic",)),
    "pubsub.refused": Telling(words=_said("refused a message on {}: {}", "topic", "reason"), by=("topic",)),
    "pubsub.forbidden": Telling(words=_said("did not let {} publish on {}", "publisher", "topic"), by=("topic",)),
    "pubsub.client_subscribed": Telling(words=_said("lets {} subscribe to {}", "host", "pattern"), by=("pattern",)),
    "pubsub.client_unsubscribed": Telling(words=_said("lets {} go from {}", "host", "pattern"), by=("pattern",)),
    "pubsub.client_refused": Telling(words=_said("refuses {} its {}: {}", "host", "pattern", "reason")),
    "pubsub.client_unadvertised": Telling(words=_said("cannot be found for {}: {}", "pattern", "reason")),
    "pubsub.client_dropped": Telling(words=_said("dropped a message on {}: {}", "topic", "reason"), by=("topic",)),
    "pubsub.client_published": Telling(words=_said("passed on a message on {}", "topic"), by=("topic",)),
    "pubsub.client_sent": Telling(words=_said("sent a client a message on {}", "topic"), quiet=_always),
    "pubsub.patterns_unread": Telling(
        words=_said("left {} patterns unread for {}", "patterns", "topic"), by=("topic",)
    ),
    "pubsub.bad_payload": Telling(words=_said("could not read a message on {}: {}", "topic", "reason")),
}
