"""Released weights: tiny random ones, saved as transformers saves them, are read back."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from tiny_backbones import (
    CONFIGS,
    MEAN,
    RELEASED,
    STD,
    close,
    hidden_states,
    save_released,
    scene,
    transformers_logits,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText

from vla.policies.backbones import KINDS, build_backbone
from vla.policies.backbones.pretrained import backbone_config, load_pretrained, load_tokenizer_of
from vla.policies.config import BackboneConfig, CheckpointError, LoraConfig, from_dict
from vla.policies.plain_text import TextTokenizer
from vla.policies.sequence import IMAGE, PromptRow, row_ids
from vla.policies.tokenizer import train_tokenizer


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """What is not in a folder is not looked for elsewhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", RELEASED)
@torch.no_grad()
def test_released_weights_give_what_transformers_gives(name, tmp_path):
    tiny, source = CONFIGS[name], save_released(tmp_path, name)
    config = backbone_config(tiny.kind, source)
    assert config.source == source and config.chat == KINDS[tiny.kind].chat
    assert (config.width, config.vocabulary) == (tiny.width, tiny.vocabulary)
    assert (config.image_mean, config.image_std) == (tuple(MEAN), tuple(STD))
    if side := {"qwen2_5_vl": 448, "qwen3_vl": 512}.get(tiny.kind):
        # Its configuration leaves the size open; a token is of 8 px.
        assert (config.image_size, config.image_tokens) == (side, (side // 8) ** 2)
        config = replace(config, image_size=tiny.image_size, image_tokens=tiny.image_tokens)
    assert (config.image_size, config.image_tokens) == (tiny.image_size, tiny.image_tokens)
    config = from_dict(BackboneConfig, json.loads(json.dumps(asdict(config))))

    lora = LoraConfig(("action",), rank=2)
    theirs = AutoModelForImageTextToText.from_pretrained(source).eval()
    ids, images, prefix = scene(config)
    expected = transformers_logits(theirs, config, ids, images, prefix)
    for experts in (None, lora):
        backbone = build_backbone(config, experts).eval()
        rebuilt, released = (model.config.to_dict() for model in (backbone.model, theirs))
        for notes in ("architectures", "dtype", "_name_or_path"):
            rebuilt.pop(notes, None), released.pop(notes, None)
        assert plain(rebuilt) == plain(released)
        load_pretrained(backbone, source)
        close(backbone.logits(hidden_states(backbone, ids, images, prefix)), expected)


def plain(values):
    """A configuration without notes that say nothing about the architecture."""
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items() if key != "dtype"}
    return [plain(value) for value in values] if isinstance(values, list | tuple) else values


@pytest.mark.slow
@torch.no_grad()
def test_another_type_of_number(tmp_path):
    source = save_released(tmp_path, "internvl")
    backbone = build_backbone(backbone_config("internvl", source), LoraConfig(("action",), rank=2))
    load_pretrained(backbone, source, torch.bfloat16)
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.bfloat16}
    hidden = hidden_states(backbone.eval(), *scene(backbone.config))
    assert hidden.dtype == torch.bfloat16 and hidden.isfinite().all()


@torch.no_grad()
def test_an_output_layer_of_its_own_is_kept_whatever_the_configuration_says(tmp_path):
    tiny = CONFIGS["internvl"]
    apart = replace(tiny, architecture=tiny.architecture | {"tie_word_embeddings": False})
    theirs = build_backbone(apart).eval()
    theirs.model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(values))
    backbone = build_backbone(replace(tiny, architecture=dict(tiny.architecture))).eval()
    load_pretrained(backbone, str(tmp_path))
    assert backbone.config.architecture["tie_word_embeddings"] is False
    again = build_backbone(backbone.config).eval()
    again.load_state_dict(backbone.state_dict())
    hidden = torch.randn(3, tiny.width)
    close(backbone.logits(hidden), theirs.logits(hidden))
    close(again.logits(hidden), theirs.logits(hidden))


def test_without_a_preprocessor_the_kind_says_how_images_are_standardised(tmp_path):
    source = save_released(tmp_path, "llava")
    (tmp_path / "preprocessor_config.json").unlink()
    assert backbone_config("llava", source).image_mean == KINDS["llava"].image_mean


def test_the_tokenizer_is_the_saved_one(tmp_path):
    tokenizer = load_tokenizer_of(save_released(tmp_path, "llava"))
    assert tokenizer.token_to_id("</s>") is not None
    ids = tokenizer.encode("pick up the red block", add_special_tokens=False).ids
    assert tokenizer.decode(ids).strip() == "pick up the red block" and len(ids) < 12


