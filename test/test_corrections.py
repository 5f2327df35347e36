"""Episodes that the policy drives and the expert labels."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from vla.datasets.frames import read_dataset
from vla.envs.tabletop.corrections import CorrectionConfig, LabelledPolicy, make_corrections
from vla.envs.tabletop.demonstrations import ShardFrames
from vla.envs.tabletop.environment import TableTopEnv
from vla.envs.tabletop.expert import plan_chunk
from vla.policies.config import LoraConfig
from vla.policies.policy import Policy
from vla.training.config import RobotData, TrainConfig, write_train_config
from vla_cli.parser import main

ONE = CorrectionConfig(
    episodes=2, episodes_per_shard=2, shares={"pick": 1.0}, expert_share=0.0, time_limit=0.75
)


@pytest.mark.slow
@pytest.mark.parametrize(("expert_share", "driver"), [(0.0, "policy"), (1.0, "expert")])
def test_the_label_is_the_experts_whoever_drives(contract, checkpoint, expert_share, driver):
    environment = TableTopEnv(contract)
    observation, info = environment.reset(seed=3, options={"family": "pick"})
    images, state = observation["images"], observation["state"]
    label = plan_chunk(environment.simulator, environment.task, contract.horizon)
    frames, policy = ShardFrames(), Policy.from_pretrained(checkpoint)
    policy.reset(info["instruction"], seed=0)
    own = policy.chunk(images, state, 0.0)
    labelled = LabelledPolicy(policy, environment, frames, expert_share, np.random.default_rng(0))
    labelled.reset(info["instruction"], seed=0)
    executed = labelled.chunk(images, state, 0.0)
    np.testing.assert_array_equal(frames.action, [label])
    np.testing.assert_array_equal(frames.state, [state])
    np.testing.assert_array_equal(frames.images["front"], [images["front"]])
    np.testing.assert_array_equal(executed, label if driver == "expert" else own)
    assert not np.array_equal(label, own)
    assert set(labelled.objects) == set(environment.simulator.objects())


@pytest.mark.slow
def test_shards_hold_failed_episodes_too_and_what_is_there_is_kept(tmp_path, contract, checkpoint):
    done = []
    failures = make_corrections(
        tmp_path, checkpoint, contract, ONE, 1, lambda *counts: done.append(counts)
    )
    assert failures == 2 and done == [(1, 1)], "an untrained policy picks nothing in 0.75 s"
    (shard,) = read_dataset(tmp_path, contract)
    assert len(shard) == 6 and list(shard.episode) == [0, 0, 0, 1, 1, 1]
    assert all(words.family == "pick" and words.objects for words in shard.episodes)
    assert make_corrections(tmp_path, checkpoint, contract, ONE, 1) == 0


@pytest.mark.slow
def test_chunks_come_as_late_as_asked_for(tmp_path, contract, checkpoint):
    expert = replace(ONE, expert_share=1.0, episodes=1, episodes_per_shard=1, time_limit=1.0)
    moved = {}
    for delays in ((0,), (2,), (0, 2)):
        folder = tmp_path / str(len(moved))
        make_corrections(folder, checkpoint, contract, replace(expert, delay_steps=delays), 1)
        (shard,) = read_dataset(folder, contract)
        moved[delays] = float(np.abs(shard.state[1] - shard.state[0])[:3].max())
    assert moved[(0,)] > 2 * moved[(2,)]
    assert moved[(0, 2)] == pytest.approx(moved[(0,)]) or moved[(0, 2)] == pytest.approx(
        moved[(2,)]
    )


@pytest.mark.slow
def test_a_training_makes_its_corrections_in_the_middle_and_uses_them(
    tmp_path, dataset, contract, capsys, monkeypatch
):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    run = tmp_path / "run"
    config = TrainConfig(
        preset="test", contract="sim_panda",
        robot=(RobotData(str(dataset), options={
            "episodes": 4, "episodes_per_shard": 2,
            "corrections": asdict(replace(ONE, after_steps=(1, 2))),
        }),),
        output=str(run), lora=LoraConfig(("action",), rank=4), steps=3, batch_size=3,
        validation_share=0.2, validate_every=1, validation_batches=1,
    )  # fmt: skip
    write_train_config(config, tmp_path / "train.yaml")
    command = ["train", "--config", str(tmp_path / "train.yaml")]
    assert main(command) == 0
    assert capsys.readouterr().out.count("the policy failed in 2 of them") == 2
    states = [run / f"corrections-{step:06d}" / "shard-00000" / "state.npy" for step in (1, 2)]
    before = [path.stat().st_mtime_ns for path in states]
    assert main([*command, "--set", "steps=4", "corrections={time_limit: 0.75}"]) == 0
    assert "drives" not in capsys.readouterr().out, "corrections are made once"
    assert [path.stat().st_mtime_ns for path in states] == before
    kept = yaml.safe_load((run / "train.yaml").read_text())
    assert kept["robot"][0]["options"]["corrections"]["episodes"] == 2 and kept["steps"] == 4
