"""Compares what a LeRobot data set or a file of conversations claims with what it holds.

`vla data check` prints these findings; `vla train` and `vla finetune` refuse problems before their
first step.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from math import gcd
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from vla.contract.embodiment import ContractError, EmbodimentContract, load_contract
from vla.core.files import require_regular
from vla.core.findings import Finding, fine, problem, warning
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.conversations import LlavaConversations, LlavaOptions
from vla.datasets.frames import DatasetError
from vla.datasets.image_check import SECONDS, check_images
from vla.datasets.lerobot.columns import number_column, odd_type
from vla.datasets.lerobot.dataset import require_features
from vla.datasets.lerobot.index import EPISODE, read_info
from vla.datasets.lerobot.labels import join_labels
from vla.datasets.lerobot.mapping import (
    ANNOTATIONS_FILE,
    CONTRACT_FILE,
    LeRobotMapping,
    own_mapping,
)
from vla.datasets.lerobot.meta import (
    NUMBERS,
    STORED,
    VIDEO,
    DatasetInfo,
    is_number,
    read_table,
)
from vla.datasets.lerobot.tracks import (
    FRAME,
    TASK,
    TIME,
    StoredEpisode,
    check_values,
    checked_rows,
    frames_per_step,
    has_words,
    known_tasks,
    read_stored,
    table_reader,
)
from vla.datasets.plausible import names_of

# Faults of one kind that are listed; the rest is counted.
SHOWN = 5
# Conversations whose images are decoded.
DECODED = 24


def check_lerobot(
    folder: str | Path,
    contract: EmbodimentContract | None = None,
    mapping: LeRobotMapping | None = None,
    seconds: float = SECONDS,
    annotations: str | Path = "",
) -> list[Finding]:
    """Everything about a LeRobot data set.

    contract: by default the one that the data set carries; without any, only what the data set
    claims of itself is checked. mapping: by default that of a converted data set. seconds: in
    which images are read. annotations: as of LeRobotEpisodes.
    """
    folder, area = Path(folder), "description"
    try:
        info = read_info(folder)
    except DatasetError as error:
        return [problem(area, str(error), "")]
    frames = sum(episode.length for episode in info.episodes)
    found = [
        fine(
            area,
            f"LeRobot version {info.version}, {len(info.episodes)} episodes, {frames} frames, "
            f"{info.fps:g} a second",
        )
    ]
    own, kept = mapping is None, folder / "meta" / CONTRACT_FILE
    try:
        tasks = known_tasks(info)
        if contract is None and kept.exists():
            contract = load_contract(kept)
        if contract is not None:
            mapping = own_mapping(folder, contract) if mapping is None else mapping
            require_features(info, mapping, contract)
    except (DatasetError, ContractError) as error:
        return [*found, problem(area, str(error), "")]
    found += _check_tasks(info, tasks)
    found += _check_schema(info, mapping)
    found += _check_rate(info, contract)
    if contract is None or mapping is None:
        found += _check_columns(info, tasks)
        cameras = [n for n, entry in info.features.items() if entry["dtype"] in (VIDEO, STORED)]
    else:
        found += _check_episodes(info, contract, mapping, tasks, own)
        cameras = list(mapping.cameras.values())
        if not mapping.images:
            found.append(fine("images", "none: it gives samples without vision"))
    found += _check_annotations(info, annotations)
    return found + check_images(info, cameras, seconds)


def _check_annotations(info: DatasetInfo, path: str | Path) -> list[Finding]:
    kept = info.folder / "meta" / ANNOTATIONS_FILE
    path = path or (kept if kept.is_file() else "")
    if not path:
        return []
    try:
        joined = join_labels(info, path)
    except DatasetError as error:
        return [problem("annotations", str(error), "")]
    known = len(joined.by_episode)
    return [fine("annotations", f"of {known} of {len(info.episodes)} episodes"), *joined.findings]


def _check_tasks(info: DatasetInfo, tasks: Mapping[int, str]) -> list[Finding]:
    area = "instructions"
    if empty := [index for index, text in tasks.items() if not text.strip()]:
        text = f"task {empty[0]} in meta/ has no text"
        return [warning(area, text, "write its instruction, or leave its episodes out")]
    claimed = info.claims.tasks
    if tasks and claimed is not None and claimed != len(tasks):
        text = f"meta/info.json says {claimed} tasks, the list has {len(tasks)}"
        return [warning(area, text, "fetch meta/ again, or correct total_tasks")]
    return [fine(area, f"{len(tasks)} instructions")] if tasks else []


def _check_schema(info: DatasetInfo, mapping: LeRobotMapping | None) -> list[Finding]:
    """Compares info.json's features with the columns of a data file."""
    area, path = "features", info.episodes[0].data
    try:
        require_regular(path, DatasetError)
    except DatasetError as error:
        return [problem(area, str(error), "")]
    try:
        schema = parquet.read_schema(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        return [problem(area, f"{shown_path(path)} cannot be read ({one_line(error)})", "")]
    used = set() if mapping is None else {*mapping.features, *mapping.cameras.values()}
    found = []
    for name, entry in info.features.items():
        if entry["dtype"] == VIDEO:
            continue
        told = problem if name in used else warning
        if name not in schema.names:
            text = f"{one_line(name)} is claimed, and {shown_path(path)} has no such column"
            found.append(told(area, text, "correct meta/info.json, or fetch the file again"))
            continue
        if odd := odd_type(entry, schema.field(name).type):
            text = f"{one_line(name)} is claimed to be {odd}"
            found.append(told(area, text, "correct meta/info.json, or convert the column"))
    for name, entry in info.features.items():
        info_entry = entry.get("info")
        about = info_entry if isinstance(info_entry, dict) else {}
        rates = [rate for rate in (entry.get("fps"), about.get("video.fps")) if is_number(rate)]
        if any(abs(rate - info.fps) > 0.01 * info.fps for rate in rates):
            text = f"{one_line(name)} claims {rates[-1]:g} frames a second, the set {info.fps:g}"
            found.append(warning(area, text, "correct meta/info.json"))
        names, shape = names_of(entry), entry.get("shape", [])
        if entry["dtype"] in NUMBERS and names and len(shape) == 1 and len(names) != shape[0]:
            text = f"{one_line(name)} has {len(names)} names for {shape[0]} values"
            found.append(warning(area, text, "correct meta/info.json"))
    return found or [fine(area, f"{len(info.features)} features, as claimed")]


def _check_rate(info: DatasetInfo, contract: EmbodimentContract | None) -> list[Finding]:
    area = "rate"
    if contract is None:
        text = "no contract is given: rate, names, units and gripper are not compared with any"
        return [warning(area, text, "give --contract, and --mapping where features differ")]
    try:
        every = frames_per_step(info, contract)
    except DatasetError as error:
        return [problem(area, str(error), "")]
    text = f"{info.fps:g} frames a second, {contract.rate:g} Hz in contract '{contract.name}'"
    more = "" if every == 1 else f": one frame in {every} is taken, with the motion of {every}"
    return [fine(area, text + more)]


def _check_episodes(
    info: DatasetInfo,
    contract: EmbodimentContract,
    mapping: LeRobotMapping,
    tasks: Mapping[int, str],
    own: bool,
) -> list[Finding]:
    """Rows and values, as a contract and a mapping read them."""
    read, good, faults = table_reader(mapping), [], []
    for episode in info.episodes:
        try:
            good.append(read_stored(info, episode, mapping, contract, tasks, read))
        except DatasetError as error:
            faults.append(str(error))
    found = _faults("episodes", faults, len(info.episodes))
    if wordless := [entry for entry in good if not has_words(entry)]:
        good = [entry for entry in good if has_words(entry)]
        text = f"{len(wordless)} episodes without an instruction are left out"
        told = warning if good else problem
        found.append(told("instructions", text, "write them into meta/ where they are known"))
    found += _check_gaps([entry.gaps for entry in good])
    found += _check_claimed_tasks(good)
    if good:
        values = check_values(info, good, mapping, contract, own)
        found += values or [fine("values", "states, actions and gripper are as the contract says")]
    return found


def _check_columns(info: DatasetInfo, tasks: Mapping[int, str]) -> list[Finding]:
    """Rows and all numbers, where no contract says what they mean."""
    numbers = [name for name, entry in info.features.items() if entry["dtype"] in NUMBERS]
    standard = (TIME, FRAME, TASK, EPISODE)
    rest = [name for name in numbers if name not in standard]

    @functools.lru_cache(maxsize=1)
    def read(path: Path) -> pa.Table:
        return read_table(path, (), [*standard, *rest])

    faults, gaps = [], []
    for episode in info.episodes:
        try:
            rows, _, more = checked_rows(info, episode, tasks, read)
            gaps.append(more)
            for name in rest:
                if name in rows.column_names:
                    number_column(rows, name, f"{episode.data}, episode {episode.index}")
        except DatasetError as error:
            faults.append(str(error))
    return _faults("episodes", faults, len(info.episodes)) + _check_gaps(gaps)


def _faults(area: str, faults: list[str], total: int) -> list[Finding]:
    found = [problem(area, text, "") for text in faults[:SHOWN]]
    if len(faults) > SHOWN:
        found.append(problem(area, f"{len(faults) - SHOWN} more episodes cannot be used", ""))
    return found or [fine(area, f"{total} episodes, with all of their rows")]


def _check_gaps(gaps: list[int]) -> list[Finding]:
    if not any(gaps):
        return []
    several = sum(map(bool, gaps))
    text = f"{sum(gaps)} gaps between timestamps, in {several} episodes, where frames are missing"
    return [warning("episodes", text, "leave these episodes out where the arm moved meanwhile")]


def _check_claimed_tasks(stored: list[StoredEpisode]) -> list[Finding]:
    """The list of episodes names instructions, too, which are not used here."""
    other = [
        entry.episode
        for entry in stored
        if entry.episode.tasks and not set(entry.instructions) <= set(entry.episode.tasks)
    ]
    if not other:
        return []
    text = (
        f"{len(other)} episodes, such as {other[0].index}, have another instruction in their rows "
        f"than the list of episodes says ('{one_line(other[0].instruction, 60)}')"
    )
    cure = "look which is right: the rows' task_index is what is trained on"
    return [warning("instructions", text, cure)]


def check_conversations(
    path: str | Path,
    images: str | Path = "",
    bad_share: float = LlavaOptions.bad_share,
    seconds: float = SECONDS,
) -> list[Finding]:
    """A file in LLaVA's format: its rows, whether their images are there, and some images decoded.

    bad_share: of rows that may be unusable, see LlavaOptions. seconds: in which rows are read, from
    the whole file, and at least DECODED of them.
    """
    area = "conversations"
    try:
        data = LlavaConversations(path, images)
    except DatasetError as error:
        return [problem(area, str(error), "")]
    begun, looked, faults = time.monotonic(), 0, []
    for index in _scattered(len(data)):
        if looked >= DECODED and time.monotonic() > begun + seconds:
            break
        try:
            if looked < DECODED:
                data.read(index)
            elif missing := [file for file in data.row(index).images if not file.is_file()]:
                raise DatasetError(f"{data.row(index).source}: {shown_path(missing[0])} is missing")
        except DatasetError as error:
            faults.append(str(error))
        looked += 1
    found = [fine(area, f"{len(data)} conversations, {looked} of them looked at")]
    if not faults:
        return found
    told = problem if len(faults) > bad_share * looked else warning
    text = f"{len(faults)} of {looked} can't be used; others take their place"
    cure = f"mend them, name the folder of their images, or set bad_share (now {bad_share:g})"
    return [*found, told(area, text, cure), *(told(area, text, "") for text in faults[:SHOWN])]


def _scattered(count: int) -> Iterator[int]:
    """All numbers below a count, in an order of which every part is from the whole range."""
    step = max(1, round(count * 0.618))
    while gcd(step, count) > 1:
        step += 1
    return (index * step % count for index in range(count))
