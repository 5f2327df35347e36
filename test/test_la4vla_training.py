"""LA4VLA learns to act, in stages, with robots of unlike sizes, and is evaluated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_robovlm_padding import JointArm
from tiny_checkpoint import save_tiny_checkpoint
from tiny_la4vla import WORDS, batch_of, samples_of, seeded, tiny
from tiny_robovlm import PLAIN, observation
from tiny_robovlm import tiny as tiny_robovlm

from vla.contract.normalization import measure
from vla.datasets.sources import ConversationData, RobotData
from vla.envs.registry import make_suite
from vla.evaluation.benchmark import evaluate
from vla.policies.base import Observation
from vla.policies.checkpoint import open_checkpoint, read_weights
from vla.policies.collation import CollationOptions
from vla.policies.config import CheckpointError
from vla.policies.la4vla.collation import LA4VLACollator
from vla.policies.la4vla.policy import POLICY
from vla.policies.la4vla.vectors import bounded_stats
from vla.policies.parts import NoActionPart, ReasoningPart, open_action_part
from vla.policies.policy import Policy
from vla.policies.reasoning_session import ReasoningSession
from vla.policies.registry import preset
from vla.policies.robots import read_robots
from vla.policies.tokenizer import load_tokenizer
from vla.training.config import TrainConfig, TrainedParts, read_train_config
from vla.training.config_check import check_train_config
from vla.training.loop import Trainer, model_config, train
from vla.training.parameters import layer_classes
from vla.training.sources import open_data
from vla_cli import main

# What the first stage on language and actions trains: the head alone.
HEAD_ALONE = TrainedParts(vision=False, connector=False, language=False, embeddings=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint of another type, whose language model has two layers."""
    folder = tmp_path_factory.mktemp("source")
    return save_tiny_checkpoint(folder / "tiny", config=tiny_robovlm("one_step"))


@pytest.fixture
def config(dataset, source, tmp_path) -> TrainConfig:
    """A small head on the first layer of that."""
    return TrainConfig(
        stage="policy",
        preset="nano_la4vla",
        model={
            "backbone": {"keep_layers": 1},
            "head": {"width": 32, "layers": 2, "heads": 2, "mlp": 48, "hidden": 32},
            "flow": {"steps": 4},
        },
        backbone="checkpoint",
        backbone_source=str(source),
        robot=(RobotData(str(dataset)),),
        output=str(tmp_path / "run"),
        steps=25,
        batch_size=4,
        flow_samples=2,
        learning_rate=3e-3,
        augmentation=PLAIN,
    )


@pytest.mark.slow
def test_it_learns_and_is_evaluated_and_goes_on(config, contract, source, tmp_path, capsys):
    check_train_config(config)
    data, losses = open_data(config, contract), []
    folder = train(
        config, contract, data, on_step=lambda _, figures: losses.append(figures["robot/action"])
    )
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    policy = Policy.from_pretrained(folder)
    assert policy.features.latent_shape is None and policy.features.token_shape is None
    assert len(policy.reasoning.model.backbone.layers) == 1
    for option in ("--think", "--questions=1"):
        assert main(["eval", "--checkpoint", str(folder), "--seeds", "0", option]) == 2
        assert f"leave {option.partition('=')[0]} out" in capsys.readouterr().err
    results = evaluate(policy, make_suite("tabletop", time_limit=0.5), ["pick"], range(1))
    assert results[0].seconds >= 0.5
    # As the nodes run it: the first part gives chunks, and the second has nothing to do.
    assert isinstance(open_action_part(folder), NoActionPart)
    session, (seen,) = ReasoningSession(policy.reasoning), samples_of(contract, (False,))
    result = session.step(Observation(seen.images, seen.state), WORDS[0])
    assert result.new_action and result.action.shape == (contract.horizon, 7)
    with pytest.raises(NotImplementedError, match="gives no text"):
        session.step(Observation(seen.images, seen.state), WORDS[0], think=True)
    # Language model and head go on from the head's weights, at another horizon of the flow.
    later = replace(
        config, initialize_from=str(folder), backbone="", backbone_source="", steps=1,
        output=str(tmp_path / "later"), model={"flow": {"steps": 2}},
        trains=TrainedParts(vision=False, connector=False, embeddings=False),
    )  # fmt: skip
    trained = read_weights(open_checkpoint(train(later, contract, open_data(later, contract))))
    changed = {
        name for name, value in read_weights(open_checkpoint(folder)).items()
        if not torch.equal(value, trained[name])
    }  # fmt: skip
    learned = re.compile(r"^head\.|\.language_model\.(layers|norm)\.")
    assert changed and all(map(learned.search, changed))
    with pytest.raises(CheckpointError, match="is of type robovlms; to take its backbone alone"):
        POLICY.start_from(policy.reasoning.model, open_checkpoint(source))