# Chat formats

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
CHATML = (
    "<|im_start|>user\n{image}What is there?<|im_end|>\n<|im_start|>assistant\nA can.<|im_end|>\n"
    "<|im_start|>user\nPick it.<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
)
# Two turns, the first with an image, as the released weights read them; # is an image token.
CHATS = {
    "eagle": SYSTEM + CHATML.format(image="<img>##</img>\n"),
    "generic": CHATML.format(image="##"),
    "idefics": "<s>User:<fake_token_around_image>##<fake_token_around_image>What is there?"
    "<end_of_utterance>\nAssistant: A can.<end_of_utterance>\n"
    "User:Pick it.<end_of_utterance>\nAssistant: Yes.<end_of_utterance>",
    "internvl": CHATML.format(image="<img>##</img>\n"),
    "kosmos2": "<s><image>##</image>Question: What is there? Answer:A can.</s>"
    "Question: Pick it. Answer:Yes.</s>",
    "llava": "<s>USER: ##\nWhat is there? ASSISTANT:A can.</s>USER: Pick it. ASSISTANT:Yes.</s>",
    "paligemma": "##<bos>What is there?\nA can.<eos><bos>Pick it.\nYes.<eos>",
    "qwen2_5_vl": SYSTEM + CHATML.format(image="<|vision_start|>##<|vision_end|>"),
    "qwen3_vl": CHATML.format(image="<|vision_start|>##<|vision_end|>"),
    "smolvlm": "<|im_start|>User:<fake_token_around_image><global-img>##<fake_token_around_image>"
    "What is there?<end_of_utterance>\nAssistant: A can.<end_of_utterance>\n"
    "User:Pick it.<end_of_utterance>\nAssistant: Yes.<end_of_utterance>",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_conversations_read_as_the_released_weights_know_them(kind):
    chat, expected = KINDS[kind].chat, CHATS[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(list(CHATS.values()), trainer)
    special = set(re.findall(r"<[^<>]+>", expected))
    tokenizer.add_special_tokens(["#", *sorted(special)])
    assert chat.end in special
    config = replace(KINDS[kind].tiny(), image_tokens=2, chat=chat)
    turns = (("What is there?", "A can."), ("Pick it.", "Yes."))
    ids, predicted, _ = row_ids(TextTokenizer(tokenizer), config, PromptRow(turns), num_queries=0)
    ids = [tokenizer.token_to_id("#") if token == IMAGE else token for token in ids]
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected
    said = [token for token, label in zip(ids, predicted, strict=True) if label]
    read = tokenizer.decode(said, skip_special_tokens=False)
    assert read == f"{chat.answer}A can.{chat.end}{chat.answer}Yes.{chat.end}"
    if kind not in ("kosmos2", "llava"):
        # Those put a space before every text themselves.
        assert ids == tokenizer.encode(expected, add_special_tokens=False).ids


# What is refused


def test_what_is_not_there_is_named(tmp_path):
    for read in (load_tokenizer_of, lambda source: backbone_config("llava", source)):
        with pytest.raises(CheckpointError, match=r"of nobody/model can't be read .*the network"):
            read("nobody/model")
    with pytest.raises(CheckpointError, match="unknown backbone 'gpt'; known: eagle"):
        backbone_config("gpt", "nobody/model")
    with pytest.raises(CheckpointError, match="transformers has no eagle"):
        backbone_config("eagle", "nobody/model")
    source = save_released(tmp_path, "llava", tokenizer=False)
    with pytest.raises(CheckpointError, match="the tokenizer of"):
        backbone_config("llava", source)


def test_another_kind_is_named(tmp_path):
    source = save_released(tmp_path, "llava")
    message = "is a model of type 'llava', but kind paligemma needs paligemma"
    with pytest.raises(CheckpointError, match=message):
        backbone_config("paligemma", source)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(build_backbone(CONFIGS["paligemma"]), source)


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    source = save_released(tmp_path, "llava", vocabulary=400)
    tokenizer = train_tokenizer([f"word{i} other{i}" for i in range(400)], 400)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has no token '</s>'"):
        backbone_config("llava", source)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="they are not of one model"):
        backbone_config("llava", source)


def test_weights_that_do_not_fit_are_named(tmp_path):
    source = save_released(tmp_path, "internvl")
    tiny = CONFIGS["internvl"]
    text = tiny.architecture["text_config"] | {"intermediate_size": 64}
    wider = replace(tiny, architecture=tiny.architecture | {"text_config": text})
    with pytest.raises(CheckpointError, match=r"do not fit this backbone, .*mlp"):
        load_pretrained(build_backbone(wider), source)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"the weights of .* can't be read"):
        load_pretrained(build_backbone(tiny), source)
