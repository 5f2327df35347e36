"""A grid of policies to compare: which cells there are, and what each trains and runs.

A cell is a structure, a head, a recipe, an execution mode, an evaluation and a training seed. Cells
that differ in execution and evaluation alone share one training. All see equally many frames: a
window of W counts as W.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from vla.contract.embodiment import load_contract
from vla.core.files import read_yaml
from vla.core.resources import contract_path, given_or_shared
from vla.core.shown import brief, listed, shown_path
from vla.envs.execution import parse_execution
from vla.envs.registry import make_suite
from vla.evaluation.errors import GridError
from vla.evaluation.image_noise import STRONGEST
from vla.policies.config import CheckpointError, bounded, from_dict, merged
from vla.policies.registry import policy_type
from vla.training.config import TrainConfig, train_config
from vla.training.config_check import check_train_config, require_suited
from vla.training.loop import model_config
from vla.training.recipes import read_with_parents

AXES = ("structure", "head", "recipe", "execution", "evaluation")
MOST_CELLS = 1000


@dataclass(frozen=True)
class Evaluation:
    """The episodes that a cell runs."""

    benchmark: str = "tabletop"
    families: tuple[str, ...] = ()  # () for the benchmark's own
    first_seed: int = bounded(0, 0, 2**32 - 1)
    episodes: int = bounded(50, 1, 100_000)  # of each family
    settings: dict[str, Any] = field(default_factory=dict)  # of the benchmark
    think: bool = False
    latent_every: int = bounded(1, 1, 1000)  # chunks per latent action, of a policy of two parts
    noise: float = bounded(0.0, 0, STRONGEST)  # on the images, see vla.evaluation.image_noise
    blackout: bool = False  # all images are black


@dataclass(frozen=True)
class Claim:
    """One kind of policy is better than another, or both are equal. Kinds are values of axes."""

    name: str
    first: dict[str, str]
    second: dict[str, str]
    metric: str = "success"  # or "length", of a chain
    equal_within: float = bounded(0.0, 0, 1000)  # above 0, the claim that they are equal
    paper: float | None = None  # first - second in the paper
    source: str = ""  # where in it


@dataclass(frozen=True)
class Grid:
    """What a grid's file says. Values of axes are entries of a training file by name."""

    train: str = ""  # training file that all cells begin with
    entries: dict[str, Any] = field(default_factory=dict)  # that all cells have instead
    # Entries of each; a recipe is a list of entries of one training after the other, each of which
    # starts from the one before; its `share` is that of the frames.
    structures: dict[str, dict[str, Any]] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    executions: tuple[str, ...] = ("",)  # as `vla eval --execution` takes them; "" for its default
    seeds: tuple[int, ...] = bounded((1,), 0, 2**31)  # of trainings
    # Kinds that are no cells: of each axis named, one value or several.
    leave_out: tuple[dict[str, str | tuple[str, ...]], ...] = ()
    # Frames that each training sees, over all its parts; 0 for what their files say.
    frames: int = bounded(0, 0, 1e12)
    evaluations: dict[str, Evaluation] = field(default_factory=lambda: {"": Evaluation()})
    claims: tuple[Claim, ...] = ()
    output: str = "output/compare"  # folder
    # Folder of trainings, which grids may share; "" for one of the output folder's own.
    trainings: str = ""


@dataclass(frozen=True)
class Training:
    """One policy to train: parts one after the other."""

    name: str
    parts: tuple[TrainConfig, ...]  # without output and start, which are set where it runs
    frames: int  # that it sees, over all parts
    seed: int


@dataclass(frozen=True)
class Cell:
    """One policy with one way of execution on some episodes."""

    name: str
    kind: dict[str, str]  # of each axis
    training: Training
    evaluation: Evaluation


