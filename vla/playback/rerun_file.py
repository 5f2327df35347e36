"""Episodes as files of the Rerun viewer, by the package rerun-sdk, which nothing else needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.core.replacing import replacing
from vla.core.text import one_line
from vla.playback.footage import (
    Footage,
    Numbers,
    Picture,
    PictureDecoder,
    PlaybackError,
    ToolPose,
    Words,
)

INSTALL = "pip install rerun-sdk"
TIMELINE = "episode"
JPEG_QUALITY = 90


def write_rerun(footage: Footage, path: Path) -> list[str]:
    """Writes pictures, tool poses, vectors and words of an episode as an .rrd file.

    Pictures are below `cameras`, words below `words`; all else has the name of its topic or
    feature. Returns sentences on what could not be shown. Raises PlaybackError where rerun-sdk is
    missing or the file can't be written, and BagError or DatasetError where the episode can't be
    read.
    """
    try:
        import rerun
    except ImportError as error:
        raise PlaybackError(f"Rerun is not installed ({error}): {INSTALL}") from error
    decoder = PictureDecoder()
    places: dict[str, list[np.ndarray]] = {}
    named: set[str] = set()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            recording = rerun.RecordingStream("vla_ros", recording_id=footage.facts.name)
            recording.save(new)
            _log_facts(rerun, recording, footage)
            for entry in footage.everything():
                recording.set_time(TIMELINE, duration=entry.time)
                if isinstance(entry, Picture):
                    if (image := decoder.image(entry)) is not None:
                        shown = rerun.Image(image).compress(jpeg_quality=JPEG_QUALITY)
                        recording.log(f"cameras/{entry.camera}", shown)
                elif isinstance(entry, ToolPose):
                    pose = rerun.Transform3D(
                        translation=entry.position,
                        rotation=rerun.Quaternion(xyzw=entry.quaternion),
                    )
                    recording.log(entry.name, pose)
                    places.setdefault(entry.name, []).append(entry.position)
                elif isinstance(entry, Numbers):
                    if entry.name not in named and len(entry.names) == len(entry.values):
                        lines = rerun.SeriesLines(names=list(entry.names))
                        recording.log(entry.name, lines, static=True)
                    named.add(entry.name)
                    recording.log(entry.name, rerun.Scalars(entry.values))
                elif isinstance(entry, Words):
                    recording.log(f"words/{entry.name}", rerun.TextLog(entry.text))
            for name, positions in places.items():
                path_of_tool = rerun.LineStrips3D([np.array(positions)])
                recording.log(f"{name}_path", path_of_tool, static=True)
            recording.disconnect()
    except OSError as error:
        raise PlaybackError(f"cannot write {path}: {error.strerror or one_line(error)}") from error
    return [*footage.flaws(), *decoder.flaws()]


def _log_facts(rerun, recording, footage: Footage) -> None:
    facts = footage.facts
    lines = [f"# {facts.name}", facts.instruction, facts.outcome, facts.flaw]
    text = "\n\n".join(line for line in lines if line)
    document = rerun.TextDocument(text, media_type=rerun.MediaType.MARKDOWN)
    recording.log("episode", document, static=True)
    for mark in facts.marks:
        recording.set_time(TIMELINE, duration=mark.time)
        recording.log("words/mark", rerun.TextLog(mark.name))
