"""Released checkpoints, converted, act as the same tensors in plain modules do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from released_instructvla import (
    ACTIONS,
    HORIZON,
    QUERIES,
    SIDE,
    Action,
    Language,
    tiny_preset,
    tiny_tokenizer,
    with_query_tokens,
)
from safetensors.torch import save_file
from tiny_checkpoint import CONTRACT_PATH
from tiny_dinov2 import save_timm, tiny_dinov2

from vla.contract.embodiment import dimension_kinds, load_contract
from vla.core.resources import contract_path
from vla.policies.checkpoint import (
    INDEX,
    build_model,
    load_weights,
    open_checkpoint,
    read_weights,
    save_checkpoint,
)
from vla.policies.config import CheckpointError
from vla.policies.images import zoom_images
from vla.policies.instructvla.conversion import (
    convert_released,
    read_eagle,
    read_released,
)
from vla.policies.instructvla.film_vision import standardize
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.instructvla.presets import PRESETS
from vla.policies.released import read_statistics
from vla.policies.robots import Robot
from vla_cli.parser import main

CONTRACT = load_contract(CONTRACT_PATH)
STATE = len(CONTRACT.state_names)
ADAPTERS = {"plain": (), "expert": ("default",), "generalist": ("0", "1")}
INSTRUCTION = "pick the can"


class Released:
    """A released run on disk, and the modules that it was written from."""

    def __init__(self, folder, stage: str, uses_state: bool, tied: bool = False):
        torch.manual_seed(0)
        self.tokenizer = tiny_tokenizer()
        self.extended = with_query_tokens(self.tokenizer)
        rows = self.extended.get_vocab_size()
        self.language = Language(rows, ADAPTERS[stage], tied=tied)
        self.action = Action(STATE if uses_state else None)
        self.groups = self.language.groups() | {"action_model": self.action.group()}
        self.statistics = {
            "bridge_dataset": {
                "action": {
                    "q01": [-0.5] * 6 + [0.0],
                    "q99": [0.5] * 6 + [1.0],
                    "mask": [True] * 6 + [False],
                },
                "proprio": {"q01": [-1.0] * STATE, "q99": [2.0] * STATE},
                "num_transitions": 3,
            },
            "other": {},
        }
        self.folder = folder
        self.file = folder / "checkpoints" / "step-000001-epoch-00-loss=1.0.pt"
        self.file.parent.mkdir(parents=True)
        torch.save({"model": self.groups}, self.file)
        (folder / "dataset_statistics.json").write_text(json.dumps(self.statistics))
        self.tokenizer.save(str(folder / "tokenizer.json"))
        # A robot whose images need no resizing, which is not what is compared here.
        cameras = tuple(replace(c, width=SIDE, height=SIDE) for c in CONTRACT.cameras)
        self.contract = folder / "robot.yaml"
        self.contract.write_text(yaml.safe_dump(replace(CONTRACT, cameras=cameras).to_dict()))

    def convert(self, target, *more: str) -> int:
        words = ["convert", "instructvla", str(self.file), str(target), "--preset", "tiny"]
        words += ["--contract", str(self.contract), "--unnorm-key", "bridge_dataset"]
        return main([*words, "--tokenizer", str(self.folder), *more])

    def latent(self, image: np.ndarray, question: str, answer: str = "") -> torch.Tensor:
        """As the authors read a prompt: one text, its image and query tokens by their names."""
        queries = "".join(f"<new_token_{index}>" for index in range(QUERIES))
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * 4}</img>\n{question}<|im_end|>\n"
            f"<|im_start|>assistant\n{answer}{queries}<|im_end|>\n"
        )
        ids = self.extended.encode(text, add_special_tokens=False).ids
        first = self.extended.token_to_id("<new_token_0>")
        start = ids.index(first)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        context = self.extended.token_to_id("<IMG_CONTEXT>")
        hidden = self.language.hidden(ids, pixels, context)
        assert ids[start : start + QUERIES] == list(range(first, first + QUERIES))
        return hidden[start : start + QUERIES]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other take longer than these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny_preset(), preset="tiny"))


def scene() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        name: generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for name in ("front", "wrist")
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", list(ADAPTERS))
@pytest.mark.parametrize("uses_state", [False, True])
def test_a_converted_model_acts_as_the_released_one(tmp_path, tiny, capsys, stage, uses_state):
    released = Released(tmp_path / "run", stage, uses_state, tied=stage == "plain")
    folder = tmp_path / "converted"
    assert released.convert(folder) == 0
    said = capsys.readouterr().out
    assert "left over, since nothing reads them" in said and "vision_model.head.probe" in said
    # An output matrix that is tied to the embeddings is loaded, and not stored.
    loaded = len(read_weights(open_checkpoint(folder))) + (stage == "plain")
    assert f"loaded: {loaded} tensors" in said
    config = open_checkpoint(folder).config
    assert config.expert.use_state == uses_state
    assert len(config.lora.experts) == len(ADAPTERS[stage])

    # The latent action, without and with an answer before it.
    images, reasoner = scene(), Reasoner.from_pretrained(folder)
    question = "What action should the robot take to pick the can?"
    given = reasoner.latent_action(images, INSTRUCTION)
    wanted = released.latent(images["front"], question)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(given, wanted, atol=1e-4)
    given = reasoner.latent_action(images, INSTRUCTION, "Move it left.")
    thinking = f"{question} First answer my question."
    wanted = released.latent(images["front"], thinking, "Move it left. ")
    np.testing.assert_allclose(given, wanted, atol=1e-4)
    # Scores of words and queries.
    hidden = torch.randn(2, wanted.shape[1])
    torch.testing.assert_close(
        reasoner.model.logits(hidden), released.language.model.lm_head(hidden)
    )

    # Chunks: ten steps from noise on the velocities of the reference.
    latent = wanted[None]
    state = np.linspace(-1.5, 1.5, STATE)
    chunk = ActionModel.from_pretrained(folder).action_chunk(images, state, latent[0].numpy(), 3)
    x = torch.randn(1, HORIZON, ACTIONS, generator=torch.Generator().manual_seed(3))
    pixels = torch.from_numpy(images["front"]).permute(2, 0, 1)[None]
    pixels = standardize(zoom_images(pixels, SIDE), torch.float32)
    normal = torch.from_numpy(np.clip(2 * (state + 1) / 3 - 1, -1, 1)).float()[None]
    for step in range(10):
        time = torch.tensor([step / 10])
        x = x + released.action.velocity(pixels, latent, normal, x, time, "bias") / 10
    wanted = x[0].clamp(-1, 1).numpy() * 0.5
    wanted[:, 6] = x[0, :, 6] >= 0.5
    np.testing.assert_allclose(chunk, wanted, atol=1e-4)


def test_query_rows_are_the_last_ones(tmp_path):
    released = Released(tmp_path / "run", "expert", False)
    groups = read_released(released.file)
    converted = convert_released(groups, tiny_preset(), CONTRACT)
    rows = released.tokenizer.get_vocab_size()
    assert converted.config.backbone.vocabulary == rows
    for ours, theirs in (
        ("query_embedding", released.language.model.get_input_embeddings()),
        ("query_output", released.language.model.lm_head),
    ):
        torch.testing.assert_close(converted.weights[f"reasoning.{ours}"], theirs.weight[rows:])
    assert converted.config.vlm_cameras == ("front",)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"mlp1": ("3.bias", None)}, r"missing mlp1\.3\.bias"),
        ({"mlp1": ("4.bias", torch.zeros(2))}, r"left over mlp1\.4\.bias"),
        (
            {"mlp1": ("3.bias", torch.zeros(2))},
            r"of another shape mlp1\.3\.bias \[2\], not \[32\]",
        ),
        (
            {"action_model": ("VideoGPT.model.layers.1.self_attn.k_proj.weight", None)},
            r"missing action_model\.VideoGPT\.model\.layers\.1\.self_attn\.k_proj\.weight",
        ),
        (
            {"action_model": ("action_head.0.weight", None)},
            r"missing action_model\.action_head\.0\.weight",
        ),
        (
            {"language_model": ("base_model.model.model.embed_tokens.weight", None)},
            "language_model has no embedding under a known name",
        ),
        (
            {"action_model": ("action_head.6.bias", torch.zeros(8 * ACTIONS))},
            "chunks of 8 x 7 actions, but contract 'sim_panda' has 16 x 7",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, complaint):
    groups = Released(tmp_path / "run", "expert", False).groups
    for group, (name, value) in change.items():
        groups[group].pop(name, None)
        if value is not None:
            groups[group][name] = value
    with pytest.raises(CheckpointError, match=complaint):
        convert_released(groups, tiny_preset(), CONTRACT)


def test_states_of_another_robot_are_refused(tmp_path):
    groups = Released(tmp_path / "run", "expert", True).groups
    groups["action_model"]["state_embed.0.weight"] = torch.zeros(32, 8)
    with pytest.raises(CheckpointError, match="a state of 8 values, but contract 'sim_panda' has"):
        convert_released(groups, tiny_preset(), CONTRACT)


@pytest.mark.slow
def test_commands_that_cannot_be_run_say_why(tmp_path, tiny, capsys):
    released = Released(tmp_path / "run", "expert", False)

    def fails(message: str, *more: str, target: str = "new") -> None:
        assert released.convert(tmp_path / target, *more) == 2
        assert message in capsys.readouterr().err

    fails("name one of them with --unnorm-key", "--unnorm-key", "moon")
    fails("there is no contract 'moon'", "--contract", "moon")
    fails("unknown preset 'huge'", "--preset", "huge")
    fails("beside the action queries", "--queries", "2")
    fails("cannot read", "--stats", str(tmp_path / "none.json"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("")
    fails("is there already", target="full")
    torch.save({"model": {"mlp1": {}}}, released.file)
    fails("no checkpoint of InstructVLA (no vision_model, language_model, action_model)")
    released.file.write_bytes(b"PK")
    fails("cannot be read")
    assert not (tmp_path / "new").exists()


def test_statistics_leave_the_gripper_alone(tmp_path):
    released = Released(tmp_path / "run", "expert", False)
    file = tmp_path / "run" / "dataset_statistics.json"
    stats = read_statistics(file, "bridge_dataset", CONTRACT, uses_state=True)
    assert stats["action"].kinds == ("relative",) * 6 + ("binary",)
    np.testing.assert_allclose(stats["state"].normalize(np.full(STATE, 0.5)), 0.0, atol=1e-6)
    del released.statistics["bridge_dataset"]["action"]["mask"], released.statistics["other"]
    file.write_text(json.dumps(released.statistics))
    stats = read_statistics(file, None, CONTRACT, uses_state=False)
    assert stats["action"].kinds == ("relative",) * 6 + ("binary",)
    # Theirs have angles between quantiles too, whatever new statistics of that robot have.
    bridge = load_contract(contract_path("widowx_bridge"))
    eight = {"mean": [0.5] * 8, "q01": [0.0] * 8, "q99": [1.0] * 8}
    theirs = released.statistics["bridge_dataset"] | {"proprio": eight}
    file.write_text(json.dumps({"bridge_dataset": theirs}))
    state = read_statistics(file, None, bridge, uses_state=True)["state"]
    assert set(state.kinds) == {"absolute"} and "angle" in dimension_kinds(bridge)["state"]
    np.testing.assert_array_equal(state.normalize(np.full(8, 0.75)), 0.5)
    assert state.mean.tolist() == eight["mean"] and state.count is None
    damaged = released.statistics["bridge_dataset"] | {
        "proprio": {"q01": [0.0] * (STATE - 1) + [float("nan")], "q99": [1.0] * STATE}
    }
    file.write_text(json.dumps({"bridge_dataset": damaged}))
    with pytest.raises(CheckpointError, match="bridge_dataset: proprio: q01 must be a number"):
        read_statistics(file, None, CONTRACT, uses_state=True)
    released.statistics["bridge_dataset"]["proprio"]["q01"] = [0.0]
    file.write_text(json.dumps(released.statistics))
    with pytest.raises(CheckpointError, match=r"bridge_dataset: proprio has 1 values"):
        read_statistics(file, None, CONTRACT, uses_state=True)


def test_a_run_on_two_data_sets_acts_for_both_robots(tmp_path, tiny, capsys):
    """As the authors train: a file's statistics are of Bridge and of Fractal."""
    released = Released(tmp_path / "run", "expert", False)
    file = tmp_path / "run" / "dataset_statistics.json"
    bridge = released.statistics["bridge_dataset"]
    action = bridge["action"] | {"q99": [0.25] * 6 + [1.0]}
    fractal = bridge | {"action": action}
    file.write_text(json.dumps({"bridge_dataset": bridge, "fractal20220817_data": fractal}))
    words = ["convert", "instructvla", str(released.file), str(tmp_path / "new"), "--preset"]
    words += ["tiny", "--tokenizer", str(released.folder), "--unnorm-key", "bridge_dataset"]
    assert main(words) == 0
    other = tmp_path / "new" / "robots" / "google_fractal"
    assert str(other) in capsys.readouterr().out
    first, second = open_checkpoint(tmp_path / "new"), open_checkpoint(other)
    assert first.checkpoint_id == second.checkpoint_id
    assert (first.contract.name, second.contract.name) == ("widowx_bridge", "google_fractal")
    assert (first.stats["action"].q99[0], second.stats["action"].q99[0]) == (0.5, 0.25)


