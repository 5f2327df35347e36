"""Every data set of a training looked at before it begins: what `vla data check` does."""

from __future__ import annotations

from pathlib import Path

from vla.bags.episodes import FAILURE, bag_folders
from vla.bags.frames import read_frames
from vla.bags.message_types import MessageTypeError
from vla.bags.reader import read_metadata
from vla.bags.writer import BagError
from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.core.findings import Finding, fine, problem, warning
from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla.datasets.dataset_check import SHOWN, check_conversations, check_lerobot
from vla.datasets.frames import DatasetError, read_dataset
from vla.datasets.lerobot.dataset import read_mapping
from vla.policies.config import CheckpointError
from vla.training.config import ConversationData, RobotData, TrainConfig
from vla.training.sources import contract_of, kind_of, open_conversations

FAULTS = (BagError, CheckpointError, ContractError, DatasetError, MessageTypeError)


def check_config(config: TrainConfig, contract: EmbodimentContract) -> dict[str, list[Finding]]:
    """The findings of each data set of a run, by its path."""
    found: dict[str, list[Finding]] = {}
    for entry in config.robot:
        found.setdefault(entry.path, []).extend(check_robot_data(entry, contract))
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


def check_robot_data(entry: RobotData, own: EmbodimentContract | None) -> list[Finding]:
    """The findings of one entry of a configuration. own: the run's contract."""
    area = "description"
    try:
        contract = own if own is None else contract_of(entry, own)
        if entry.kind == "lerobot":
            mapping = read_mapping(given_or_shared(entry.mapping)) if entry.mapping else None
            return check_lerobot(entry.path, contract, mapping, annotations=entry.annotations)
        if contract is None:
            text = "without a contract only LeRobot data sets and conversations can be looked at"
            return [warning(area, text, "give --contract")]
        if entry.kind == "bags":
            return _check_bags(entry.path, contract)
        if entry.kind == "simulated":
            if not Path(entry.path).exists():
                return [fine(area, "not there yet: it is made when the training begins")]
            shards = read_dataset(entry.path, contract)
            frames = sum(map(len, shards))
            return [fine(area, f"{len(shards)} shards of demonstrations, {frames} frames")]
    except FAULTS as error:
        return [problem(area, str(error), "")]
    text = f"unknown robot data '{entry.kind}'"
    return [problem(area, text, "known: simulated, lerobot, bags")]


def _check_bags(folder: str, contract: EmbodimentContract) -> list[Finding]:
    area, faults, frames, left_out = "bags", [], 0, 0
    bags = bag_folders(folder)
    for bag in bags:
        try:
            if read_metadata(bag).custom_data.get("outcome") == FAILURE:
                left_out += 1
                continue
            frames += len(read_frames(bag, contract, lambda images: None).states)
        except FAULTS as error:
            faults.append(str(error))
    found = [problem(area, text, "mend it, or move it away") for text in faults[:SHOWN]]
    if len(faults) > SHOWN:
        found.append(problem(area, f"{len(faults) - SHOWN} more bags cannot be used", ""))
    if left_out == len(bags):
        found.append(problem(area, f"all bags in {shown_path(folder)} are labelled failure", ""))
    text = f"{len(bags) - left_out} bags, {frames} frames; {left_out} are labelled failure"
    return found or [fine(area, text)]


def _check_talk(entry: ConversationData, contract: EmbodimentContract) -> list[Finding]:
    if entry.kind == "llava":
        return check_conversations(entry.path, entry.images)
    area = "conversations"
    if entry.kind == "scenes" and not Path(entry.path).exists():
        return [fine(area, "not there yet: they are made when the training begins")]
    try:
        return [fine(area, f"{len(open_conversations(entry, contract))} scenes")]
    except FAULTS as error:
        return [problem(area, str(error), "")]
