"""Runs a grid: trainings and episodes of its cells, in processes that share nothing but files.

Each process looks for work that is not done, takes the lock on it, and does it; a lock goes with
the process that holds it. So a run may be killed at any moment and go on later: a training from its
last save, a cell behind its last whole line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vla.contract.embodiment import EmbodimentContract, load_contract
from vla.core.files import read_json
from vla.core.replacing import replace_text
from vla.core.resources import contract_path
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import EpisodeResult, evaluate
from vla.evaluation.episode_files import (
    EpisodeLine,
    append_line,
    cell_folder,
    drop_rest,
    episode_file,
    line_of,
    read_lines,
)
from vla.evaluation.errors import GridError
from vla.evaluation.grid import Cell, Evaluation, Grid, Training, episodes_of
from vla.policies.policy import Policy
from vla.training.config import TrainConfig
from vla.training.run import train_run

DONE, LOG, ERROR = "done.json", "log.txt", "error.txt"
LOOK_AGAIN = 1.0  # after which a process looks whether others have left work [s]


class OutOfTimeError(Exception):
    """The run's time is over."""


@dataclass(frozen=True)
class Run:
    """What every process of a run knows."""

    grid: Grid
    cells: list[Cell]
    output: Path
    keys: dict[str, str]  # of each training, see vla.evaluation.comparison_plan
    device: str
    threads: int
    deadline: float  # of time.time(); infinity for none
    started: float  # which tells this run's errors from those before
    parent: int  # process whose end ends this one

    def is_over(self) -> bool:
        """Whether to stop: no time is left, or nobody waits."""
        return time.time() >= self.deadline or os.getppid() != self.parent

    def training_folder(self, training: Training) -> Path:
        """Where a training lies."""
        shared = Path(self.grid.trainings or self.output / "trainings")
        return shared / f"{training.name}-{self.keys[training.name]}"


def part_configs(training: Training, folder: Path) -> list[TrainConfig]:
    """The parts of a training as they run: each starts from the checkpoint of the one before."""
    configs: list[TrainConfig] = []
    for number, part in enumerate(training.parts, start=1):
        config = replace(part, output=str(folder / f"part-{number}"))
        if configs:
            start = f"{configs[-1].output}/checkpoint"
            # What the first part started from is in its checkpoint, and trained.
            config = replace(
                config, initialize_from=start, backbone="", backbone_source="", vision_source=""
            )
        configs.append(config)
    return configs


def contract_of_training(training: Training) -> EmbodimentContract:
    """The contract of the robot that is trained. Raises GridError."""
    try:
        return load_contract(contract_path(training.parts[0].contract))
    except ValueError as error:
        raise GridError(f"training {training.name}: {error}") from error


def finished_checkpoint(run: Run, training: Training) -> Path | None:
    """The checkpoint of a training that is done; None before. Raises GridError if it is damaged."""
    folder = run.training_folder(training)
    path = folder / DONE
    if not path.exists():
        return None
    values = read_json(path, GridError)
    if not isinstance(values, dict) or values.get("key") != run.keys[training.name]:
        raise GridError(
            f"{shown_path(path)} is of another training than {training.name} is now; give another "
            "output folder"
        )
    return folder / f"part-{len(training.parts)}" / "checkpoint"


def run_training(run: Run, training: Training) -> None:
    """Trains, or goes on. Raises OutOfTimeError after saving."""
    folder = run.training_folder(training)
    contract = contract_of_training(training)

    def look(step: int, figures: dict[str, float]) -> None:
        if run.is_over():
            signal.raise_signal(signal.SIGINT)

    for config in part_configs(training, folder):
        try:
            train_run(config, contract, run.device, look)
        except KeyboardInterrupt:
            raise OutOfTimeError from None
    replace_text(folder / DONE, json.dumps({"key": run.keys[training.name]}) + "\n")


def group_of(evaluation: Evaluation) -> str:
    """The settings that the scenes depend on, in words; empty for the benchmark's own."""
    given = sorted(evaluation.settings.items())
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in given)


def missing_episodes(run: Run, cell: Cell) -> int:
    """How many episodes a cell still has to run. Raises GridError for a damaged file."""
    lines, _ = read_lines(episode_file(run.output, cell))
    return episodes_of(cell.evaluation) - len(lines)


def _whole_lines(path: Path) -> list[EpisodeLine]:
    """The episodes of a file, after what was begun behind them is cut off, with a word."""
    lines, cut = read_lines(path)
    if cut:
        print(f"{shown_path(path)}: the last line was written by half, and is dropped")
        drop_rest(path)
    return lines


def check_cell(run: Run, cell: Cell) -> None:
    """Looks at a cell's results before anything is begun. Raises GridError for a damaged file."""
    folder = cell_folder(run.output, cell)
    with _lock(folder) as mine:
        if mine:
            _whole_lines(episode_file(run.output, cell))


