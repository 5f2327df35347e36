"""Still scenes to talk about: random tables and arm poses, rendered with the truth beside them.

Demonstrations show few scenes for long; a model that shall learn to see needs many, each once. A
shard is a folder `shard-NNNNN` that appears whole or not at all: `image_CAMERA.npy`, uint8
[N, H, W, 3], and `scenes.json`, from which questions and answers are drawn when an image is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from vla.contract.embodiment import EmbodimentContract, contract_from_dict
from vla.contract.image_fit import prepare_image
from vla.control.robots import panda
from vla.core.files import checked_entries, checked_number, read_json
from vla.core.shown import shown_path
from vla.core.text import one_line
from vla.datasets.arrays import open_array
from vla.datasets.frames import MOST_WORDS, DatasetError, EpisodeWords, require_places
from vla.envs.tabletop.demonstrations import landmark_places, object_places, run_jobs
from vla.envs.tabletop.simulator import TableTopSimulator
from vla.envs.tabletop.tasks import FAMILIES

# Demonstrations and corrections use lower seeds, evaluation those below one million.
FIRST_SCENE_SEED = 3_000_000
# Below so many of an image's pixels a thing is not sure to be recognised.
SEEN_PIXELS = 12


@dataclass(frozen=True)
class SceneConfig:
    """How many scenes are made, and from which seed on."""

    scenes: int = 20000
    seed: int = FIRST_SCENE_SEED
    scenes_per_shard: int = 500


@dataclass(frozen=True)
class SceneTruth:
    """The truth of one image."""

    seed: int
    objects: dict[str, list[float]]  # place [x, y] by name [m], base frame
    landmarks: dict[str, list[float]]  # likewise
    drawer_opening: float  # [m]
    seen: dict[str, dict[str, int]]  # by camera, how many pixels of each thing its image shows

    def visible(self, camera: str) -> EpisodeWords | None:
        """What a camera's image shows; None where it shows no object or one of them just barely."""
        seen = self.seen[camera]
        if any(0 < seen[name] < SEEN_PIXELS for name in self.objects):
            return None
        objects, landmarks = (
            {name: place for name, place in places.items() if seen[name] >= SEEN_PIXELS}
            for places in (self.objects, self.landmarks)
        )
        return EpisodeWords("", "", "", objects, landmarks) if objects else None


class SceneCamera:
    """Renders scenes, and counts what is seen of each thing."""

    def __init__(self, simulator: TableTopSimulator, contract: EmbodimentContract):
        self.simulator, self.contract = simulator, contract
        size = simulator.camera_size
        self._counter = simulator.make_renderer(size)
        self._counter.enable_segmentation_rendering()
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = [1, 0, 0, 1, 0, 0]

    def close(self) -> None:
        """Frees the rendering context."""
        self._counter.close()

    def images(self) -> dict[str, np.ndarray]:
        """What perception would give now: uint8 [H, W, 3] by the contract's camera names."""
        return {
            camera.name: prepare_image(self.simulator.render(camera.name), camera)
            for camera in self.contract.cameras
        }

    def pixels(self, camera: str) -> dict[str, int]:
        """How many pixels of an image show each object, the bowl and the plate."""
        simulator = self.simulator
        self._counter.update_scene(simulator.data, camera, self._option)
        geoms = self._counter.render()[..., 0]
        bodies = simulator.model.geom_bodyid[geoms[geoms >= 0]]
        names = {name: item.body for name, item in simulator.scene_objects.items()}
        names |= {name: name for name in landmark_places(simulator)}
        return {
            name: int((bodies == simulator.model.body(body).id).sum())
            for name, body in names.items()
        }


def _random_arm(simulator: TableTopSimulator, generator: np.random.Generator) -> np.ndarray | None:
    """Joints [7] with the tool somewhere in the workspace, often close to a thing; None if none."""
    tool = generator.uniform([0.30, -0.36, 0.05], [0.68, 0.34, 0.42])
    if generator.random() < 0.4:
        places = [*object_places(simulator).values(), *landmark_places(simulator).values()]
        places.append(simulator.handle_position()[:2].tolist())
        place = places[int(generator.integers(len(places)))]
        tool[:2] = place + generator.normal(0.0, 0.025, 2)
        tool[2] = generator.uniform(0.05, 0.25)
    try:
        joints = panda.upright_joints(tool, generator.uniform(-0.9, 0.9))
    except ValueError:
        return None
    joints += generator.normal(0.0, 0.04, 7)
    return np.clip(joints, panda.JOINT_LOWER, panda.JOINT_UPPER)


def _collides(simulator: TableTopSimulator) -> bool:
    """Whether the robot is inside of something."""
    model, contact = simulator.model, simulator.data.contact
    robot = [model.body(index).name.startswith("panda") for index in range(model.nbody)]
    touching = np.array(robot)[model.geom_bodyid[contact.geom]]
    return bool(((touching[:, 0] != touching[:, 1]) & (contact.dist < -0.001)).any())


