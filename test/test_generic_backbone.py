"""The generic kind: models by the paths of their parts, with code of their own if allowed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny_backbones import CONFIGS, close, hidden_states, scene, transformers_logits
from tiny_checkpoint import save_tiny_checkpoint
from tiny_robovlm import PLAIN, STRUCTURES, batch_of, observation, tiny
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from vla.policies.backbones import build_backbone
from vla.policies.backbones import remote_code as permissions
from vla.policies.backbones.pretrained import backbone_config, load_pretrained
from vla.policies.backbones.sizes import tiny_text, tiny_vision
from vla.policies.config import BackboneConfig, CheckpointError, ModelPaths, from_dict
from vla.policies.parts import ReasoningPart
from vla.policies.tokenizer import train_tokenizer
from vla.training.config import TrainConfig
from vla.training.loop import Trainer, model_config

CONFIGURATION = """
from transformers import LlamaConfig, PretrainedConfig


class ToyConfig(PretrainedConfig):
    model_type = "toy_remote"

    def __init__(self, image_size=16, patch=8, width=32, layers=2, rows=320, **kwargs):
        self.image_size, self.patch, self.width, self.layers = image_size, patch, width, layers
        self.rows = rows
        super().__init__(**kwargs)

    def text(self):
        return LlamaConfig(
            hidden_size=self.width, num_hidden_layers=self.layers, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, vocab_size=self.rows,
            initializer_range=0.3,
        )
"""
MODELING = """
import os
import torch
from torch import nn
from transformers import LlamaModel, PreTrainedModel
from .configuration_toy import ToyConfig

# What code from elsewhere could do.
with open(os.environ["TOY_HAS_RUN"], "a") as file:
    file.write("once more")


class ToyEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, config.patch, config.patch)
        self.first = nn.Parameter(torch.randn(1, 1, 24))

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(images), -1, -1), tokens], dim=1).tanh()


