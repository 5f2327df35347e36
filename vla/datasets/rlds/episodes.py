"""Episodes of an RLDS data set, from the bytes of a record to what a mapping makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vla.contract.embodiment import EmbodimentContract
from vla.core.text import one_line
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.meta import (
    LONGEST_TASK,
    STORED,
    DatasetInfo,
    EpisodeMeta,
)
from vla.datasets.lerobot.tracks import StoredEpisode, has_words
from vla.datasets.lerobot.vectors import actions_of, states_of
from vla.datasets.rlds.examples import Values, read_example
from vla.datasets.rlds.features import IMAGE, TEXT, RldsFeature, RldsFeatures, numbers_of, text_of
from vla.datasets.rlds.mapping import RldsMapping
from vla.datasets.rlds.source import RldsSource


@dataclass(frozen=True)
class RldsEpisode:
    """One episode of N steps, its images still encoded."""

    stored: StoredEpisode
    images: dict[str, list[bytes]]  # N by camera
    # As annotations name it; "" where the data set has no such feature.
    file_path: str
    episode_id: str


def described(source: RldsSource, mapping: RldsMapping) -> DatasetInfo:
    """The steps' features as meta/info.json of a LeRobot data set describes them."""
    features = {}
    for name, feature in source.features.steps.items():
        dtype = STORED if feature.kind == IMAGE else feature.kind
        features[name] = {"dtype": dtype, "shape": [max(1, feature.size)]}
    return DatasetInfo(source.folder, mapping.rate, features)


def require_instruction(source: RldsSource, mapping: RldsMapping) -> None:
    """Raises DatasetError where the data set has no instruction of that name."""
    feature = _instruction(source.features, mapping)
    if feature is None or feature.kind != TEXT:
        texts = [
            name
            for features in (source.features.steps, source.features.episode)
            for name, other in features.items()
            if other.kind == TEXT
        ]
        raise DatasetError(
            f"{source.folder} has no text {one_line(mapping.instruction)} for the mapping's "
            f"instruction; its texts: {one_line(', '.join(texts), 400)}"
        )


def has_ids(features: RldsFeatures, mapping: RldsMapping) -> bool:
    """Whether episodes carry what annotations find them by."""
    return {mapping.file_path, mapping.episode_id} <= features.episode.keys()


def read_episode(
    record: bytes,
    episode: EpisodeMeta,
    features: RldsFeatures,
    mapping: RldsMapping,
    contract: EmbodimentContract,
    images: bool = True,
) -> RldsEpisode:
    """The episode of a record; images: whether it is to have them.

    episode: where it comes from; its length is found here. Raises DatasetError where a value is
    missing, not as features.json says, or does not fit the contract.
    """
    where = f"{episode.data}, episode {episode.index}"
    cameras = {camera: features.steps[name] for camera, name in mapping.cameras.items() if images}
    numbers = {name: features.steps[name] for name in mapping.features}
    instruction = _instruction(features, mapping)
    ids = [features.episode.get(name) for name in (mapping.file_path, mapping.episode_id)]
    named = [feature for feature in (instruction, *ids) if feature is not None]
    wanted = {feature.key for feature in (*cameras.values(), *numbers.values(), *named)}
    held = read_example(record, wanted)
    if missing := sorted(wanted - held.keys()):
        raise DatasetError(f"{where} has no {one_line(', '.join(missing))}; fetch the file again")
    columns = {name: numbers_of(feature, held[feature.key]) for name, feature in numbers.items()}
    encoded = {camera: _encoded(feature, held) for camera, feature in cameras.items()}
    length = len(next(iter(columns.values())))
    words = _words(features, mapping, held, length)
    counts = {name: len(values) for name, values in (columns | encoded | {"texts": words}).items()}
    if length == 0 or set(counts.values()) != {length}:
        shown = one_line(", ".join(f"{n} of {name}" for name, n in counts.items()), 400)
        raise DatasetError(f"{where} has {shown}, not one for each step; fetch the file again")
    stored = StoredEpisode(
        replace(episode, length=length),
        states_of(columns.__getitem__, mapping, contract, where),
        actions_of(columns.__getitem__, mapping, contract, where),
        words,
    )
    if not has_words(stored) and not mapping.drop_wordless:
        raise DatasetError(
            f"{where} has no instruction; 'drop_wordless: true' in the mapping leaves such "
            "episodes out"
        )
    file_path, episode_id = (
        "" if feature is None else text_of(feature, _single(feature, held)) for feature in ids
    )
    return RldsEpisode(stored, encoded, file_path, episode_id)


def _instruction(features: RldsFeatures, mapping: RldsMapping) -> RldsFeature | None:
    """The feature of the instruction, of steps or of the episode."""
    return features.steps.get(mapping.instruction) or features.episode.get(mapping.instruction)


def _words(
    features: RldsFeatures, mapping: RldsMapping, held: dict[str, Values], length: int
) -> list[str]:
    """The instruction of each step."""
    feature = _instruction(features, mapping)
    if feature is None:
        raise DatasetError(f"there is no {one_line(mapping.instruction)}; correct the mapping")
    values = held[feature.key]
    distinct = {value: text_of(feature, value) for value in set(values)}
    if (longest := max(map(len, distinct.values()), default=0)) > LONGEST_TASK:
        raise DatasetError(f"{feature.key} has {longest} characters; leave the episode out")
    words = [distinct[value] for value in values]
    return words * length if mapping.instruction in features.episode else words


def _encoded(feature: RldsFeature, held: dict[str, Values]) -> list[bytes]:
    values = held[feature.key]
    if not isinstance(values, list):
        raise DatasetError(f"{feature.key} holds numbers, not images; fetch the file again")
    return values


def _single(feature: RldsFeature, held: dict[str, Values]) -> bytes | int:
    """The one value of a feature of the episode."""
    values = held[feature.key]
    if len(values) != 1:
        raise DatasetError(f"{feature.key} has {len(values)} values, not one; fetch the file again")
    return values[0]
