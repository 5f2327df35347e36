"""Adapters: what training one leaves alone, what loading one does, and how it comes out again."""

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import load_file, save_file
from tiny_checkpoint import save_tiny_checkpoint

from vla.policies.adapters import open_adapter, require_base, save_adapter
from vla.policies.checkpoint import build_model, load_weights, open_checkpoint
from vla.policies.config import AdapterConfig, CheckpointError
from vla.policies.instructvla.adapter_layers import insert_adapter
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.lora import adapter_layers, adapter_weights

INSTRUCTION = "pick the red block"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def _adapted_model(base, seed=0):
    """The whole model with a random adapter in it, as training holds it."""
    torch.manual_seed(seed)
    model = build_model(base.config, base.contract)
    load_weights(base, model, "", "cpu")
    insert_adapter(model, AdapterConfig(rank=2, alpha=4.0))
    for layer in adapter_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    return model.eval()


def _save(model, base, target):
    weights = {name: model.get_parameter(name) for name in adapter_weights(model)}
    save_adapter(target, weights, base, AdapterConfig(rank=2, alpha=4.0), {"task": "x"}, "card\n")
    return target


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    base = open_checkpoint(folder)
    return _save(_adapted_model(base), base, tmp_path_factory.mktemp("adapter") / "one")


def _scene(contract):
    generator = np.random.default_rng(1)
    cameras = contract.cameras
    images = {c.name: generator.integers(0, 255, (c.height, c.width, 3), np.uint8) for c in cameras}
    return images, generator.uniform(-0.2, 0.2, len(contract.state_names))


def _outputs(reasoner, action_model):
    images, state = _scene(reasoner.contract)
    latent = reasoner.latent_action(images, INSTRUCTION)
    return latent, action_model.action_chunk(images, state, latent, seed=0)


def test_a_new_adapter_changes_nothing_and_leaves_vision_alone(folder):
    base = open_checkpoint(folder)
    model = build_model(base.config, base.contract)
    load_weights(base, model, "", "cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    insert_adapter(model, AdapterConfig(rank=2))
    layers = adapter_layers(model)
    assert any(path.startswith("reasoning.") for path in layers)
    assert any(path.startswith("expert.layers") for path in layers)
    assert any(path.startswith("expert.head") for path in layers)
    assert not any("vision" in path and "projector" not in path for path in layers)
    x = torch.randn(3, next(iter(layers.values())).base.in_features)
    layer = next(iter(layers.values()))
    assert torch.equal(layer(x), layer.base(x))
    after = {name.replace(".base.", "."): value for name, value in model.state_dict().items()}
    for name, value in before.items():
        assert torch.equal(after[name.replace(".base.", ".")], value)


@pytest.mark.slow
def test_loaded_it_acts_as_the_trained_model_does(folder, adapter):
    base = open_checkpoint(folder)
    model = _adapted_model(base)
    plain = _outputs(Reasoner.from_pretrained(folder), ActionModel.from_pretrained(folder))
    reasoner = Reasoner.from_pretrained(folder, adapter=adapter)
    action_model = ActionModel.from_pretrained(folder, adapter=adapter)
    latent, chunk = _outputs(reasoner, action_model)
    assert not np.allclose(latent, plain[0], atol=1e-4)
    assert not np.allclose(chunk, plain[1], atol=1e-6)
    reasoner.model, action_model._expert = model.reasoning, model.expert
    trained = _outputs(reasoner, action_model)
    np.testing.assert_allclose(latent, trained[0], atol=2e-5)
    np.testing.assert_allclose(chunk, trained[1], atol=2e-5)


def test_it_comes_out_again_to_the_last_bit_and_gives_way_to_another(folder, adapter, tmp_path):
    base = open_checkpoint(folder)
    other = _save(_adapted_model(base, seed=5), base, tmp_path / "other")
    reasoner, action_model = Reasoner.from_pretrained(folder), ActionModel.from_pretrained(folder)
    plain = _outputs(reasoner, action_model)

    def put(path):
        opened = open_adapter(path) if path else None
        for half in (reasoner, action_model):
            half.set_adapter(opened)
        return _outputs(reasoner, action_model)

    first = put(adapter)
    assert reasoner.checkpoint_id == action_model.checkpoint_id
    assert reasoner.checkpoint_id == f"{base.checkpoint_id}+{open_adapter(adapter).adapter_id}"
    second = put(other)
    assert not np.allclose(first[0], second[0], atol=1e-4)
    for now, then in zip(put(None), plain, strict=True):
        assert np.array_equal(now, then)
    assert reasoner.checkpoint_id == base.checkpoint_id
    for now, then in zip(put(adapter), first, strict=True):
        assert np.array_equal(now, then)


def test_states_beyond_the_base_s_bounds_are_told_apart_with_an_adapter_only(folder, adapter):
    action_model = ActionModel.from_pretrained(folder)
    images, state = _scene(action_model.contract)
    latent = np.zeros(action_model.features.latent_shape, np.float32)

    def chunk(y):
        moved = state.copy()
        moved[1] = y
        return action_model.action_chunk(images, moved, latent, seed=0)

    assert np.array_equal(chunk(1.3), chunk(1.6))
    action_model.set_adapter(open_adapter(adapter))
    assert not np.array_equal(chunk(1.3), chunk(1.6))
    action_model.set_adapter(None)
    assert np.array_equal(chunk(1.3), chunk(1.6))


def _edited(adapter, target, **entries):
    shutil.copytree(adapter, target)
    description = json.loads((target / "adapter.json").read_text())
    (target / "adapter.json").write_text(json.dumps(description | entries))
    return target


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"base": "0123456789ab"}, "changes the checkpoint 0123456789ab"),
        ({"contract": "0123456789ab"}, "trained with the contract"),
        ({"config": {"rank": 2, "size": 3}}, "unknown entries: size"),
    ],
)
def test_an_adapter_for_something_else_is_refused(folder, adapter, tmp_path, entries, words):
    reasoner = Reasoner.from_pretrained(folder)
    before = reasoner.latent_action(_scene(reasoner.contract)[0], INSTRUCTION)
    with pytest.raises(CheckpointError, match=words):
        reasoner.set_adapter(open_adapter(_edited(adapter, tmp_path / "edited", **entries)))
    assert reasoner.adapter is None
    after = reasoner.latent_action(_scene(reasoner.contract)[0], INSTRUCTION)
    assert np.array_equal(before, after)


