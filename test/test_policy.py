"""Checkpoints and the two halves of a policy: what fits, what is refused, what is repeatable."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mutations import mutated
from safetensors.torch import load_file, save_file
from tiny_checkpoint import save_tiny_checkpoint
from tokenizers import normalizers

from vla.policies.base import Observation
from vla.policies.checkpoint import WEIGHTS, build_model, load_weights, open_checkpoint
from vla.policies.config import CheckpointError
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.tokenizer import load_tokenizer

ACTING = "pick the red block"


@pytest.fixture
def damaged(tmp_path, checkpoint):
    """A copy that the test may spoil."""
    return shutil.copytree(checkpoint, tmp_path / "damaged")


@pytest.fixture(scope="module")
def reasoner(checkpoint):
    return Reasoner.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def action_model(checkpoint):
    return ActionModel.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in ("front", "wrist")
    }


STATE = np.array([0.4, 0.0, 0.4, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.08])


# Checkpoints


def test_a_checkpoint_opens_as_it_was_saved(checkpoint, contract):
    opened = open_checkpoint(checkpoint)
    assert opened.contract == contract and opened.config.preset == "test"
    assert opened.stats["action"].names == contract.action_names
    assert len(opened.checkpoint_id) == 12
    model = build_model(opened.config, opened.contract)
    load_weights(opened, model, "", "cpu")
    torch.manual_seed(0)
    saved = build_model(opened.config, contract)
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_the_id_is_that_of_the_weights(tmp_path, checkpoint):
    same = save_tiny_checkpoint(tmp_path / "same")
    other = save_tiny_checkpoint(tmp_path / "other", scale=0.5)
    ids = [open_checkpoint(folder).checkpoint_id for folder in (checkpoint, same, other)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    "name", ["config.json", "contract.yaml", "norm_stats.json", "tokenizer.json", WEIGHTS]
)
def test_a_missing_file_is_named_in_one_sentence(damaged, name):
    (damaged / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        ActionModel.from_pretrained(damaged)
    text = str(caught.value)
    assert name in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("half", [Reasoner, ActionModel])
def test_cut_weights_are_refused(damaged, half):
    content = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        half.from_pretrained(damaged)


def test_weights_of_another_shape_are_named(damaged):
    config = json.loads((damaged / "config.json").read_text())
    config["num_queries"] = 6
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"query_embedding has shape \[4, 32\].* \[6, 32\]"):
        Reasoner.from_pretrained(damaged)


def test_a_contract_with_another_horizon_is_refused(damaged):
    path = damaged / "contract.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"horizon": 8}))
    with pytest.raises(
        CheckpointError, match=r"expert\.head.* config\.json and contract\.yaml need"
    ):
        ActionModel.from_pretrained(damaged)
    path.write_text("rate: 1")
    with pytest.raises(CheckpointError, match=r"contract\.yaml: missing entries"):
        ActionModel.from_pretrained(damaged)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(damaged, value):
    weights = load_file(damaged / WEIGHTS)
    name = next(name for name in weights if name.startswith("reasoning."))
    weights[name].view(-1)[3] = value
    save_file(weights, damaged / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity") as caught:
        Reasoner.from_pretrained(damaged)
    assert WEIGHTS in str(caught.value)


def test_whole_numbers_in_the_place_of_weights_are_refused(damaged):
    weights = load_file(damaged / WEIGHTS)
    weights["expert.norm.weight"] = weights["expert.norm.weight"].to(torch.int8)
    save_file(weights, damaged / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"expert\.norm\.weight is of whole numbers"):
        ActionModel.from_pretrained(damaged)


@pytest.mark.parametrize("name", ["config.json", "contract.yaml", WEIGHTS, "norm_stats.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(damaged, name):
    (damaged / name).unlink()
    os.mkfifo(damaged / name)
    with pytest.raises(CheckpointError, match=name):
        Reasoner.from_pretrained(damaged)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"expert": {"layers": 10**9}}, "layers must be a whole number from 1 to 512"),
        ({"expert": {"width": 65_536, "heads": 1}}, "has shape"),
        ({"backbone": {"architecture": {"text_config": 3}}}, "no model can be built"),
        ({"flow": {"steps": 10**9}}, "steps must be a whole number from 1 to 1000"),
        ({"lora": {"alpha": float("nan")}}, "alpha holds nan"),
        ({"num_queries": -1}, "num_queries must be"),
        ({"backbone": {"vocabulary": 10**9}}, "vocabulary must be"),
        ({"backbone": {"image_mean": [0.5]}}, "image_mean must have 3 entries"),
        ({"backbone": {"kind": "x" * 10**6}}, "kind has 1000000 characters"),
        (
            {"backbone": {"architecture": {"text_config": {"num_hidden_layers": 10**6}}}},
            "from 0 to",
        ),
        ({"prompts": {"act": "{instruction:>999999999}"}}, "nothing else in braces"),
        ({"prompts": {"act": "{instruction.__class__}"}}, "nothing else in braces"),
        ({"prompts": {"act": "{instruction"}}, "prompts.act"),
        ({"vlm_cameras": "front"}, "vlm_cameras must be a list"),
        ({"expert_cameras": [["front"]]}, "expert_cameras 1 must be text"),
    ],
)
def test_absurd_configurations_are_refused(damaged, change, says):
    config = json.loads((damaged / "config.json").read_text())
    for name, value in change.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        for half in (Reasoner, ActionModel):
            half.from_pretrained(damaged)
    said = str(caught.value)
    assert re.search(says, said) and len(said) < 500 and said.isprintable()


def test_a_file_outside_of_the_folder_is_not_opened(damaged, tmp_path):
    shutil.copy(damaged / WEIGHTS, tmp_path / "elsewhere.safetensors")
    index = damaged / f"{WEIGHTS}.index.json"
    for name in ("../elsewhere.safetensors", "/etc/passwd", 3, "", ["x"] * 10**5):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(damaged)
        assert index.name in str(caught.value) and len(str(caught.value)) < 500


def test_a_tokenizer_whose_replacements_grow_is_refused(tmp_path):
    tokenizer = load_tokenizer(Path(__file__).parents[1] / "checkpoints/nano")
    grow = normalizers.Replace("a", "a" * 10)
    tokenizer.normalizer = normalizers.Sequence([grow, normalizers.Sequence([grow])])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer.json makes 1e\+02 letters of one"):
        load_tokenizer(tmp_path)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁"), grow])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    load_tokenizer(tmp_path)


def test_a_tokenizer_that_finds_no_end_is_an_error_and_no_panic(damaged, images):
    path = damaged / "tokenizer.json"
    values = json.loads(path.read_text())
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    values["pre_tokenizer"] = endless | {"invert": False}
    path.write_text(json.dumps(values))
    reasoner = Reasoner.from_pretrained(damaged)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        reasoner.latent_action(images, "a" * 60 + " b")


def test_a_token_id_beyond_any_vocabulary_is_refused_before_the_library_counts_to_it(damaged):
    path = damaged / "tokenizer.json"
    values = json.loads(path.read_text())
    name = list(values["model"]["vocab"])[50]
    values["model"]["vocab"][name] = 2**31
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has the token id 2147483648"):
        Reasoner.from_pretrained(damaged)


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_or_sound(damaged, images):
    chance, refused = random.Random(11), 0
    names = ("config.json", "norm_stats.json", "contract.yaml", "tokenizer.json", WEIGHTS)
    for index in range(100):
        path = damaged / names[index % len(names)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, chance))
        try:
            latent = np.zeros((4, 32), np.float32)
            if path.name in ("config.json", "tokenizer.json"):
                latent = Reasoner.from_pretrained(damaged).latent_action(images, ACTING)
            chunk = ActionModel.from_pretrained(damaged).action_chunk(images, STATE, latent)
            assert np.isfinite(latent).all() and np.isfinite(chunk).all()
        except CheckpointError as problem:
            refused += 1
            assert len(str(problem)) < 500 and str(problem).isprintable()
        except ValueError as problem:
            # It has another size of image, other cameras or another latent action.
            assert path.name in ("contract.yaml", "config.json") and len(str(problem)) < 500
        path.write_bytes(whole)
    assert refused > 40


def test_missing_and_superfluous_weights_are_named(damaged):
    weights = load_file(damaged / WEIGHTS)
    weights["expert.extra"] = torch.zeros(1)
    del weights["expert.norm.weight"]
    save_file(weights, damaged / WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"missing \['expert.norm.weight'\].*superfluous \['expert.extra'\]"
    ):
        ActionModel.from_pretrained(damaged)


def test_statistics_for_other_dimensions_are_refused(damaged):
    path = damaged / "norm_stats.json"
    stats = json.loads(path.read_text())
    stats["state"]["names"][0] = "height"
    path.write_text(json.dumps(stats))
    with pytest.raises(CheckpointError, match="'state' is for"):
        open_checkpoint(damaged)


def test_a_gpu_that_is_not_there_is_named(checkpoint, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for half in (Reasoner, ActionModel):
        with pytest.raises(CheckpointError, match="no CUDA device is there; use 'cpu'"):
            half.from_pretrained(checkpoint, device="cuda")


# Policies


def test_latent_actions_depend_on_words_and_image(reasoner, images):
    latent = reasoner.latent_action(images, ACTING)
    assert latent.shape == (reasoner.num_queries, reasoner.hidden_size)
    assert latent.dtype == np.float32 and np.isfinite(latent).all()
    np.testing.assert_array_equal(latent, reasoner.latent_action(images, ACTING))
    for other in (
        reasoner.latent_action(images, "open the drawer"),
        reasoner.latent_action(images, ACTING, "Pick up the red block."),
        reasoner.latent_action(images | {"front": 255 - images["front"]}, ACTING),
    ):
        assert np.abs(other - latent).max() > 1e-4


def test_a_model_that_has_not_learned_to_act_still_answers(damaged, images):
    (damaged / "norm_stats.json").unlink()
    assert isinstance(Reasoner.from_pretrained(damaged).ask(images, "what is there?"), str)
    with pytest.raises(CheckpointError, match="it has not learned to act; train it on"):
        ActionModel.from_pretrained(damaged)


def test_answers_are_text_that_can_be_acted_on(reasoner, images, monkeypatch):
    said = reasoner._tokenizer.encode(text="pick up the red block .")
    monkeypatch.setattr(reasoner.model, "generate", lambda *_: [said])
    assert reasoner.think(images, ACTING) == "Pick up the red block."
    text, latent = reasoner.think_and_act(Observation(images, STATE), ACTING)
    assert text == "Pick up the red block." and np.isfinite(latent).all()


def test_a_thought_is_read_as_the_model_wrote_it(reasoner, images, monkeypatch):
    """The tidied answer goes back in the model's own spelling."""
    written = []
    act = reasoner.model.act
    monkeypatch.setattr(
        reasoner.model,
        "act",
        lambda images, ids, *rest: written.append(ids) or act(images, ids, *rest),
    )
    reasoner.latent_action(images, ACTING, "Pick up the red block.")
    words = [token for token in written[0][0].tolist() if 0 <= token < 512]
    text = reasoner._tokenizer.decode(words)
    assert text.endswith("first answer my question . pick up the red block .")


