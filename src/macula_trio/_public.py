"""What `macula_trio` offers; loaded when the first of these names is asked for."""

from macula_trio._config import NodeConfig
from macula_trio._dht.owner import StoreReport
from macula_trio._events import Event
from macula_trio._health import HealthReport
from macula_trio._identity.files import Identity
from macula_trio._identity.record import Record
from macula_trio._ids import Contact, NodeId, dht_key
from macula_trio._node import Node
from macula_trio._open import open_node
from macula_trio._pubsub.publisher import Outcome, PublishReport
from macula_trio._pubsub.subscription import Message, Subscription, SubscriptionStatistics
from macula_trio._rpc.offer import Call, Handler
from macula_trio._send import send_message
from macula_trio._trust import Trust
from macula_trio._views import EventStream, NodeStatistics, PeerInfo
from macula_trio.errors import (
    AlreadyAdvertised,
    CallTimeout,
    IdentityFileError,
    LocalProtocolError,
    MeshError,
    NoProviders,
    PayloadTooLarge,
    PeerUnavailable,
    QuorumNotReached,
    RealmMismatch,
    Reject,
    RemoteCallError,
    RemoteProtocolError,
    TrustError,
)

__all__ = [
    "AlreadyAdvertised",
    "Call",
    "CallTimeout",
    "Contact",
    "Event",
    "EventStream",
    "Handler",
    "HealthReport",
    "Identity",
    "IdentityFileError",
    "LocalProtocolError",
    "MeshError",
    "Message",
    "NoProviders",
    "Node",
    "NodeConfig",
    "NodeId",
    "NodeStatistics",
    "Outcome",
    "PayloadTooLarge",
    "PeerInfo",
    "PeerUnavailable",
    "PublishReport",
    "QuorumNotReached",
    "RealmMismatch",
    "Record",
    "Reject",
    "RemoteCallError",
    "RemoteProtocolError",
    "StoreReport",
    "Subscription",
    "SubscriptionStatistics",
    "Trust",
    "TrustError",
    "dht_key",
    "open_node",
    "send_message",
]
