"""SimplerEnv's variants, SimplerEnv-Instruct and InstructVLA's way of acting, against the fake."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fake_workers import fake_python
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla.envs.base import SuiteError
from vla.envs.simpler.episodes import COLOURINGS, visual_matching
from vla.envs.simpler.gripper import LatchingGripper
from vla.envs.simpler.suite import SimplerSuite
from vla.envs.simpler.variants import variant_aggregation
from vla.envs.simpler_instruct.suite import SimplerInstruct
from vla.evaluation.benchmark import EpisodeResult, evaluate, group_means, summarize
from vla_cli.evaluate import _count

# Variants


@pytest.mark.parametrize(
    ("family", "count", "variants", "kinds"),
    [
        ("coke_can", 675, 9, {"horizontal", "standing", "vertical"}),
        ("move_near", 480, 8, set()),
        ("drawers", 378, 7, {"open", "close"}),
        ("apple_in_drawer", 189, 7, set()),
        ("coke_can_cameras", 150, 2, {"horizontal", "standing", "vertical"}),
        ("move_near_cameras", 120, 2, set()),
    ],
)
def test_variant_aggregation_has_the_published_scenes(family, count, variants, kinds):
    episodes = variant_aggregation(family)
    assert len(episodes) == len({str(episode) for episode in episodes}) == count
    scenes = {str((episode["environment"], episode["build"])) for episode in episodes}
    each = {"coke_can": 3, "coke_can_cameras": 3, "drawers": 6}.get(family, 1)
    assert len(scenes) == variants * each, "what is built differs with each variant"
    labels = Counter(label for episode in episodes for label in episode["labels"])
    assert kinds <= set(labels)
    for label in set(labels) - kinds:
        assert labels[label] == count // variants, label
    assert not any(episode["picture"] for episode in episodes)
    assert all("urdf_version" not in episode["build"] for episode in episodes)


def test_visual_matching_is_the_mean_of_four_colourings():
    suite = SimplerSuite(urdf_version="all")
    counts = {family: suite.most_episodes(family) for family in suite.families}
    assert counts == {"coke_can": 300, "move_near": 240, "drawers": 216, "apple_in_drawer": 108}
    episodes = suite.listed("move_near")
    versions = Counter(episode["build"]["urdf_version"] for episode in episodes)
    assert versions == dict.fromkeys(COLOURINGS.values(), 60)
    assert Counter(e["labels"][0] for e in episodes) == dict.fromkeys(COLOURINGS, 60)
    assert visual_matching("move_near")[0]["labels"] == []
    assert _count(suite, "apple_in_drawer", range(100, 1000)) == 8
    assert _count(suite, "apple_in_drawer", range(500, 1000)) == 0


def test_variants_that_can_not_be_are_refused():
    aggregation = SimplerSuite(variants="variant_aggregation")
    aggregation.require_families(["coke_can_cameras", "drawers"])
    with pytest.raises(SuiteError, match="unknown family 'coke_can_cameras'"):
        SimplerSuite().require_families(["coke_can_cameras"])
    with pytest.raises(SuiteError, match="unknown variants 'all'; known: visual_matching, "):
        SimplerSuite(variants="all")
    with pytest.raises(SuiteError, match="unknown protocol 'octo'; known: simpler, instructvla"):
        SimplerSuite(protocol="octo")
    for settings in ({"robot": "widowx"}, {"urdf_version": "all"}):
        with pytest.raises(SuiteError, match="variant_aggregation is for the Google robot"):
            SimplerSuite(variants="variant_aggregation", **settings)


# SimplerEnv-Instruct


def test_eighty_tasks_have_the_published_episodes():
    google, widowx = SimplerInstruct(), SimplerInstruct(robot="widowx")
    assert (len(google.families), len(widowx.families)) == (78, 2)
    counts = Counter()
    for suite in (google, widowx):
        for group, families in suite.groups.items():
            for family in families:
                counts[group, "tasks"] += 1
                counts[group, "episodes"] += suite.most_episodes(family)
    assert counts == {
        ("instruction_aggregation", "tasks"): 50,
        ("instruction_aggregation", "episodes"): 745,
        ("situated_reasoning", "tasks"): 30,
        ("situated_reasoning", "episodes"): 393,
    }
    assert google.chosen_families(["situated_reasoning"])[0].startswith("Alt")
    assert widowx.chosen_families([]) == widowx.chosen_families(["situated_reasoning"])
    episodes = [str(e) for f in google.families for e in google.listed(f)]
    assert len(set(episodes)) == len(episodes), "each is another one"


def test_tasks_are_made_as_the_authors_make_them():
    suite = SimplerInstruct()
    banana = suite.listed("FreeGraspSingleBananaInScene-v1")
    assert banana[0]["object"]["init_xy"] == [-0.35, 0.12]
    assert banana[-1]["object"]["init_xy"] == [-0.196, 0.46]
    assert banana[0]["build"]["scene_name"] == "google_pick_coke_can_1_v4_alt_background"
    assert banana[0]["build"]["urdf_version"] == "recolor_cabinet_visual_matching_1"
    long = suite.listed("AltCloseDrawerInLongStep1HorizonInSceneEnv-v0:opened_coke_can_bedroom")
    assert [e["robot"]["init_xy"] for e in (long[0], long[-1])] == [[0.55, -0.2], [0.75, 0.2]]
    assert long[0]["build"]["model_ids"] == "opened_coke_can" and long[0]["steps"] == 150
    placing = suite.listed("FreePlaceIntoTopDrawerEnv-v2")
    assert placing[0]["environment"] == "FreePlaceIntoTopDrawerEnv-v2"
    assert placing[0]["picture"] == "open_drawer_a0.png" and placing[0]["steps"] == 200


@pytest.mark.slow
def test_groups_count_each_task_alike(tmp_path):
    suite = SimplerInstruct(python=str(fake_python(tmp_path, "simpler")))
    chosen = [
        "FreeGraspSinglePlumInScene-v0",
        "FreePlaceMugNearPlaystationEnv-v0:simulated",
        "AltPlaceBottleNearSpongeEnv-v0",
    ]
    results = evaluate(Idle(suite.contract), suite, chosen, range(11, 1000))
    assert Counter(result.family for result in results) == dict(zip(chosen, (5, 1, 1), strict=True))
    environments = {f"do {name.partition(':')[0]}" for name in chosen}
    assert {result.instruction for result in results} == environments
    made_up = [EpisodeResult(r.family, r.seed, "", "", r.seed == 11, 1.0) for r in results]
    (means,) = group_means(summarize(made_up), suite.groups)
    expected = {"instruction_aggregation": (1 / 5 + 1) / 2, "situated_reasoning": 1.0}
    assert means.groups == expected
    assert means.mean_of_groups == pytest.approx(sum(expected.values()) / 2)


class Idle:
    """Stays where it is."""

    said, refused, window = None, False, 1

    def __init__(self, contract):
        self.contract = contract

    def reset(self, instruction, seed=None, think=False):
        pass

    def chunk(self, images, state, time):
        return np.zeros((self.contract.horizon, 7))


# Acting as InstructVLA does


def published_gripper(wanted: list[float], steps: int) -> list[float]:
    """InstructVLA's rule as it states it: seen, latched, repeated so many times, then released."""
    seen, latched, repeated, held, told = None, False, 0, 0.0, []
    for opening in wanted:
        relative = 0.0 if seen is None else seen - opening
        seen = opening if seen is None else seen
        if abs(relative) > 0.5 and not latched:
            latched, held, seen = True, relative, opening
        if latched:
            repeated, relative = repeated + 1, held
        if repeated == steps:
            latched, repeated = False, 0
        told.append(relative)
    return told


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 12))
def test_the_latching_gripper_equals_the_published_rule(wanted, steps):
    gripper = LatchingGripper(steps)
    assert [gripper.command(opening) for opening in wanted] == published_gripper(wanted, steps)
    gripper.reset()
    assert gripper.command(0.3) == 0.0, "the first step of an episode is no change"