class ToyForCausalLM(PreTrainedModel):
    config_class = ToyConfig
    supports_gradient_checkpointing = True

    def __init__(self, config):
        super().__init__(config)
        self.image_encoder = ToyEncoder(config)
        self.image_pooler = nn.Linear(24, config.width)
        self.text_decoder = LlamaModel(config.text())
        self.scores = nn.Linear(config.width, config.rows, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.text_decoder.embed_tokens

    def forward(self, input_ids, images, attention_mask=None):
        features = self.image_pooler(self.image_encoder(images)[:, 1:])
        words = self.text_decoder.embed_tokens(input_ids.clamp(min=0))
        words = words.masked_scatter((input_ids < 0)[..., None], features)
        hidden = self.text_decoder(inputs_embeds=words, attention_mask=attention_mask)
        return self.scores(hidden.last_hidden_state)
"""
TOY = ModelPaths(
    auto_class="AutoModelForCausalLM",
    vision="image_encoder",
    skip=1,
    connector="image_pooler",
    decoder="text_decoder",
    head="scores",
    image_size=16,
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Where transformers keeps the code that it imports."""
    return str(tmp_path_factory.mktemp("modules"))


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch, tmp_path, imported):
    """As a new process starts."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(permissions, "_allowed", set())
    monkeypatch.delenv(permissions.VARIABLE, raising=False)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", imported)
    monkeypatch.setenv("TOY_HAS_RUN", str(tmp_path / "has_run"))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder with a model that transformers does not have, as transformers saves it."""
    code = tmp_path / "code"
    code.mkdir()
    for name, text in (("configuration_toy", CONFIGURATION), ("modeling_toy", MODELING)):
        # Other than that of another test, so that it is imported again.
        (code / f"{name}.py").write_text(f"{text}\n# {tmp_path}\n")
    classes = {
        "AutoConfig": "configuration_toy.ToyConfig",
        "AutoModelForCausalLM": "modeling_toy.ToyForCausalLM",
    }
    (code / "config.json").write_text(json.dumps({"model_type": "toy_remote", "auto_map": classes}))
    config = AutoConfig.from_pretrained(code, trust_remote_code=True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    folder = tmp_path / "toy"
    model.save_pretrained(folder)
    assert (folder / "modeling_toy.py").is_file(), "transformers saves the code with the weights"
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    fast = train_tokenizer(["pick up the red block"], 300)
    fast.add_special_tokens(["<|im_end|>"])
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    (tmp_path / "has_run").unlink()
    return folder


def has_run(tmp_path) -> bool:
    return (tmp_path / "has_run").exists()


# Python code of the model's own


@torch.no_grad()
def test_allowed_code_gives_what_it_gives_itself(toy, monkeypatch):
    monkeypatch.setenv(permissions.VARIABLE, f"somebody/else, {toy}")
    config = backbone_config("generic", str(toy), TOY)
    assert config.paths == replace(TOY, code=str(toy))
    assert (config.width, config.vocabulary, config.image_tokens) == (32, 320, 4)
    config = from_dict(BackboneConfig, json.loads(json.dumps(asdict(config))))
    backbone = build_backbone(config).eval()
    load_pretrained(backbone, str(toy))
    theirs = AutoModelForCausalLM.from_pretrained(toy, trust_remote_code=True).eval()
    ids, images, prefix = scene(config)
    ours = backbone.logits(hidden_states(backbone, ids, images, prefix))
    close(ours, theirs(ids, images / 127.5 - 1.0))
    other = backbone.logits(hidden_states(backbone, ids, images.flip(0), prefix))
    assert (ours - other).abs().max() > 1e-2, "the images matter"


def test_code_runs_only_where_it_is_allowed(toy, tmp_path, monkeypatch):
    says = r"needs Python code of .*toy, which is not allowed to run: read it, then set"
    with pytest.raises(CheckpointError, match=says):
        backbone_config("generic", str(toy), TOY)
    monkeypatch.setenv(permissions.VARIABLE, "true, somebody/else")
    with pytest.raises(CheckpointError, match=says):
        backbone_config("generic", str(toy), replace(TOY, code=str(toy)))
    assert not has_run(tmp_path)
    with pytest.raises(CheckpointError, match="kind internvl needs internvl"):
        backbone_config("internvl", str(toy))
    assert not has_run(tmp_path)


def test_code_of_yet_another_model_must_be_allowed_too(toy, tmp_path, monkeypatch):
    monkeypatch.setenv(permissions.VARIABLE, str(toy))
    values = json.loads((toy / "config.json").read_text())
    values["auto_map"]["AutoModelForCausalLM"] = "nobody/else--modeling_toy.ToyForCausalLM"
    (toy / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="needs Python code of nobody/else, which is not"):
        backbone_config("generic", str(toy), TOY)
    assert not has_run(tmp_path)


def training(toy, **changes) -> TrainConfig:
    entries = {"backbone": {"paths": asdict(TOY)}, "head": {"hidden": 16, "layers": 1}}
    return TrainConfig(
        stage="policy",
        preset="nano_policy_head",
        model=entries | {"pointing": {"width": 0}},
        backbone="generic",
        backbone_source=str(toy),
        augmentation=PLAIN,
        **changes,
    )


def test_a_training_run_says_whether_code_may_run(toy, tmp_path, contract):
    with pytest.raises(CheckpointError, match="allow_remote_code: true"):
        model_config(training(toy), None)
    assert not has_run(tmp_path)
    trainer = Trainer(training(toy, allow_remote_code=True), contract, None)
    theirs = AutoModelForCausalLM.from_pretrained(toy, trust_remote_code=True).state_dict()
    for name, value in trainer.plain_model.backbone.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture
def checkpoint(toy, tmp_path, monkeypatch):
    """A policy on that model; then nothing is allowed any more."""
    with monkeypatch.context() as allowed:
        allowed.setenv(permissions.VARIABLE, str(toy))
        backbone = backbone_config("generic", str(toy), TOY)
        backbone = replace(backbone, chat=tiny("policy_head").backbone.chat)
        config = replace(tiny("policy_head"), backbone=backbone)
        folder = save_tiny_checkpoint(tmp_path / "checkpoint", config=config)
    (tmp_path / "has_run").unlink()
    return folder


def test_a_checkpoint_can_not_allow_code(toy, checkpoint, tmp_path, monkeypatch):
    says = "needs Python code of .*toy, which is not allowed to run"
    with pytest.raises(CheckpointError, match=says):
        ReasoningPart.from_pretrained(checkpoint)
    monkeypatch.setenv("HF_TRUST_REMOTE_CODE", "1")
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    architecture = values["backbone"]["architecture"]
    for name, value in (
        ("auto_map", {"AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"}),
        ("_name_or_path", str(toy)),
        ("trust_remote_code", True),
        ("attn_implementation", "somebody/kernel"),
    ):
        for holder in (architecture, architecture.setdefault("vision_config", {})):
            holder[name] = value
            path.write_text(json.dumps(values))
            with pytest.raises(CheckpointError, match=f"{name} may name code to fetch and run"):
                ReasoningPart.from_pretrained(checkpoint)
            del holder[name]
    values["backbone"]["allow_remote_code"] = True
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="unknown entries: allow_remote_code"):
        ReasoningPart.from_pretrained(checkpoint)
    assert not has_run(tmp_path)