def test_eagle_becomes_the_reasoning_half(tmp_path, tiny, capsys):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    rows = tokenizer.get_vocab_size() + 5
    language = Language(rows, (), tied=True)
    source = tmp_path / "Eagle2-2B"
    source.mkdir()
    flat = {f"{g}.{n}": v.clone() for g, part in language.groups().items() for n, v in part.items()}
    del flat["language_model.lm_head.weight"]
    half = len(flat) // 2
    save_file(dict(list(flat.items())[:half]), source / "model-00001-of-00002.safetensors")
    save_file(dict(list(flat.items())[half:]), source / "model-00002-of-00002.safetensors")
    tokenizer.save(str(source / "tokenizer.json"))
    folder = tmp_path / "eagle"
    words = ["convert", "eagle2", str(source), str(folder), "--preset", "tiny"]
    assert main([*words, "--vision-source", save_timm(tmp_path / "timm.pth", tiny_dinov2())]) == 0
    said = capsys.readouterr().out
    assert "timm.pth\n  loaded: 59 tensors" in said and "  stays random: 2 tensors" in said
    vision = [name for name in read_weights(open_checkpoint(folder)) if name.startswith("expert.")]
    assert len(vision) == 59
    with pytest.raises(CheckpointError, match="it has not learned to act"):
        ActionModel.from_pretrained(folder)
    reasoner = Reasoner.from_pretrained(folder)
    assert reasoner.config.backbone.vocabulary == rows
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        given = reasoner.model.backbone.encode_images(image[None])[0]
    torch.testing.assert_close(given, language.image_tokens(image), atol=1e-5, rtol=1e-5)
    hidden = torch.randn(1, reasoner.hidden_size)
    torch.testing.assert_close(
        reasoner.model.backbone.logits(hidden), language.model.lm_head(hidden)
    )
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors"):
        read_eagle(folder / "nowhere")


