"""Which annotations belong to which episode of a LeRobot data set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from vla.core.findings import Finding, warning
from vla.core.shown import first_few, shown_path
from vla.datasets.frames import DatasetError
from vla.datasets.lerobot.mapping import ANNOTATIONS_FILE
from vla.datasets.lerobot.meta import DatasetInfo, EpisodeMeta
from vla.datasets.lerobot.origins import EpisodeOrigin, read_origins
from vla.datasets.vla_it import EpisodeLabels, read_vla_it

# By this many the numbers of frames and of language motion labels may differ.
TRIMMED = 2
# Of so many episodes the names are given.
NAMED = 3


@dataclass(frozen=True)
class JoinedLabels:
    """The labels of the episodes that have some."""

    by_episode: dict[int, EpisodeLabels]  # by index
    findings: list[Finding] = field(default_factory=list)  # what found no partner


def join_labels(info: DatasetInfo, path: str | Path) -> JoinedLabels:
    """The labels of a VLA-IT file by episode.

    Episodes of a data set that was converted with their file paths and ids are found by both.
    Those of any other, and in the data set's own file, are found by their index, under any file
    path. Raises DatasetError where that is ambiguous, or where nothing belongs together.
    """
    own = Path(path) == info.folder / "meta" / ANNOTATIONS_FILE
    origins = {} if own else read_origins(info.folder)
    if any(origin.episode_id for origin in origins.values()):
        return _by_origin(info, origins, path)
    return JoinedLabels(_by_index(info, path))


def _by_index(info: DatasetInfo, path: str | Path) -> dict[int, EpisodeLabels]:
    by_id: dict[str, EpisodeLabels] = {}
    for (file, name), entry in read_vla_it(path).items():
        if name in by_id:
            raise DatasetError(
                f"{path}: episode {name} stands under {file} and another file path; this data "
                "set knows its episodes by their index alone, so give each one of its own, or "
                "convert the original with its file paths by 'vla data convert rlds'"
            )
        by_id[name] = entry
    joined = {}
    for episode in info.episodes:
        if (labels := by_id.get(str(episode.index))) is not None:
            _check_number(labels, episode, path)
            joined[episode.index] = labels
    return joined


def _check_number(labels: EpisodeLabels, episode: EpisodeMeta, path: str | Path) -> None:
    """Raises DatasetError where an episode's labels belong to another one.

    Sources differ in whether the first and the last step, which do not move, are labelled.
    """
    motions = len(labels.motions)
    if motions and abs(motions - episode.length) > TRIMMED:
        raise DatasetError(
            f"{path}: episode {episode.index} has {motions} motion labels, but "
            f"{episode.length} frames in {episode.data}: the two count their episodes "
            "differently"
        )


def _by_origin(
    info: DatasetInfo, origins: dict[int, EpisodeOrigin], path: str | Path
) -> JoinedLabels:
    known, joined = read_vla_it(path), {}
    missing: list[tuple[str, str]] = []
    odd: list[tuple[str, str]] = []
    met: set[tuple[str, str]] = set()
    for episode in info.episodes:
        origin = origins.get(episode.index)
        key = ("", "") if origin is None else (origin.file_path, origin.episode_id)
        if origin is None or key not in known:
            missing.append(key)
            continue
        met.add(key)
        if (labels := _fitted(known[key], origin, episode.length)) is None:
            odd.append(key)
            labels = EpisodeLabels((), known[key].annotation)
        joined[episode.index] = labels
    if not met:
        raise DatasetError(
            f"{shown_path(path)} has none of the {len(info.episodes)} episodes of {info.folder}: "
            f"it names them {_named(known)}, the data set {_named(missing)}; give the annotations "
            "of this data set"
        )
    cure = "annotate them, or train on them as they are"
    several = (
        (missing, f"of {len(info.episodes)} episodes have no annotations", cure),
        (known.keys() - met, "annotated episodes are not in the data set", "convert them, too"),
        (odd, "episodes have another number of motion labels than of steps: these labels are left "
         "out", "make them again"),
    )  # fmt: skip
    return JoinedLabels(
        joined,
        [
            warning("annotations", f"{len(keys)} {what}: {_named(keys)}", cure)
            for keys, what, cure in several
            if keys
        ],
    )


def _named(keys: Collection[tuple[str, str]]) -> str:
    """The first file paths with their episode ids."""
    return first_few((f"{file}, episode {episode}" for file, episode in sorted(keys)), NAMED)


def _fitted(labels: EpisodeLabels, origin: EpisodeOrigin, length: int) -> EpisodeLabels | None:
    """Labels whose motions are those of the episode's frames; None where their number is odd.

    As many labels as the original had steps are of these, also of those that were left out; any
    other number counts the frames that were kept.
    """
    motions = labels.motions
    if len(motions) == origin.steps:
        motions = motions[origin.first_step :: origin.step_every][:length]
    elif motions and abs(len(motions) - length) > TRIMMED:
        return None
    return replace(labels, motions=motions)