def test_thinking_then_acting_on_one_cache_is_reading_the_thought(reasoner, images, monkeypatch):
    said = reasoner._tokenizer.encode(text="pick up the red block .")
    script = iter([*said, reasoner._tokenizer.token_to_id("<end>")])

    def scores(hidden):
        return torch.nn.functional.one_hot(torch.tensor([next(script)]), 600)

    with monkeypatch.context() as patch:
        patch.setattr(reasoner.model, "logits", scores)
        text, latent = reasoner.think_and_act(Observation(images, STATE), ACTING)
    assert text == "Pick up the red block."
    np.testing.assert_allclose(latent, reasoner.latent_action(images, ACTING, text), atol=1e-5)


def test_chunks_are_finite_in_the_contracts_units_and_repeatable(reasoner, action_model, images):
    latent = reasoner.latent_action(images, ACTING)
    first = action_model.action_chunk(images, STATE, latent, seed=3)
    assert first.shape == (action_model.horizon, 7) and first.dtype == np.float32
    np.testing.assert_array_equal(first, action_model.action_chunk(images, STATE, latent, seed=3))
    following = action_model.action_chunk(images, STATE, latent)
    assert not np.array_equal(first, following), "without a seed the noise goes on"
    assert set(np.unique(first[:, 6])) <= {0.0, 1.0}
    action = action_model._stats["action"]
    assert (first >= action.q01 - 1e-6)[:, :6].all() and (first <= action.q99 + 1e-6)[:, :6].all()