# Large checkpoints


@pytest.mark.slow
def test_weights_keep_their_type_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("vla.policies.checkpoint.MOST_PER_FILE", 40_000)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = tiny_preset(tokenizer.get_vocab_size())
    model = build_model(config, CONTRACT).to(torch.bfloat16).eval()
    folder = tmp_path / "large"

    def save(dtype) -> None:
        save_checkpoint(folder, config, model.state_dict(), [Robot(CONTRACT, {})], tokenizer, dtype)

    save(None)
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 2 and (folder / INDEX).is_file()
    # As large as the list of a mixture of thousands of experts.
    index = json.loads((folder / INDEX).read_text())
    named = {f"model.layers.0.experts.{n}.weight": files[0].name for n in range(100_000)}
    (folder / INDEX).write_text(json.dumps({"weight_map": named | index["weight_map"]}))
    assert (folder / INDEX).stat().st_size > 6_000_000
    opened = open_checkpoint(folder)
    for dtype, wanted in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        again = build_model(config, CONTRACT)
        load_weights(opened, again, "", "cpu", dtype)
        assert {parameter.dtype for parameter in again.parameters()} == {wanted}
        for name, value in again.state_dict().items():
            torch.testing.assert_close(value, model.state_dict()[name].to(wanted))
        backbone = again.reasoning.backbone
        assert backbone.head.weight is backbone.model.get_input_embeddings().weight
    files[0].unlink()
    with pytest.raises(CheckpointError, match=r"has no model-00001-of-.*; it is not a complete"):
        open_checkpoint(folder)
    # One file again: nothing of the several is left.
    monkeypatch.setattr("vla.policies.checkpoint.MOST_PER_FILE", 5_000_000_000)
    save(torch.float16)
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]
    assert open_checkpoint(folder).checkpoint_id != opened.checkpoint_id
