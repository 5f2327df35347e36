"""Cases in which an instruction names one direction, from the demonstrations of a data set.

A case is the first observation of an episode, or of a segment, with its instruction and with the
displacement that was demonstrated. Cases come in pairs of opposite directions on one axis, from the
same scene where the data has such pairs (LA4VLA, arXiv 2606.27295, section 3.1).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.core.shown import listed, shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.sample import EpisodeDataset
from vla.evaluation.language_following import DIRECTIONS, LEAST_DISPLACEMENT, displacement
from vla.language_action.clips import clips_of, kept_clips
from vla.language_action.direction_words import AXES, named_directions
from vla.language_action.segments import Segmentation
from vla.policies.base import Images

# So many beginnings are read for each case that is wanted, before enough is enough.
READ_PER_CASE = 4


@dataclass(frozen=True)
class DirectionCase:
    """A situation, and an instruction that names one direction."""

    episode: int  # its number in the data set
    frame: int  # in the data set
    scene: str  # equal for cases of one scene; "" where that is not known
    instruction: str
    direction: str  # one of DIRECTIONS
    images: Images
    state: np.ndarray  # [S], not normalised
    demonstrated: np.ndarray  # displacement [3] in metres, base frame


@dataclass(frozen=True)
class CaseSet:
    """The cases of a data set: cases 2 k and 2 k + 1 have opposite directions."""

    cases: list[DirectionCase]
    left_out: dict[str, int]  # beginnings that name a direction and can't be used, by the reason


@dataclass(frozen=True)
class _Beginning:
    """The first frame of an episode or of a segment."""

    episode: int
    frame: int
    scene: str
    instruction: str
    steps: int | None = None  # of the contract until it ends; None where the frame tells


@dataclass(frozen=True)
class _Candidate:
    """A beginning whose instruction names one direction, without the images."""

    beginning: _Beginning
    direction: str
    demonstrated: np.ndarray  # [3] m


def require_translations(contract: EmbodimentContract) -> None:
    """Raises ContractError unless actions begin with increments of the tool's position."""
    if [(entry.name, entry.kind) for entry in contract.actions[:3]] != [
        (name, "position_delta") for name in AXES
    ]:
        raise ContractError(
            f"'{contract.name}' has the actions {listed(contract.action_names)}: directions can be "
            f"measured where the first are {', '.join(AXES)}, increments of the tool's position"
        )


