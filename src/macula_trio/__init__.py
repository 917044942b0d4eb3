"""macula_trio: a peer-to-peer mesh for Trio.

`open_node` is where to begin.  Every name here is public and fixed by the design; `macula_trio.wire` is for people who
write another peer, `macula_trio.testing` for those who test applications.
"""

from importlib.metadata import version as _version

from macula_trio._config import NodeConfig as NodeConfig
from macula_trio._config import Trust as Trust
from macula_trio._dht.client import StoreReport as StoreReport
from macula_trio._events import Event as Event
from macula_trio._identity.files import Identity as Identity
from macula_trio._identity.record import Record as Record
from macula_trio._ids import Contact as Contact
from macula_trio._ids import NodeId as NodeId
from macula_trio._ids import dht_key as dht_key
from macula_trio._node import Node as Node
from macula_trio._node import open_node as open_node
from macula_trio._node import send_message as send_message
from macula_trio._pubsub.service import Message as Message
from macula_trio._pubsub.service import Outcome as Outcome
from macula_trio._pubsub.service import PublishReport as PublishReport
from macula_trio._pubsub.service import Subscription as Subscription
from macula_trio._pubsub.service import SubscriptionStatistics as SubscriptionStatistics
from macula_trio._rpc.offer import Call as Call
from macula_trio._rpc.offer import Handler as Handler
from macula_trio._views import EventStream as EventStream
from macula_trio._views import NodeStatistics as NodeStatistics
from macula_trio._views import PeerInfo as PeerInfo
from macula_trio.errors import AlreadyAdvertised as AlreadyAdvertised
from macula_trio.errors import CallTimeout as CallTimeout
from macula_trio.errors import IdentityFileError as IdentityFileError
from macula_trio.errors import LocalProtocolError as LocalProtocolError
from macula_trio.errors import MeshError as MeshError
from macula_trio.errors import NoProviders as NoProviders
from macula_trio.errors import PayloadTooLarge as PayloadTooLarge
from macula_trio.errors import PeerUnavailable as PeerUnavailable
from macula_trio.errors import QuorumNotReached as QuorumNotReached
from macula_trio.errors import RealmMismatch as RealmMismatch
from macula_trio.errors import Reject as Reject
from macula_trio.errors import RemoteCallError as RemoteCallError
from macula_trio.errors import RemoteProtocolError as RemoteProtocolError
from macula_trio.errors import TrustError as TrustError

__version__ = _version("macula-trio")