def _with_weights(adapter, target, change):
    shutil.copytree(adapter, target)
    weights = load_file(target / "adapter.safetensors")
    change(weights)
    save_file(weights, target / "adapter.safetensors")
    return target


def _rename(weights):
    name = next(iter(weights))
    weights["reasoning.nowhere." + name.rpartition(".")[2]] = weights.pop(name)


def _widen(weights):
    name = next(n for n in weights if n.endswith("lora_a") and n.startswith("reasoning"))
    weights[name] = torch.zeros(weights[name].shape[0], weights[name].shape[1] + 1)


def _spoil(weights):
    next(iter(weights.values()))[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [(_rename, "lacks"), (_widen, "the checkpoint has"), (_spoil, "NaN or infinity")],
)
def test_damaged_weights_are_refused(folder, adapter, tmp_path, change, words):
    reasoner = Reasoner.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=words):
        reasoner.set_adapter(open_adapter(_with_weights(adapter, tmp_path / "edited", change)))
    assert reasoner.adapter is None


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not an adapter"):
        open_adapter(tmp_path)
    (tmp_path / "adapter.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_adapter(tmp_path)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(adapter, tmp_path):
    for index, name in enumerate(("adapter.json", "adapter.safetensors")):
        copy = tmp_path / str(index)
        shutil.copytree(adapter, copy)
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(CheckpointError, match=f"{name} is a pipe"):
            open_adapter(copy)


@pytest.mark.parametrize(
    "config", [{"alpha": 5.0}, {"state_limit": 3.0}, {"dropout": 0.1}], ids=lambda c: next(iter(c))
)
def test_the_id_is_of_all_that_an_adapter_does(adapter, tmp_path, config):
    plain = json.loads((adapter / "adapter.json").read_text())
    edited = _edited(adapter, tmp_path / "edited", config=plain["config"] | config)
    assert open_adapter(edited).adapter_id != open_adapter(adapter).adapter_id
    same = _edited(adapter, tmp_path / "same", about={"said": "otherwise"})
    assert open_adapter(same).adapter_id == open_adapter(adapter).adapter_id


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"config": {"rank": 10**9}}, "rank must be a whole number from 1 to 4096"),
        ({"config": {"rank": 2, "alpha": 1e300}}, "alpha must be a number from"),
        ({"config": {"rank": 2, "alpha": 201.0}}, "more than 100 times the rank"),
        ({"config": {"rank": 3, "alpha": 4.0}}, r"not \[3, ...\] of real numbers"),
        ({"config": {"rank": 2, "state_limit": 0}}, "state_limit must be"),
        ({"config": [1]}, "config must be a mapping"),
        ({"base": ["x"] * 10**5}, "base must be text"),
        ({"contract": "x" * 10**6}, "contract has 1000000 characters"),
        ({"about": 3}, "about must be a mapping"),
    ],
)
def test_absurd_descriptions_are_refused(adapter, tmp_path, entries, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        open_adapter(_edited(adapter, tmp_path / "edited", **entries))
    assert len(str(caught.value)) < 500


def test_damaged_adapters_are_refused_or_sound(folder, adapter, tmp_path):
    chance, base = random.Random(5), open_checkpoint(folder)
    copy, refused = tmp_path / "copy", 0
    shutil.copytree(adapter, copy)
    for index in range(150):
        name = ("adapter.json", "adapter.json", "adapter.safetensors")[index % 3]
        whole = (adapter / name).read_bytes()
        (copy / name).write_bytes(mutated(whole, chance))
        try:
            opened = open_adapter(copy)
            require_base(opened, base)
        except CheckpointError as problem:
            refused += 1
            assert len(str(problem)) < 500 and str(problem).isprintable()
        else:
            assert all(value.isfinite().all() for value in opened.weights.values())
        (copy / name).write_bytes(whole)
    assert refused > 75


def test_a_base_that_was_replaced_meanwhile_is_noticed(folder, adapter, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    reasoner = Reasoner.from_pretrained(copy)
    save_tiny_checkpoint(copy, scale=0.5)
    with pytest.raises(CheckpointError, match="replaced after"):
        reasoner.set_adapter(open_adapter(adapter))