def read_grid(path: str | Path) -> Grid:
    """Reads a grid. Raises GridError or CheckpointError, one sentence that names file and entry."""
    values, where = read_yaml(path, CheckpointError), shown_path(path)
    if not isinstance(values, dict):
        raise GridError(f"{where} is no grid: it must be a mapping; see config/compare")
    values = dict(values)
    recipes = values.get("recipes")
    if isinstance(recipes, dict):
        # One training may stand without its list.
        values["recipes"] = {
            name: entry if isinstance(entry, list) else [entry or {}]
            for name, entry in recipes.items()
        }
    for axis in ("structures", "heads"):
        if isinstance(values.get(axis), dict):
            values[axis] = {name: entry or {} for name, entry in values[axis].items()}
    return from_dict(Grid, values, where)


def cells_of(grid: Grid, where: str) -> list[Cell]:
    """All cells of a grid, trainings in the order of the file, seeds innermost.

    where: the grid's file, for messages. Raises GridError or CheckpointError for kinds that are not
    known, and for what can't be trained.
    """
    if not grid.train:
        raise GridError(f"{where}: `train` must name the training file that all cells begin with")
    base = merged(read_with_parents(given_or_shared(grid.train)), grid.entries)
    axes: dict[str, dict[str, Any]] = {
        "structure": grid.structures or {"": {}},
        "head": grid.heads or {"": {}},
        "recipe": grid.recipes or {"": [{}]},
        "execution": {execution: {} for execution in grid.executions},
        "evaluation": dict(grid.evaluations),
    }
    _require_names(axes, where)
    try:
        for evaluation in grid.evaluations.values():
            _require_episodes(evaluation, grid.executions)
    except ValueError as error:
        raise GridError(f"{where}: {error}") from error
    for number, entry in enumerate(grid.leave_out, start=1):
        for axis, left_out in entry.items():
            for name in _several(left_out):
                _require_known({axis: name}, axes, f"{where}: leave_out {number}")
    cells: list[Cell] = []
    trainings: dict[str, Training] = {}
    for names in product(*axes.values()):
        kind = dict(zip(axes, names, strict=True))
        if any(_covers(entry, kind) for entry in grid.leave_out):
            continue
        trained = [kind[axis] for axis in ("structure", "head", "recipe") if kind[axis]]
        for seed in grid.seeds:
            name = "-".join([*trained, str(seed)]) if trained else str(seed)
            if name not in trainings:
                before = merged(axes["structure"][kind["structure"]], axes["head"][kind["head"]])
                trainings[name] = _training(
                    name, merged(base, before), axes["recipe"][kind["recipe"]], seed, grid.frames,
                    f"{where}: cell {name}",
                )  # fmt: skip
            shown = "-".join(filter(None, (name, _safe(kind["execution"]), kind["evaluation"])))
            evaluation = grid.evaluations[kind["evaluation"]]
            cells.append(Cell(shown, kind, trainings[name], evaluation))
    if not 0 < len(cells) <= MOST_CELLS:
        raise GridError(f"{where} has {len(cells)} cells; it must have 1 to {MOST_CELLS}")
    for number, claim in enumerate(grid.claims, start=1):
        at = f"{where}: claim {number}"
        if claim.metric not in ("success", "length"):
            raise GridError(f"{at}: metric must be success or length, got {brief(claim.metric)}")
        for selector in (claim.first, claim.second):
            _require_known(selector, axes, at)
            chosen(cells, selector, at)
    return cells