class Wavering(Idle):
    """Draws its chunks, whose gripper is 0 or 1."""

    def __init__(self, contract):
        super().__init__(contract)
        self.chunks, self.generator = [], np.random.default_rng(3)

    def chunk(self, images, state, time):
        actions = self.generator.normal(0.0, 0.02, (self.contract.horizon, 7))
        actions[:, 6] = self.generator.random(self.contract.horizon) > 0.4
        self.chunks.append(actions)
        return actions


def published_mean(chunks: list[np.ndarray], kept: int) -> list[np.ndarray]:
    """The mean of what the last chunks say about each step, as InstructVLA's code states it."""
    means = []
    for step in range(len(chunks)):
        first = max(0, step - kept + 1)
        said = np.stack([chunks[number][step - number] for number in range(first, step + 1)])
        norms = np.linalg.norm(said, axis=1) * np.linalg.norm(said[-1]) + 1e-7
        weights = np.exp(0.1 * (said @ said[-1]) / norms)
        means.append(weights / weights.sum() @ said)
    return means


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robot", "family", "kept", "steps"),
    [("google", "move_near", 2, 80), ("widowx", "stack", 7, 120)],
)
def test_an_episode_is_acted_as_the_authors_act_it(
    tmp_path, monkeypatch, robot, family, kept, steps
):
    python = str(fake_python(tmp_path, "simpler"))
    suite = SimplerSuite(robot=robot, protocol="instructvla", python=python)
    assert suite.settings()["sticky_steps"] == 10 and suite.settings()["open_after"] == 1
    policy, sent = Wavering(suite.contract), []
    make = SimplerSuite.make

    def watched(self, *arguments):
        environment = make(self, *arguments)
        worker = environment.unwrapped.worker
        call = worker.call
        worker.call = lambda name, fields, arrays=None: (
            sent.extend(arrays.values() if arrays else ()),
            call(name, fields, arrays),
        )[1]
        return environment

    monkeypatch.setattr(SimplerSuite, "make", watched)
    evaluate(policy, suite, [family], range(1))
    assert len(policy.chunks) == len(sent) == steps, "a chunk for every step"
    expected = np.stack(published_mean(policy.chunks, kept))
    sent = np.stack(sent)
    np.testing.assert_allclose(sent[:, :3], expected[:, :3], atol=1e-12)
    turns = Rotation.from_euler("xyz", expected[:, 3:6]).as_rotvec()
    np.testing.assert_allclose(sent[:, 3:6], turns, atol=1e-12)
    if robot == "google":
        told = published_gripper(expected[:, 6].tolist(), 10)
        assert len({round(abs(value), 6) for value in told}) > 3, (
            "a mean is between open and closed"
        )
    else:
        told = 2.0 * (expected[:, 6] > 0.5) - 1.0
    np.testing.assert_allclose(sent[:, 6], told, atol=1e-12)


@pytest.mark.slow
def test_what_is_asked_for_replaces_the_protocols_ensemble(tmp_path):
    python = str(fake_python(tmp_path, "simpler"))
    suite = SimplerSuite(protocol="instructvla", steps_per_chunk=8, python=python, sticky_steps=2)
    assert suite.settings()["sticky_steps"] == 2
    policy = Wavering(suite.contract)
    evaluate(policy, suite, ["coke_can"], range(1))
    assert len(policy.chunks) == 10
    one = replace(suite, steps_per_chunk=1)
    policy = Wavering(suite.contract)
    evaluate(policy, one, ["coke_can"], range(1), execution="chunk:16")
    assert len(policy.chunks) == 5