def find_cases(
    dataset: EpisodeDataset,
    source: str,
    count: int,
    steps: int,
    seed: int = 0,
    segmentation: Segmentation | None = None,
) -> CaseSet:
    """As many cases as there are, at most `count`, in turns from each axis.

    source: the data set's name in messages. steps: of a chunk that are added up to a displacement;
    what ends earlier is left out, and so is a demonstration that doesn't move where its instruction
    says. segmentation: whose kept segments are taken, instead of whole episodes. A large data set
    is not read to its end; which part is read depends on the seed. Raises DatasetError where there
    are no two opposite directions, and for segments of other data.
    """
    if segmentation is None:
        beginnings = list(_episodes(dataset))
    else:
        beginnings = list(_segments(dataset, segmentation))
    generator = np.random.default_rng(seed)
    candidates: list[_Candidate] = []
    counts: Counter[str] = Counter()  # of candidates, by direction
    short, still, longest = 0, 0, 0
    for number, beginning in enumerate(_by_scene(beginnings, generator)):
        pairs_so_far = sum(min(counts[one], counts[other]) for one, other in AXES.values())
        if number >= READ_PER_CASE * count and 2 * pairs_so_far >= count:
            break
        directions = named_directions(beginning.instruction)
        if len(directions) != 1:
            continue
        sample = dataset.sample(beginning.frame, np.random.default_rng(seed))
        known = (len(sample.actions), sample.steps, beginning.steps)
        lasts = min(length for length in known if length is not None)
        longest = max(longest, lasts)
        moved = displacement(sample.actions[:steps])
        if lasts < steps:
            short += 1
        elif moved @ DIRECTIONS[directions[0]] < LEAST_DISPLACEMENT:
            still += 1
        else:
            candidates.append(_Candidate(beginning, directions[0], moved))
            counts[directions[0]] += 1
    reasons = {f"shorter than {steps} steps": short, "does not move where it is told": still}
    left_out = {reason: number for reason, number in reasons.items() if number}
    pairs = _pairs(candidates, count // 2, generator)
    if not pairs and short and not counts:
        raise DatasetError(
            f"{shown_path(source)}: what names a direction has {longest} steps at most, and "
            f"{steps} of a chunk are compared; give --steps {longest}, or data with longer episodes"
        )
    if not pairs:
        found = [f"{number} {direction}" for direction, number in sorted(counts.items())]
        found += [f"{number} left out: {reason}" for reason, number in left_out.items()]
        raise DatasetError(
            f"{shown_path(source)} has no two instructions with opposite directions "
            f"({', '.join(found) or 'none'}); give data that says where to move, or its segments "
            "by --segments"
        )
    return CaseSet([_case(dataset, seed, one) for pair in pairs for one in pair], left_out)


def _episodes(dataset: EpisodeDataset) -> Iterator[_Beginning]:
    """The beginning of each episode."""
    ends = np.asarray(dataset.episode_ends)
    starts = [0, *map(int, ends[:-1])]
    # Tasks are instructions, except where a data set tells these apart.
    instructions = getattr(dataset, "episode_instructions", dataset.episode_tasks)()
    scenes = dataset.episode_scenes() if hasattr(dataset, "episode_scenes") else [""] * len(ends)
    for episode, beginning in enumerate(zip(starts, scenes, instructions, strict=True)):
        yield _Beginning(episode, *beginning)


def _segments(dataset: EpisodeDataset, segmentation: Segmentation) -> Iterator[_Beginning]:
    """The beginning of each segment that is kept; those of one episode share its scene."""
    for clip in kept_clips(segmentation, clips_of(segmentation, dataset)):
        steps = round(clip.segment.duration / dataset.contract.time_step)
        yield _Beginning(
            clip.episode, clip.start, f"episode {clip.episode}", clip.segment.instruction, steps
        )


def _by_scene(beginnings: list[_Beginning], generator: np.random.Generator) -> list[_Beginning]:
    """In random order, those of one scene behind each other."""
    scenes: dict[str, list[_Beginning]] = defaultdict(list)
    for number, beginning in enumerate(beginnings):
        scenes[beginning.scene or f"unknown {number}"].append(beginning)
    groups = list(scenes.values())
    return [one for index in generator.permutation(len(groups)) for one in groups[index]]


def _pairs(
    candidates: list[_Candidate], count: int, generator: np.random.Generator
) -> list[tuple[_Candidate, _Candidate]]:
    """Opposite pairs, in turns from each axis, those of one scene first."""
    of_axes = [
        _pairs_of_axis(
            [candidate for candidate in candidates if candidate.direction == one],
            [candidate for candidate in candidates if candidate.direction == other],
            generator,
        )
        for one, other in AXES.values()
    ]
    turns = range(max(map(len, of_axes)))
    return [pairs[turn] for turn in turns for pairs in of_axes if turn < len(pairs)][:count]


def _pairs_of_axis(
    first: list[_Candidate], second: list[_Candidate], generator: np.random.Generator
) -> list[tuple[_Candidate, _Candidate]]:
    """Each candidate is in one pair at most."""
    of_scene: dict[str, list[_Candidate]] = defaultdict(list)
    for candidate in second:
        of_scene[candidate.beginning.scene].append(candidate)
    pairs, alone = [], []
    for candidate in first:
        scene = candidate.beginning.scene
        if scene and of_scene[scene]:
            pairs.append((candidate, of_scene[scene].pop()))
        else:
            alone.append(candidate)
    left = [candidate for group in of_scene.values() for candidate in group]
    order = generator.permutation(len(left))
    return pairs + [(one, left[index]) for one, index in zip(alone, order, strict=False)]


def _case(dataset: EpisodeDataset, seed: int, candidate: _Candidate) -> DirectionCase:
    beginning = candidate.beginning
    sample = dataset.sample(beginning.frame, np.random.default_rng(seed))
    return DirectionCase(
        beginning.episode,
        beginning.frame,
        beginning.scene,
        beginning.instruction,
        candidate.direction,
        sample.images,
        sample.state,
        candidate.demonstrated,
    )
