"""What tests of the library share: one simulator, one small dataset, one tiny checkpoint.

Heavy packages are imported by the fixtures that need them, so that the node tests start quickly.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that one passes or fails by what was changed. To search for
# others: pytest --hypothesis-profile search. No deadline, since a busy machine is no fault.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("tests")

# A shell ignores SIGINT in what it starts in the background, and all children inherit that; those
# of the tests are to be interrupted all the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CONTRACT_PATH = Path(__file__).parents[1] / "config" / "contracts" / "sim_panda.yaml"


@pytest.fixture(scope="session", autouse=True)
def kept_indexes(tmp_path_factory):
    """Nothing is left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def traced(monkeypatch):
    """Dynamo's graphs without Inductor: what can't be traced as one graph fails all the same."""
    import torch
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    # Its records of every step would be kept for a failure.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch._dynamo.reset()


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Names modules in VLA_PLUGINS, also of tmp_path. What they register goes with it."""
    from vla.core.plugins import PLUGINS
    from vla.envs.registry import SUITES
    from vla.policies.registry import POLICY_TYPES
    from vla.training.objectives.registry import OBJECTIVES
    from vla.training.source_registry import CONVERSATION_SOURCES, ROBOT_SOURCES

    for registry in (SUITES, POLICY_TYPES, OBJECTIVES, CONVERSATION_SOURCES, ROBOT_SOURCES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield lambda *modules: monkeypatch.setenv(PLUGINS, ",".join(modules))
    for module in set(sys.modules) - before:
        if getattr(sys.modules[module], "__file__", None) == str(tmp_path / f"{module}.py"):
            del sys.modules[module]


@pytest.fixture(scope="session")
def contract():
    """The shipped contract of the simulated Panda."""
    from vla.contract.embodiment import load_contract

    return load_contract(CONTRACT_PATH)


@pytest.fixture(scope="session")
def simulator():
    """One simulator for all tests of a process; each test resets it."""
    from vla.envs.tabletop.simulator import TableTopSimulator

    simulator = TableTopSimulator()
    yield simulator
    simulator.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, contract):
    """Folder of two shards of two demonstrations each, made as `vla train` makes them."""
    from vla.envs.tabletop.demonstrations import DemonstrationConfig, make_shard

    folder = tmp_path_factory.mktemp("dataset")
    config = DemonstrationConfig(
        episodes=4,
        episodes_per_shard=2,
        shares={"pick": 0.4, "place": 0.3, "open_drawer": 0.3},
        tail_steps=1,
        noise_share=0.5,
        detour_share=0.0,
    )
    failures = sum(make_shard((index, str(folder), contract, config)) for index in range(2))
    assert failures < 3, "the expert fails too often to make a dataset"
    return folder


@pytest.fixture(scope="session")
def shards(dataset, contract):
    """The dataset's opened shards."""
    from vla.datasets.frames import read_dataset

    return read_dataset(dataset, contract)


@pytest.fixture(scope="module")
def part_of(tmp_path_factory):
    """Opens a RoboVLM of a configuration, made once, in which every weight matters."""
    from tiny_checkpoint import save_tiny_checkpoint
    from tiny_robovlm import randomise

    from vla.policies.parts import ReasoningPart

    parts = {}

    def make(config):
        key = repr(config)
        if key not in parts:
            folder = tmp_path_factory.mktemp("robovlm") / "tiny"
            parts[key] = ReasoningPart.from_pretrained(save_tiny_checkpoint(folder, config=config))
            randomise(parts[key].model)
        parts[key].reset()
        return parts[key]

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a checkpoint of the preset "test" with random weights."""
    from tiny_checkpoint import save_tiny_checkpoint

    return save_tiny_checkpoint(tmp_path_factory.mktemp("policy") / "tiny")