def _covers(entry: dict[str, str | tuple[str, ...]], kind: dict[str, str]) -> bool:
    """Whether an entry of leave_out is about a kind."""
    return all(kind[axis] in _several(names) for axis, names in entry.items())


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _require_episodes(evaluation: Evaluation, executions: tuple[str, ...]) -> None:
    """Raises ValueError for episodes that can't be run so, hours before that would be noticed."""
    suite = make_suite(evaluation.benchmark, **evaluation.settings)
    suite.require_families(evaluation.families)
    seeds = range(evaluation.first_seed, evaluation.first_seed + evaluation.episodes)
    for family in evaluation.families or suite.families:
        found = sum(1 for _ in suite.episodes(family, seeds))
        if found < evaluation.episodes:
            raise ValueError(
                f"benchmark '{suite.name}' has {found} episodes of {family} from seed "
                f"{evaluation.first_seed} on, not {evaluation.episodes}; ask for fewer"
            )
    delay = suite.settings().get("delay_steps", 0)
    for execution in filter(None, executions):
        parse_execution(execution).steps_of(suite.contract.horizon, delay)


def chosen(cells: list[Cell], selector: dict[str, str], where: str) -> list[Cell]:
    """The cells of one kind, by seed. Raises GridError where a selector means several or none."""
    found = [cell for cell in cells if selector.items() <= cell.kind.items()]
    kinds = {tuple(cell.kind.items()) for cell in found}
    if len(kinds) != 1:
        many = "no cell has" if not kinds else f"{len(kinds)} kinds of cells have"
        raise GridError(
            f"{where}: {many} {brief(selector)}; name values of "
            f"{listed(axis for axis in AXES)} that leave one"
        )
    return sorted(found, key=lambda cell: cell.training.seed)


def _require_names(axes: dict[str, dict], where: str) -> None:
    """Names are parts of paths."""
    for axis in ("structure", "head", "recipe", "evaluation"):
        for name in axes[axis]:
            if name and not re.fullmatch(r"[\w.]{1,60}", name):
                raise GridError(
                    f"{where}: {axis} {brief(name)} must be a name of letters, digits, '_' and '.'"
                )


def _require_known(selector: dict[str, str], axes: dict[str, dict], where: str) -> None:
    for axis, name in selector.items():
        if axis not in axes:
            raise GridError(f"{where}: unknown axis {brief(axis)}; known: {listed(AXES)}")
        if name not in axes[axis]:
            raise GridError(
                f"{where}: unknown {axis} {brief(name)}; the grid has: {listed(axes[axis])}"
            )


def _safe(execution: str) -> str:
    return re.sub(r"[^\w.]+", "_", execution)


def _training(
    name: str, base: dict, parts: list[dict], seed: int, frames: int, where: str
) -> Training:
    """The configurations of one training. Raises CheckpointError that names the cell."""
    built, total, shares = [], 0, []
    for part in parts:
        given = dict(part)
        shares.append(given.pop("share", 1.0))
        if type(shares[-1]) not in (int, float) or not 0 < shares[-1] <= 1000:
            raise GridError(f"{where}: share must be a positive number, got {brief(shares[-1])}")
        config = replace(train_config(merged(base, given), where), seed=seed, output="")
        built.append(config)
    for index, config in enumerate(built):
        try:
            contract = load_contract(contract_path(config.contract))
            # A later part has the model of the first, and starts from it.
            model = model_config(replace(built[0], initialize_from="", output=""), None)
            if index:
                require_suited(config, model)
            check_train_config(
                replace(config, initialize_from=f"part-{index}") if index else config
            )
        except ValueError as error:  # Of the contract or the model
            raise GridError(f"{where}: {error}") from error
        seen = config.batch_size * policy_type(model.TYPE).features(model, contract).window
        if frames:
            own = frames * shares[index] / sum(shares)
            config = replace(config, steps=max(1, round(own / max(seen, 1))), epochs=0.0)
            built[index] = config
        total += config.steps * seen
    return Training(name, tuple(built), total, seed)


def episodes_of(evaluation: Evaluation) -> int:
    """How many episodes it has."""
    families = evaluation.families or make_suite(evaluation.benchmark).families
    return len(families) * evaluation.episodes


def digest_of(values: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def plain(entry: TrainConfig | Evaluation) -> dict[str, Any]:
    """The entries as JSON has them."""
    return json.loads(json.dumps(asdict(entry)))