def run_cell(run: Run, cell: Cell, checkpoint: Path) -> None:
    """Runs the episodes that a cell does not have yet.

    Raises OutOfTimeError between two, and GridError behind them where some could not be run.
    """
    path, evaluation = episode_file(run.output, cell), cell.evaluation
    lines = _whole_lines(path)
    policy = Policy.from_pretrained(checkpoint, run.device, latent_every=evaluation.latent_every)
    for line in lines:
        if line.checkpoint_id != policy.checkpoint_id:
            raise GridError(
                f"{shown_path(path)} has episodes of checkpoint {line.checkpoint_id}, the cell's "
                f"is {policy.checkpoint_id}; move the file away to run them again"
            )
    suite = make_suite(evaluation.benchmark, **evaluation.settings)
    group, errors = group_of(evaluation), []

    def keep(result: EpisodeResult) -> None:
        if result.error:  # No failure of the policy: it is tried again when the run goes on.
            errors.append(f"episode {result.family} {result.seed}: {result.error}")
            return
        seed = cell.training.seed
        append_line(path, line_of(result, suite.name, group, seed, policy.checkpoint_id))
        if run.is_over():
            raise OutOfTimeError

    evaluate(
        policy,
        suite,
        evaluation.families or suite.families,
        range(evaluation.first_seed, evaluation.first_seed + evaluation.episodes),
        evaluation.think,
        keep,
        execution=cell.kind["execution"],
        skip={(line.task, line.seed) for line in lines},
        noise=evaluation.noise,
        blackout=evaluation.blackout,
    )
    if errors:
        raise GridError(f"{len(errors)} episodes could not be run; {errors[0]}")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Whether this process has the lock on a folder's work now."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the process prints goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


@dataclass(frozen=True)
class _Job:
    """Something to do: a cell's episodes, or a training where there is no cell."""

    run: Run
    training: Training
    cell: Cell | None = None

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        if self.cell is not None:
            return cell_folder(self.run.output, self.cell)
        return self.run.training_folder(self.training)

    @property
    def name(self) -> str:
        """What was done, in words."""
        return f"evaluated {self.cell.name}" if self.cell else f"trained {self.training.name}"

    def is_done(self) -> bool:
        """Whether there is nothing left of it."""
        if self.cell is not None:
            return missing_episodes(self.run, self.cell) <= 0
        return finished_checkpoint(self.run, self.training) is not None

    def is_ready(self) -> bool:
        """Whether it can be done now."""
        return self.cell is None or finished_checkpoint(self.run, self.training) is not None

    def work(self) -> None:
        """Does what is left of it."""
        checkpoint = finished_checkpoint(self.run, self.training)
        if self.cell is None:
            run_training(self.run, self.training)
        elif checkpoint is not None:
            run_cell(self.run, self.cell, checkpoint)


def _jobs(run: Run) -> list[_Job]:
    """Cells first, so that results come as soon as they can."""
    trainings = {cell.training.name: cell.training for cell in run.cells}
    return [
        *(_Job(run, cell.training, cell) for cell in run.cells),
        *(_Job(run, training) for training in trainings.values()),
    ]


def _has_failed(run: Run, folder: Path) -> bool:
    """Whether the work of a folder has failed in this run."""
    path = folder / ERROR
    return path.exists() and path.stat().st_mtime >= run.started


def work(run: Run) -> None:
    """What one process does: looks for work until there is none, or the time is over."""
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(run.threads)
    with contextlib.suppress(KeyboardInterrupt, OutOfTimeError):
        while not run.is_over():
            tried = [job for job in _jobs(run) if not _has_failed(run, job.folder)]
            left = [job for job in tried if not job.is_done()]
            if not left or not any(_try(run, job) for job in left if job.is_ready()):
                if not left or _none_can(run, left):
                    return
                time.sleep(LOOK_AGAIN)  # Others are at it, and may be killed.


def _none_can(run: Run, left: list[_Job]) -> bool:
    """Whether all that is left waits for work that has failed."""
    trainings = {run.training_folder(cell.training): None for cell in run.cells}
    waited = [folder for folder in trainings if not _has_failed(run, folder)]
    is_training = {job.folder for job in left} & set(waited)
    return not is_training and not any(job.is_ready() for job in left)


def _try(run: Run, job: _Job) -> bool:
    """Does a job unless another process does; returns whether it did."""
    with _lock(job.folder) as mine:
        if not mine or job.is_done():
            return mine
        started = time.monotonic()
        try:
            with _logged(job.folder / LOG):
                job.work()
        except (KeyboardInterrupt, OutOfTimeError):
            raise
        except Exception as error:
            with (job.folder / LOG).open("a") as log:
                traceback.print_exc(file=log)
            (job.folder / ERROR).write_text(one_line(error, 2000) + "\n")
            return True
    print(f"{job.name} ({(time.monotonic() - started) / 60:.1f} min)", flush=True)
    return True


def run_processes(run: Run, count: int) -> list[str]:
    """Works on a grid with so many processes, and returns what has failed, one sentence each.

    One is this process itself. Ctrl-C ends them, each after saving.
    """
    ended_well = True
    if count == 1:
        work(replace(run, parent=os.getppid()))
    else:
        ended_well = _run_others(replace(run, parent=os.getpid()), count)
    errors = []
    for job in _jobs(run):
        if _has_failed(run, job.folder):
            name = job.training.name if job.cell is None else job.cell.name
            errors.append(f"{name}: {(job.folder / ERROR).read_text().strip()}")
    if not errors and not ended_well:
        errors.append(
            "a process ended before its work was done; the same command goes on from there"
        )
    return errors


def _run_others(run: Run, count: int) -> bool:
    """Starts processes and waits for their end; returns whether each ended as it should."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(run,)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        while process.is_alive():
            try:
                process.join()
            except KeyboardInterrupt:
                # Those that the terminal has told as well have noted it already.
                for other in processes:
                    if other.is_alive() and other.pid is not None:
                        os.kill(other.pid, signal.SIGINT)
    return not any(process.exitcode for process in processes)