PARADIGMS = Path(__file__).parents[1] / "config" / "training" / "la4vla"
# Start, steps, data sets, and whether language and vision learn.
RUNS = {
    "la_head": ("", 10_000, 1, False, False),
    "la": ("la_head", 80_000, 1, True, False),
    "vla": ("", 90_000, 1, True, True),
    "la_vla": ("la", 90_000, 1, True, True),
    "mixpt": ("", 40_000, 2, True, True),
    "downstream": ("la", 20_000, 1, True, True),
}


def test_the_paradigms_of_the_paper_are_shipped():
    assert {path.stem for path in PARADIGMS.glob("*.yaml")} == {"base", *RUNS}
    for name, (start, steps, sets, language, vision) in RUNS.items():
        config = read_train_config(PARADIGMS / f"{name}.yaml")
        check_train_config(config)
        parts = config.trains
        assert config.initialize_from == (f"runs/la4vla_{start}/checkpoint" if start else "")
        assert (config.steps, len(config.robot)) == (steps, sets)
        assert (parts.language, parts.vision, parts.connector) == (language, vision, vision)
        assert parts.embeddings == (language and vision)
        assert (config.learning_rate, config.batch_size, config.warmup_steps) == (1e-5, 16, 1000)
        kept = preset(config.preset).backbone.keep_layers
        assert (config.preset, kept, config.output) == ("la4vla_1b", 14, f"runs/la4vla_{name}")


def moved(config: TrainConfig, contract, masked: bool) -> tuple[set[str], set[str]]:
    """The names of all parameters, and of those that two steps change."""
    trainer, source = Trainer(config, contract, None), config.backbone_source
    collator = LA4VLACollator(
        model_config(config, None), load_tokenizer(source), CollationOptions(augmentation=PLAIN)
    )
    samples, stats = samples_of(contract, (masked,) * 2), [read_robots(source)[0].stats] * 2
    batch = collator.robot_batch(samples, stats, np.random.default_rng(0))
    own = dict(trainer.plain_model.named_parameters())
    before = {name: value.detach().clone() for name, value in own.items()}
    for _ in range(2):
        figures = trainer.train_step({"robot": batch})
    assert figures.get("robot/masked_share", 0.0) == masked
    return set(own), {name for name, value in own.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("trains", "masked", "frozen"),
    [
        (HEAD_ALONE, True, r"^backbone\."),
        (
            TrainedParts(vision=False, connector=False, embeddings=False),
            True,
            r"\.(vision_tower|multi_modal_projector|embed_tokens)\.",
        ),
        # With everything trained, masked samples do not reach vision.
        (TrainedParts(), True, r"\.(vision_tower|multi_modal_projector)\."),
        (TrainedParts(), False, r"(?!)"),
    ],
)
def test_a_step_moves_what_is_trained_and_seen(config, contract, trains, masked, frozen):
    every, found = moved(replace(config, trains=trains), contract, masked)
    assert found == {name for name in every if not re.search(frozen, name)}


@torch.no_grad()
def test_layers_use_their_weights_in_their_own_pass_alone(contract, tmp_path):
    """As sharded training needs it, which gathers them no longer than that."""
    part = ReasoningPart.from_pretrained(save_tiny_checkpoint(tmp_path, config=tiny()))
    model, batch = part.model, batch_of(part, samples_of(contract, (True, False)))
    expected, classes = model(batch, 2, seeded())["action"], layer_classes(model)
    assert "HeadLayer" in classes
    for layer in model.modules():
        if type(layer).__name__ not in classes:
            continue
        own = [(weight, weight.clone()) for weight in layer.parameters()]

        def gather(*_, own=own):
            for weight, value in own:
                weight.copy_(value)

        def drop(*_, own=own):
            for weight, _value in own:
                weight.fill_(torch.nan)

        drop()
        layer.register_forward_pre_hook(gather)
        layer.register_forward_hook(drop)
    assert torch.equal(model(batch, 2, seeded())["action"], expected)