def test_who_runs_a_checkpoint_allows_its_code(toy, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv(permissions.VARIABLE, str(toy))
    part = ReasoningPart.from_pretrained(checkpoint)
    assert part.act(observation(0), "pick the red block").shape == (part.contract.horizon, 7)
    # The allowed code is that of the folder, whatever the checkpoint says of other folders.
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    values["backbone"]["paths"]["code"] = "somebody/else"
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="code of somebody/else, which is not allowed"):
        ReasoningPart.from_pretrained(checkpoint)


def test_a_revision_is_part_of_what_is_allowed(tmp_path):
    assert permissions.located("a/model@8f3c") == ("a/model", "8f3c")
    assert permissions.located("a/model") == ("a/model", "main")
    folder = tmp_path / "model@8f3c"
    folder.mkdir()
    assert permissions.located(str(folder)) == (str(folder), "main")
    permissions.allow_remote_code("a/model")
    with pytest.raises(CheckpointError, match="code of a/model@8f3c, which is not allowed"):
        permissions.require_allowed("a/model@8f3c")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_learns_on_code_of_its_own(toy, tmp_path, monkeypatch, structure):
    monkeypatch.setenv(permissions.VARIABLE, str(toy))
    backbone = backbone_config("generic", str(toy), TOY)
    config = tiny(structure)
    config = replace(config, backbone=replace(backbone, chat=config.backbone.chat))
    part = ReasoningPart.from_pretrained(save_tiny_checkpoint(tmp_path / "p", config=config))
    frames = [observation(index) for index in range(config.structure.window)]
    losses = part.model(batch_of(part, frames))
    losses["tokens" if structure == "discrete" else "action"].backward()
    model = part.model.backbone.model
    for module in (model.image_encoder.patches, model.image_pooler, model.text_decoder.norm):
        assert all((weight.grad != 0).any() for weight in module.parameters())


# Models of transformers


def llava(**paths) -> BackboneConfig:
    tiny_kind = CONFIGS["llava"]
    where = ModelPaths(head="lm_head", vision_layer=-2, skip=1)
    architecture = {"model_type": "llava"} | tiny_kind.architecture
    config = replace(tiny_kind, kind="generic", architecture=architecture)
    return replace(config, paths=replace(where, **paths))


