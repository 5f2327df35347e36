"""Checks every data set of a training before it begins: what `vla data check` does."""

from __future__ import annotations

from pathlib import Path

from vla.contract.embodiment import EmbodimentContract
from vla.core.findings import Finding, problem
from vla.datasets.dataset_check import check_conversations
from vla.datasets.frames import DatasetError
from vla.datasets.sources import ConversationData, RobotData
from vla.training.config import TrainConfig
from vla.training.source_registry import CONVERSATION_SOURCES, ROBOT_SOURCES
from vla.training.sources import contract_of, kind_of, pads_robots
from vla.training.stored_sources import FAULTS


def check_config(config: TrainConfig, contract: EmbodimentContract) -> dict[str, list[Finding]]:
    """The findings of each data set of a run, by its path."""
    found: dict[str, list[Finding]] = {}
    padded = pads_robots(config)
    for entry in config.robot:
        found.setdefault(entry.path, []).extend(check_robot_data(entry, contract, padded))
    for talk in config.conversations:
        found.setdefault(talk.path, []).extend(_check_talk(talk, contract))
    return found


def check_folder(
    path: str, contract: EmbodimentContract | None, mapping: str = "", annotations: str = ""
) -> list[Finding]:
    """The findings of a data set of whatever kind, or of a file of conversations."""
    if Path(path).suffix in (".json", ".jsonl"):
        return check_conversations(path)
    try:
        kind = kind_of(path)
    except DatasetError as error:
        return [problem("description", str(error), "")]
    return check_robot_data(RobotData(path, kind, mapping, annotations), contract)


def check_robot_data(
    entry: RobotData, own: EmbodimentContract | None, padded: bool = False
) -> list[Finding]:
    """The findings of one entry of a configuration. own: the run's contract. padded: see there."""
    try:
        contract = own if own is None else contract_of(entry, own, padded)
        return ROBOT_SOURCES[entry.kind].check(entry, contract)
    except FAULTS as error:
        return [problem("description", str(error), "")]


def _check_talk(entry: ConversationData, contract: EmbodimentContract) -> list[Finding]:
    try:
        return CONVERSATION_SOURCES[entry.kind].check(entry, contract)
    except FAULTS as error:
        return [problem("conversations", str(error), "")]
