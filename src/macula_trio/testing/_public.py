"""What `macula_trio.testing` offers; loaded when the first of these names is asked for."""

from macula_trio.testing._determinism import (
    Deadlock,
    DeadlockWatch,
    DeterminismUnavailable,
    ScheduleDigest,
    SeededRun,
    deterministic,
    deterministic_scheduler,
    run_seeded,
)
from macula_trio.testing._faults import LinkModel
from macula_trio.testing._frame_node import FrameNode, open_frame_mesh, open_frame_node
from macula_trio.testing._invariants import InvariantViolated
from macula_trio.testing._mesh import open_mesh
from macula_trio.testing._scenario import Outcome, ScenarioError, replay, run_scenario
from macula_trio.testing._world import Scale, World, open_world
from macula_trio.testing.frames import FrameNetwork, FrameStatistics
from macula_trio.testing.network import SimHost, SimNetwork, SimStatistics

__all__ = [
    "Deadlock",
    "DeadlockWatch",
    "DeterminismUnavailable",
    "FrameNetwork",
    "FrameNode",
    "FrameStatistics",
    "InvariantViolated",
    "LinkModel",
    "Outcome",
    "Scale",
    "ScenarioError",
    "ScheduleDigest",
    "SeededRun",
    "SimHost",
    "SimNetwork",
    "SimStatistics",
    "World",
    "deterministic",
    "deterministic_scheduler",
    "open_frame_mesh",
    "open_frame_node",
    "open_mesh",
    "open_world",
    "replay",
    "run_scenario",
    "run_seeded",
]