def aya() -> BackboneConfig:
    """Aya Vision: pixel shuffle, Cohere 2 with a sliding window."""
    architecture = {
        "model_type": "aya_vision",
        "vision_config": tiny_vision(model_type="siglip_vision_model", vision_use_head=False),
        "text_config": tiny_text(model_type="cohere2", sliding_window=8, logit_scale=1.0),
        "image_token_index": 1,
        "image_token_id": 1,
        "downsample_factor": 2,
    }
    paths = ModelPaths(own_features=True)
    return BackboneConfig("generic", "", architecture, 32, 320, 28, image_tokens=4, paths=paths)


@pytest.mark.parametrize("config", [llava(), aya()], ids=["llava", "aya_vision"])
@torch.no_grad()
def test_paths_of_a_model_give_what_transformers_gives(config):
    torch.manual_seed(0)
    backbone = build_backbone(config).eval()
    ids, images, prefix = scene(config)
    ours = backbone.logits(hidden_states(backbone, ids, images, prefix))
    close(ours, transformers_logits(backbone.model, config, ids, images, prefix))
    other = backbone.logits(hidden_states(backbone, ids, images.flip(0), prefix))
    assert (ours - other).abs().max() > 1e-2, "the images matter"


@torch.no_grad()
def test_released_weights_of_a_model_of_transformers(tmp_path):
    config = CONFIGS["generic"]
    torch.manual_seed(4)
    theirs = build_backbone(config).eval()
    theirs.model.save_pretrained(tmp_path)
    fast = train_tokenizer(["pick up the red block"], 300)
    fast.add_special_tokens(["<stop>"])
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(tmp_path)
    chat = replace(config.chat, end="<stop>")
    found = backbone_config("generic", str(tmp_path), replace(config.paths, chat=chat))
    assert found.chat == chat and found.paths.code == ""
    assert (found.width, found.vocabulary) == (32, 320)
    assert (found.image_size, found.image_tokens) == (28, 16)
    backbone = build_backbone(found).eval()
    load_pretrained(backbone, str(tmp_path))
    inputs = scene(config)
    close(hidden_states(backbone, *inputs), hidden_states(theirs, *inputs))


# What is refused


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (
            {"vision": "model.vision_towr"},
            r"paths\.vision: there is no 'model\.vision_towr': model has vision_tower, "
            "multi_modal_projector, language_model",
        ),
        ({"connector": "projector"}, r"paths\.connector: .*the model has model, lm_head"),
        ({"decoder": "model.language"}, r"paths\.decoder: there is no 'model\.language'"),
        ({"layers": "blocks"}, r"paths\.layers: .*the decoder has embed_tokens, layers, norm"),
        ({"head": "model"}, r"paths\.head: 'model' gives no linear layer"),
        ({"head": "lm_head.weight"}, r"paths\.head: .*lm_head has no parts"),
        ({"embeddings": "model.words"}, r"paths\.embeddings: there is no 'model\.words'"),
    ],
)
def test_paths_that_are_not_there_are_named(paths, says):
    with pytest.raises(CheckpointError, match=says):
        build_backbone(llava(**paths))


def test_what_else_does_not_fit_is_said(toy, monkeypatch):
    with pytest.raises(CheckpointError, match="kind generic needs paths"):
        build_backbone(replace(llava(), paths=None))
    config = llava(connector="")
    with pytest.raises(CheckpointError, match=r"give \[4, 16, 24\] of 4 images, but the decoder"):
        build_backbone(config).encode_images(scene(config)[1])
    monkeypatch.setenv(permissions.VARIABLE, str(toy))
    with pytest.raises(CheckpointError, match=r"auto_class: .*makes AutoConfig, AutoModelForCaus"):
        backbone_config("generic", str(toy), replace(TOY, auto_class="AutoModel"))
    values = json.loads((toy / "config.json").read_text())
    del values["image_size"]
    (toy / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"image_size: .*does not say how large"):
        backbone_config("generic", str(toy), replace(TOY, image_size=0))
