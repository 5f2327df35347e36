"""Embodiment contracts: mutated entries, mutated YAML, mutated bytes."""

from __future__ import annotations

import math
from random import Random

import yaml

from fuzz.mutation import mutate_bytes, mutate_text, mutate_tree
from fuzz.report import Report
from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.control.arm import ArmController, ArmControllerConfig
from vla.core.resources import shared_file


def fuzz_contracts(report: Report, count: int, seed: int) -> None:
    """Reads `count` contracts made from the shipped ones; what is read also makes a controller."""
    random = Random(seed)
    sources = sorted(shared_file("config/contracts").glob("*.yaml"))
    path = report.folder / "contract.yaml"
    for number in range(count):
        source = random.choice(sources)
        kind = random.choice(("tree", "tree", "tree", "text", "bytes"))
        if kind == "tree":
            tree = mutate_tree(random, yaml.safe_load(source.read_text()), random.choice((1, 1, 3)))
            path.write_text(yaml.safe_dump(tree))
        elif kind == "text":
            path.write_text(mutate_text(random, source.read_text()), errors="surrogatepass")
        else:
            path.write_bytes(mutate_bytes(random, source.read_bytes()))
        case = f"{number}, {kind} of {source.name}"
        contract = report.try_case("contracts", case, lambda: load_contract(path), _wrong)
        if contract is not None and contract.name.startswith("sim_panda"):
            report.try_case(
                "controllers of contracts",
                case,
                lambda made=contract: ArmController(ArmControllerConfig(), made) and None,
            )


def _wrong(contract: EmbodimentContract) -> str | None:
    """What no robot has."""
    # Such a contract leaves out what its robot lacks: it is empty or 0.
    lacks = bool(contract.state_dimensions or contract.action_dimensions)
    left_out = ("gripper_open_width", "state_max_age") if lacks else ()
    numbers = {
        "rate": (contract.rate, 1e4),
        "horizon": (contract.horizon, 1e4),
        "gripper_open_width": (contract.gripper_open_width, 2.0),
        "state_max_age": (contract.state_max_age, 3600.0),
    }
    for camera in contract.cameras:
        numbers |= {
            f"{camera.name} width": (camera.width, 1e4),
            f"{camera.name} height": (camera.height, 1e4),
            f"{camera.name} max_age": (camera.max_age, 3600.0),
        }
    for name, (value, most) in numbers.items():
        if name in left_out and value == 0:
            continue
        if not (math.isfinite(value) and 0 < value <= most):
            return f"{name} is {value}"
    texts = [
        contract.name,
        *(
            text
            for text in (
                contract.base_frame,
                contract.joint_states_topic,
                *(camera.topic for camera in contract.cameras),
            )
            if text or not lacks
        ),
        *contract.joint_names,
        *contract.finger_joint_names,
        *(camera.name for camera in contract.cameras),
    ]
    for text in texts:
        if not text.strip() or not text.isprintable() or len(text) > 1000:
            return f"a name is {text[:50]!r}"
    if len(set(contract.joint_names)) < len(contract.joint_names):
        return "two joints have one name"
    return None
