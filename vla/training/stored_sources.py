"""Data sources that are only read: LeRobot data sets, bags, conversations in LLaVA's format."""

from __future__ import annotations

from pathlib import Path

from vla.bags.episodes import FAILURE, BagEpisodes, bag_folders
from vla.bags.frames import read_frames
from vla.bags.message_types import MessageTypeError
from vla.bags.reader import read_metadata
from vla.bags.writer import BagError
from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.core.findings import Finding, fine, problem
from vla.core.resources import given_or_shared
from vla.core.shown import shown_path
from vla.datasets.conversations import LlavaConversations, LlavaOptions
from vla.datasets.dataset_check import SHOWN, check_conversations, check_lerobot
from vla.datasets.frames import DatasetError
from vla.datasets.image_check import require_images
from vla.datasets.lerobot.dataset import LeRobotEpisodes, LeRobotMapping, read_mapping
from vla.datasets.sources import (
    ConversationData,
    ConversationSource,
    RobotData,
    RobotSource,
    no_contract,
)
from vla.policies.config import CheckpointError, from_dict

# Whatever opening a data set may raise.
FAULTS = (BagError, CheckpointError, ContractError, DatasetError, MessageTypeError)


class LeRobotSource(RobotSource):
    """A folder in LeRobot's layout, v2.1 or v3.0."""

    name = "lerobot"

    def open(self, entry: RobotData, contract: EmbodimentContract) -> LeRobotEpisodes:
        """Its frames; some of its images are checked first, unless all frames are masked."""
        data = LeRobotEpisodes(entry.path, _mapping(entry), contract, entry.annotations)
        if entry.masked_share < 1:
            require_images(data.info, data.mapping.cameras.values())
        return data

    def holds(self, folder: Path) -> bool:
        """It has a folder `meta`."""
        return (folder / "meta").is_dir()

    def check(self, entry: RobotData, contract: EmbodimentContract | None) -> list[Finding]:
        """Everything that vla.datasets.dataset_check looks at."""
        return check_lerobot(entry.path, contract, _mapping(entry), annotations=entry.annotations)


def _mapping(entry: RobotData) -> LeRobotMapping | None:
    return read_mapping(given_or_shared(entry.mapping)) if entry.mapping else None


class BagSource(RobotSource):
    """A folder of rosbag2 recordings, one per episode."""

    name = "bags"

    def open(self, entry: RobotData, contract: EmbodimentContract) -> BagEpisodes:
        """Their frames."""
        return BagEpisodes(entry.path, contract, entry.annotations, entry.masked_share < 1)

    def holds(self, folder: Path) -> bool:
        """There is a bag anywhere in it."""
        return any(folder.glob("**/metadata.yaml"))

    def check(self, entry: RobotData, contract: EmbodimentContract | None) -> list[Finding]:
        """Every bag is read."""
        if contract is None:
            return no_contract()
        area, faults, frames, left_out = "bags", [], 0, 0
        bags = bag_folders(entry.path)
        for bag in bags:
            try:
                if read_metadata(bag).custom_data.get("outcome") == FAILURE:
                    left_out += 1
                    continue
                frames += len(read_frames(bag, contract, lambda images: None).states)
            except FAULTS as error:
                faults.append(str(error))
        found = [problem(area, text, "fix it, or move it away") for text in faults[:SHOWN]]
        if len(faults) > SHOWN:
            found.append(problem(area, f"{len(faults) - SHOWN} more bags cannot be used", ""))
        if left_out == len(bags):
            text = f"all bags in {shown_path(entry.path)} are labelled failure"
            found.append(problem(area, text, ""))
        text = f"{len(bags) - left_out} bags, {frames} frames; {left_out} are labelled failure"
        return found or [fine(area, text)]


class LlavaSource(ConversationSource):
    """A JSON file in LLaVA's format."""

    name = "llava"
    options = LlavaOptions

    def open(self, entry: ConversationData, contract: EmbodimentContract) -> LlavaConversations:
        """Its conversations."""
        return LlavaConversations(entry.path, entry.images, _bad_share(entry))

    def check(self, entry: ConversationData, contract: EmbodimentContract) -> list[Finding]:
        """As many conversations as there is time for, and some of their images."""
        return check_conversations(entry.path, entry.images, _bad_share(entry))


def _bad_share(entry: ConversationData) -> float:
    return from_dict(LlavaOptions, entry.options, f"{entry.path}: options").bad_share


LEROBOT = LeRobotSource()
BAGS = BagSource()
LLAVA = LlavaSource()