def test_chunks_depend_on_latent_and_state(reasoner, action_model, images):
    latent = reasoner.latent_action(images, ACTING)
    first = action_model.action_chunk(images, STATE, latent, seed=0)
    changed = action_model.action_chunk(images, STATE, latent + 1.0, seed=0)
    moved = action_model.action_chunk(images, STATE - [0.3, *[0] * 9], latent, seed=0)
    for other in (changed, moved):
        assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"state": STATE[:9]}, "expected 10 finite state values"),
        ({"state": np.full(10, np.nan)}, "expected 10 finite state values"),
        ({"latent": np.zeros((3, 32), np.float32)}, r"finite latent action \(4, 32\)"),
        ({"latent": np.full((4, 32), np.inf, np.float32)}, "finite latent action"),
    ],
)
def test_broken_inputs_of_the_expert_are_refused(action_model, images, change, says):
    inputs = {"state": STATE, "latent": np.zeros((4, 32), np.float32)} | change
    with pytest.raises(ValueError, match=says):
        action_model.action_chunk(images, **inputs)


def test_missing_cameras_and_other_sizes_are_named(reasoner, action_model, images):
    with pytest.raises(ValueError, match="no image of camera 'front'; got: wrist"):
        reasoner.latent_action({"wrist": images["wrist"]}, ACTING)
    small = images | {"wrist": images["wrist"][:48]}
    with pytest.raises(ValueError, match=r"camera 'wrist': expected \[96, 96, 3\]"):
        action_model.action_chunk(small, STATE, np.zeros((4, 32), np.float32))
