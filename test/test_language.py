"""The language side: tokens, training rows, and the cache that thinking and acting share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import DynamicCache

from vla.models.backbone import Backbone
from vla.models.config import (
    ActionExpertConfig,
    BackboneConfig,
    CheckpointError,
    InstructVLAConfig,
    PromptConfig,
    from_dict,
    read_config,
    write_config,
)
from vla.models.presets import PRESETS, preset
from vla.models.sequence import IGNORE, action_prompt, answer_ids, collate, prompt_ids
from vla.models.tokenizer import (
    ASSISTANT,
    END,
    SPECIAL,
    USER,
    load_tokenizer,
    train_tokenizer,
)
from vla.models.vision_language_action import InstructVLA, ReasoningModel

CONFIG = preset("test")
VOCABULARY = CONFIG.backbone.vocabulary
QUERIES = CONFIG.num_queries


def make_tokenizer() -> Tokenizer:
    sentences = ["pick up the red block .", "what is on the table ?", "put the can in the bowl ."]
    return train_tokenizer(sentences * 3, VOCABULARY)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    torch.manual_seed(0)
    return ReasoningModel(CONFIG).eval()


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, 3, 96, 96), dtype=torch.uint8, generator=generator)


# Tokenizer


@settings(max_examples=80, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_text_survives_the_tokens(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert max(ids) < VOCABULARY
    specials = [token for token in SPECIAL if token in text]
    if not specials:
        assert TOKENIZER.decode(ids).removeprefix(" ") == text.removeprefix(" ")


def test_known_words_are_short_and_special_tokens_come_first(tokenizer, tmp_path):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert tokenizer.get_vocab_size() <= VOCABULARY
    assert len(answer_ids(tokenizer, "pick up the red block .")) < 12
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "Drücke 3 Knöpfe"
    again = load_tokenizer(tmp_path)
    assert again.encode(text).ids == tokenizer.encode(text).ids


def test_missing_and_broken_tokenizers_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)


# Sequences


def test_prompts():
    prompts = PromptConfig()
    act = action_prompt(" Pick the Red block. ", prompts, think=False)
    assert act == "what action should the robot take to pick the red block ?"
    assert action_prompt("x", prompts, think=True).endswith("? first answer my question .")


def test_prompt_ids_mark_whose_turn_it_is(tokenizer):
    ids = prompt_ids(tokenizer, "What is on the table ?")
    assert ids[0] == tokenizer.token_to_id(USER) and ids[-1] == tokenizer.token_to_id(ASSISTANT)
    assert tokenizer.decode(ids[1:-1]).strip() == "what is on the table ?"
    assert answer_ids(tokenizer, "") == []


def test_collate_puts_text_queries_and_end_in_order(tokenizer):
    rows = [
        ("pick the block", "pick up the red block .", True),
        ("pick the block", "", True),
        ("what is on the table ?", "a red block .", False),
    ]
    batch = collate(tokenizer, rows, QUERIES, VOCABULARY)
    end = tokenizer.token_to_id(END)
    queries = list(range(VOCABULARY, VOCABULARY + QUERIES))
    for row, (question, answer, acts) in enumerate(rows):
        before, text = prompt_ids(tokenizer, question), answer_ids(tokenizer, answer)
        expected = before + text + (queries if acts else []) + [end]
        length = len(expected)
        assert batch.ids[row, :length].tolist() == expected
        assert batch.mask[row].tolist() == [1] * length + [0] * (batch.ids.shape[1] - length)
        labels = [IGNORE] * len(before) + expected[len(before) :]
        assert batch.labels[row, :length].tolist() == labels
        assert (batch.labels[row, length:] == IGNORE).all()
        start = len(before) + len(text) if acts else -1
        assert batch.query_start[row] == start
        if acts:
            assert batch.ids[row, start : start + QUERIES].tolist() == queries


# Reasoning


@torch.inference_mode()
def test_cached_reading_then_queries_is_one_uncached_pass(model, tokenizer, images):
    question, answer = "pick the block", "pick up the red block ."
    ids = prompt_ids(tokenizer, question) + answer_ids(tokenizer, answer)
    cache, hidden = model.read(images[:1], torch.tensor([ids]))
    latent = model.latent_action(cache)
    text = collate(tokenizer, [(question, answer, True)], QUERIES, VOCABULARY)
    whole, _ = model(images[:1], text)
    assert latent.shape == (1, QUERIES, CONFIG.backbone.text_width)
    torch.testing.assert_close(latent, whole, atol=1e-5, rtol=1e-5)
    embeddings = torch.cat([model._encode(images[:1]), model.embed(torch.tensor([ids]))], dim=1)
    torch.testing.assert_close(hidden, model.backbone.run(embeddings)[:, -1:], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_of_a_batch_do_not_see_each_others_padding(model, tokenizer, images):
    rows = [("pick the block", "", True), ("put the can in the bowl", "put the can .", True)]
    together, _ = model(images, collate(tokenizer, rows, QUERIES, VOCABULARY))
    for row in range(2):
        text = collate(tokenizer, rows[row : row + 1], QUERIES, VOCABULARY)
        alone, _ = model(images[row : row + 1], text)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_latent_actions_are_those_of_the_rows_with_queries(model, tokenizer, images):
    rows = [("what is on the table ?", "a red block .", False), ("pick the block", "", True)]
    latent, loss = model(images, collate(tokenizer, rows, QUERIES, VOCABULARY))
    alone, _ = model(images[1:], collate(tokenizer, rows[1:], QUERIES, VOCABULARY))
    assert latent.shape[0] == 1 and loss > 0
    torch.testing.assert_close(latent, alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_queries_see_instruction_and_image(model, tokenizer, images):
    def latent(question, row):
        cache, _ = model.read(
            images[row : row + 1], torch.tensor([prompt_ids(tokenizer, question)])
        )
        return model.latent_action(cache)

    first = latent("pick the red block", 0)
    assert (latent("pick the can", 0) - first).abs().max() > 1e-4
    assert (latent("pick the red block", 1) - first).abs().max() > 1e-4


class Spoken:
    """Makes a model say given tokens, whatever it reads, by its scores."""

    def __init__(self, tokens: list[int]):
        self.tokens = list(tokens)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(VOCABULARY + QUERIES)
        scores[self.tokens.pop(0)] = 1.0
        return scores


@pytest.mark.parametrize(
    ("spoken", "heard"),
    [
        ([7, 8, VOCABULARY, 9], [7, 8]),  # the first action query ends the text
        ([7, 4, 9], [7]),  # so does the end token
        ([VOCABULARY + 2], []),
        ([7, 8, 9, 10, 11, 12], [7, 8, 9, 10]),  # the limit
    ],
)
def test_generation_stops(model, tokenizer, images, monkeypatch, spoken, heard):
    cache, hidden = model.read(images[:1], torch.tensor([prompt_ids(tokenizer, "hello")]))
    before = cache.get_seq_length()
    monkeypatch.setattr(model, "logits", Spoken(spoken))
    assert model.generate(cache, hidden, {tokenizer.token_to_id(END)}, limit=4) == heard
    assert cache.get_seq_length() == before + len(heard), "the stop token stays outside"


@torch.inference_mode()
def test_generation_is_greedy_and_its_cache_serves_the_queries(model, tokenizer, images):
    ids = prompt_ids(tokenizer, "what is on the table ?")
    cache, hidden = model.read(images[:1], torch.tensor([ids]))
    tokens = model.generate(cache, hidden, set(), limit=5)
    latent = model.latent_action(cache)
    again, hidden = model.read(images[:1], torch.tensor([ids + tokens]))
    torch.testing.assert_close(latent, model.latent_action(again), atol=1e-5, rtol=1e-5)
    fresh, hidden = model.read(images[:1], torch.tensor([ids]))
    for token in tokens:
        assert int(model.logits(hidden[0, -1]).argmax()) == token
        hidden = model.backbone.run(model.embed(torch.tensor([[token]])), cache=fresh)


def test_query_rows_lie_beside_the_vocabulary(model):
    ids = torch.tensor([[3, VOCABULARY, VOCABULARY + QUERIES - 1]])
    embedded = model.embed(ids)
    torch.testing.assert_close(embedded[0, 0], model.backbone.embed_text(ids[0, :1])[0])
    torch.testing.assert_close(embedded[0, 1:], model.query_embedding[[0, -1]])
    scores = model.logits(torch.randn(2, CONFIG.backbone.text_width))
    assert scores.shape == (2, VOCABULARY + QUERIES)


def test_joint_loss_reaches_every_part(tokenizer, images):
    torch.manual_seed(0)
    model = InstructVLA(CONFIG, 10, 16, 7)
    text = collate(
        tokenizer, [("pick", "", True), ("what ?", "a can .", False)], QUERIES, VOCABULARY
    )
    expert_images = torch.randint(0, 256, (1, 2, 3, 96, 96), dtype=torch.uint8)
    flow, words, scores = model.loss(
        images, text, expert_images, torch.randn(1, 10), torch.randn(1, 16, 7), 2
    )
    assert scores.shape == (1, 2, CONFIG.expert.keypoints, 144)
    flow.backward(retain_graph=True)
    assert model.reasoning.query_embedding.grad.abs().sum() > 0, "the flow trains the queries"
    vision = model.reasoning.backbone.model.model.vision_tower
    assert sum(p.grad.abs().sum() for p in vision.parameters() if p.grad is not None) > 0
    assert model.reasoning.query_output.grad is None, "scores belong to the text alone"
    words.backward()
    assert model.reasoning.query_output.grad.abs().sum() > 0
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None and "mask_token" not in name
    ]
    assert not silent


# Configuration


def test_configurations_survive_their_file(tmp_path):
    for config in PRESETS.values():
        write_config(config, tmp_path)
        assert read_config(tmp_path) == config


def test_wrong_configurations_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="unknown preset 'huge'; known: nano, test"):
        preset("huge")
    with pytest.raises(CheckpointError, match=r"config\.expert: unknown depth; known: .*layers"):
        from_dict(InstructVLAConfig, {"expert": {"depth": 3}})
    with pytest.raises(CheckpointError, match="unknown backbone 'gpt'"):
        Backbone(BackboneConfig(kind="gpt"))
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        read_config(tmp_path)


def test_lists_in_files_become_tuples():
    config = from_dict(
        InstructVLAConfig, {"vlm_cameras": ["front"], "expert": {"head_widths": [8]}}
    )
    assert config.vlm_cameras == ("front",)
    assert config.expert == ActionExpertConfig(head_widths=(8,))


def test_image_tokens_are_as_many_as_configured(model, images):
    assert model.backbone.encode_images(images[:, 0]).shape == (
        2, CONFIG.backbone.image_tokens, CONFIG.backbone.text_width
    )  # fmt: skip
    cache = DynamicCache()
    model.backbone.run(model.embed(torch.tensor([[3, 4]])), cache=cache)
    assert cache.get_seq_length() == 2