def test_conversations_are_refused_with_a_reason(config, contract):
    talks = replace(config, conversations=(ConversationData("talk"),), conversation_batch_size=2)
    collator = LA4VLACollator(
        model_config(talks, None), load_tokenizer(config.backbone_source), CollationOptions()
    )
    with pytest.raises(CheckpointError, match="gives no text, so it learns none: leave conv"):
        collator.conversation_batch([], np.random.default_rng(0))


@pytest.mark.slow
def test_unlike_robots_share_a_batch_and_a_model(config, contract):
    arm = JointArm(contract)
    config = replace(config, steps=2)
    data = open_data(config, contract)
    data.robot.datasets.append(arm)
    data.robot.weights.append(10.0)
    data.robot.masked_shares.append(0.0)
    folder = train(config, contract, data)
    for place, own, values in (
        (folder, contract, 10),
        (folder / "robots" / "joint_arm", arm.contract, 11),
    ):
        part = ReasoningPart.from_pretrained(place)
        shown = Observation(observation(0).images, np.zeros(values))
        assert part.act(shown, WORDS[0]).shape == (own.horizon, len(own.action_names))
    model = model_config(config, None)
    collator = LA4VLACollator(
        model, load_tokenizer(config.backbone_source), CollationOptions(augmentation=PLAIN)
    )
    (panda,), joint = samples_of(contract, (True,)), arm.sample(0, np.random.default_rng(0))
    robots = {robot.contract.name: robot.stats for robot in read_robots(folder)}
    pair = [robots["sim_panda"], robots["joint_arm"]]
    batch = collator.robot_batch([panda, joint], pair, np.random.default_rng(0))
    assert batch.used.sum(1).tolist() == [7, 9] and batch.given.state_used.sum(1).tolist() == [
        10,
        11,
    ]
    assert batch.steps.sum(1).tolist() == [panda.steps, 3]
    assert not batch.actions.masked_select(~batch.used[:, None]).any()
    with pytest.raises(CheckpointError, match=r"'joint_arm' has 9 values of action, .* for 8; set"):
        small = replace(config, model=config.model | {"max_action": 8}, output=config.output + "2")
        train(small, contract, data)


def test_published_bounds_are_the_least_and_largest_values(contract, tmp_path):
    """2 (x - min) / (max - min) - 1, clipped; a constant dimension becomes 0."""
    config = replace(tiny(), bounds="extremes")
    part = ReasoningPart.from_pretrained(save_tiny_checkpoint(tmp_path, config=config))
    (sample,) = samples_of(contract, (True,))
    collator = LA4VLACollator(
        config, part._tokenizer._tokenizer, CollationOptions(augmentation=PLAIN)
    )
    stats = read_robots(tmp_path)[0].stats
    low, high = stats["action"].min, stats["action"].max
    sample.actions[0, :6], sample.actions[1, :6] = high[:6], low[:6] - 1
    batch = collator.robot_batch([sample], [stats], np.random.default_rng(0))
    chunk = batch.actions[0, :, :6].numpy()
    np.testing.assert_allclose(chunk[0], 1.0, atol=1e-6)
    np.testing.assert_array_equal(chunk[1], -1.0)
    expected = 2 * (sample.actions[2:, :6] - low[:6]) / (high[:6] - low[:6]) - 1
    np.testing.assert_allclose(chunk[2:], expected.clip(-1, 1), atol=1e-5)
    again = part._stats["action"].denormalize(batch.actions[0, :1, :7].numpy())
    np.testing.assert_allclose(again[0, :6], high[:6])
    np.testing.assert_allclose(
        part.normalized_state(sample.state)[0], batch.given.state[0, :10].numpy(), atol=1e-6
    )
    constant = measure(np.ones((5, 1)), ("still",))
    assert bounded_stats(config, {"state": constant})["state"].normalize(np.ones(1)) == 0.0
    with pytest.raises(CheckpointError, match="statistics of 'state' have no min and max"):
        bounded_stats(config, {"state": replace(constant, min=None)})