def _strike_pose(
    camera: SceneCamera, start: np.ndarray, generator: np.random.Generator, tries: int = 8
) -> None:
    """Moves the arm to where it touches nothing and hides no object; back to the start if nowhere.

    start: MuJoCo's configuration that the scene began with.
    """
    simulator, front = camera.simulator, camera.contract.cameras[0].name
    for _ in range(tries):
        joints = _random_arm(simulator, generator)
        widths = (0.0, panda.OPEN_WIDTH, generator.uniform(0.0, panda.OPEN_WIDTH))
        if joints is None:
            continue
        configuration = start.copy()
        configuration[:7] = joints
        configuration[7:9] = widths[int(generator.integers(3))] / 2
        simulator.set_qpos(configuration)
        if not _collides(simulator):
            seen = camera.pixels(front)
            if min(seen[name] for name in simulator.objects()) >= SEEN_PIXELS:
                return
    simulator.set_qpos(start)


def make_scene(
    camera: SceneCamera, seed: int, family: str, home_share: float = 0.2
) -> tuple[SceneTruth, dict[str, np.ndarray]]:
    """The scene of that seed and family with a random arm pose: its truth and its images.

    The arm hides no object from the first camera. home_share: of scenes whose arm stays where an
    episode begins.
    """
    simulator = camera.simulator
    simulator.reset(seed, family, settle=0.0)  # a still image needs no rest, and it takes long
    generator = np.random.default_rng([seed, sum(family.encode()), 1])
    start = simulator.qpos
    if generator.random() >= home_share:
        _strike_pose(camera, start, generator)
    seen = {view.name: camera.pixels(view.name) for view in camera.contract.cameras}
    scene = SceneTruth(
        seed,
        object_places(simulator),
        landmark_places(simulator),
        round(simulator.drawer_opening, 4),
        seen,
    )
    return scene, camera.images()


def make_scene_shard(arguments: tuple[int, str, EmbodimentContract, SceneConfig]) -> int:
    """Makes one shard, unless it is there, and returns how many scenes were made."""
    index, folder, contract, config = arguments
    target = Path(folder) / f"shard-{index:05d}"
    if target.exists():
        return 0
    simulator = TableTopSimulator(contract.cameras[0].width)
    camera = SceneCamera(simulator, contract)
    first = index * config.scenes_per_shard
    made = [
        make_scene(camera, config.seed + number, FAMILIES[number % len(FAMILIES)])
        for number in range(first, min(first + config.scenes_per_shard, config.scenes))
    ]
    camera.close()
    simulator.close()
    temporary = target.with_name(target.name + ".part")
    temporary.mkdir(parents=True, exist_ok=True)
    for name in made[0][1]:
        np.save(temporary / f"image_{name}.npy", np.stack([images[name] for _, images in made]))
    truth = {"contract": contract.to_dict(), "scenes": [asdict(scene) for scene, _ in made]}
    (temporary / "scenes.json").write_text(json.dumps(truth))
    os.rename(temporary, target)
    return len(made)


def make_scenes(
    folder: str | Path,
    contract: EmbodimentContract,
    config: SceneConfig,
    workers: int | None = None,
    on_shard: Callable[[int, int], None] | None = None,
) -> int:
    """Makes all shards that are missing, in parallel; returns how many scenes were made.

    on_shard(done, total) is called after each shard.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    total = -(-config.scenes // config.scenes_per_shard)
    jobs = [(index, str(folder), contract, config) for index in range(total)]
    return run_jobs(make_scene_shard, jobs, workers, on_shard)


def read_scene_shard(
    folder: str | Path, contract: EmbodimentContract, camera: str
) -> tuple[np.ndarray, list[SceneTruth]]:
    """One shard: a memory map uint8 [N, H, W, 3] of a camera's images, and their scenes.

    Raises DatasetError when it is damaged, ContractError for another robot's.
    """
    folder, where = Path(folder), shown_path(folder)
    try:
        truth = read_json(folder / "scenes.json", DatasetError, MOST_WORDS)
        images = open_array(folder / f"image_{camera}.npy", DatasetError)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise DatasetError(f"image_{camera}.npy holds {images.dtype} {list(images.shape)}")
        scenes = [_scene(scene, camera) for scene in truth["scenes"]]
        found = contract_from_dict(truth["contract"], where)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"shard {where} is damaged ({one_line(error, 250)}); delete it and make it again"
        ) from error
    contract.require_same(found, "ours", "the scenes'")
    if len(images) != len(scenes):
        raise DatasetError(f"shard {where}: {len(images)} images of {len(scenes)} scenes")
    return images, scenes


def _scene(values: Any, camera: str) -> SceneTruth:
    """The truth of an image. Raises DatasetError, KeyError or TypeError."""
    known = [field.name for field in fields(SceneTruth)]
    scene = SceneTruth(**checked_entries(values, "a scene", DatasetError, known))
    for places in (scene.objects, scene.landmarks):
        require_places(places, "a scene's things")
    checked_number(scene.drawer_opening, "a scene's drawer_opening", DatasetError, -1, 1)
    for name in (*scene.objects, *scene.landmarks):
        checked_number(scene.seen[camera][name], "a scene's pixels", DatasetError, 0, 1e9)
    return scene
