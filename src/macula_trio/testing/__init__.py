"""Tools for tests of Trio applications on a mesh: a simulated network under the real QUIC, and whole meshes on it."""

from macula_trio.testing._mesh import open_mesh as open_mesh
from macula_trio.testing.network import SimNetwork as SimNetwork
