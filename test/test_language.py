"""The language side: tokens, training rows, and the cache that thinking and acting share."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.policies.backbones import build_backbone
from vla.policies.checkpoint import read_config, write_config
from vla.policies.config import BackboneConfig, CheckpointError, LoraConfig, from_dict
from vla.policies.instructvla.config import ActionExpertConfig, InstructVLAConfig
from vla.policies.instructvla.presets import PRESETS
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.instructvla.vision_language_action import (
    ActingRows,
    InstructVLA,
    InstructVLABatch,
)
from vla.policies.plain_text import TextTokenizer
from vla.policies.registry import preset
from vla.policies.sequence import (
    IGNORE,
    IMAGE,
    PromptRow,
    answer_ids,
    collate,
    plain_words,
    prompt_ids,
    tidy,
)
from vla.policies.tokenizer import (
    ASSISTANT,
    END,
    SPECIAL,
    USER,
    load_tokenizer,
    train_tokenizer,
)

CONFIG = preset("test")
VOCABULARY = CONFIG.backbone.vocabulary
QUERIES = CONFIG.num_queries
IMAGE_TOKENS = CONFIG.backbone.image_tokens


SENTENCES = ["pick up the red block .", "what is on the table ?", "put the can in the bowl ."] * 3
TOKENIZER = train_tokenizer(SENTENCES, VOCABULARY)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    torch.manual_seed(0)
    return ReasoningModel(CONFIG).eval()


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=generator)


# Tokenizer


@settings(max_examples=80)
@given(st.text(min_size=1, max_size=40))
def test_any_text_survives_the_tokens(text):
    ids = TextTokenizer(TOKENIZER).encode(text=text)
    assert max(ids) < VOCABULARY
    # Of noncharacters, and of nothing else, another character is left.
    text = re.sub("[\ufdd0-\ufdef]", "\ufffd", text)
    assert TOKENIZER.decode(ids).removeprefix(" ") == text.removeprefix(" ")


def test_known_words_are_short_and_special_tokens_come_first(tokenizer, tmp_path):
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert TOKENIZER.get_vocab_size() <= VOCABULARY
    assert len(answer_ids(tokenizer, CONFIG.backbone.chat, "pick up the red block .")) < 12
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    text = "Drücke 3 Knöpfe"
    again = load_tokenizer(tmp_path)
    assert again.encode(text).ids == TOKENIZER.encode(text).ids


def test_missing_and_broken_tokenizers_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        load_tokenizer(tmp_path)


# Sequences


def ids_of(tokenizer, question, answer="", acts=False, images=1) -> list[int]:
    row = PromptRow(((question, answer),), acts, images)
    return prompt_ids(tokenizer, CONFIG.backbone, row, QUERIES)[0]


def batch_of(tokenizer, *rows: PromptRow):
    return collate(tokenizer, CONFIG.backbone, rows, QUERIES)


def test_prompt_ids_mark_whose_turn_it_is(tokenizer):
    ids = ids_of(tokenizer, "What is on the table?")
    assert ids[0] == tokenizer.token_to_id(USER) and ids[-1] == tokenizer.token_to_id(ASSISTANT)
    assert ids[1 : 1 + IMAGE_TOKENS] == [IMAGE] * IMAGE_TOKENS
    assert tokenizer.decode(ids[1 + IMAGE_TOKENS : -1]).strip() == "what is on the table ?"
    assert answer_ids(tokenizer, CONFIG.backbone.chat, "") == []
    assert ids_of(tokenizer, "hello", images=0).count(IMAGE) == 0


def test_words_are_tidied_and_back():
    assert tidy("put the can , please .") == "Put the can, please."
    assert plain_words("Put the can, please.") == "put the can , please ."


def test_collate_puts_text_queries_and_end_in_order(tokenizer):
    rows = [
        PromptRow((("pick the block", "pick up the red block ."),), acts=True),
        PromptRow((("pick the block", ""),), acts=True),
        PromptRow((("what is on the table ?", "a red block ."),), images=0),
    ]
    batch = batch_of(tokenizer, *rows)
    end = tokenizer.token_to_id(END)
    queries = list(range(VOCABULARY, VOCABULARY + QUERIES))
    for row, entry in enumerate(rows):
        question, answer = entry.turns[0]
        before = ids_of(tokenizer, question, images=entry.images)
        text = answer_ids(tokenizer, CONFIG.backbone.chat, answer)
        expected = before + text + (queries if entry.acts else []) + [end]
        length = len(expected)
        assert batch.ids[row, :length].tolist() == expected
        assert batch.mask[row].tolist() == [1] * length + [0] * (batch.ids.shape[1] - length)
        labels = [IGNORE] * len(before) + expected[len(before) :]
        assert batch.labels[row, :length].tolist() == labels
        assert (batch.labels[row, length:] == IGNORE).all()
        assert batch.query_start[row] == (len(before) + len(text) if entry.acts else -1)
        assert batch.prefix[row].sum() == len(before)


def test_every_answer_of_a_conversation_is_a_label(tokenizer):
    turns = (("what is there ?", "a can ."), ("pick it", ""))
    batch = batch_of(tokenizer, PromptRow(turns, acts=True))
    ids, labels = batch.ids[0], batch.labels[0]
    end = tokenizer.token_to_id(END)
    said = answer_ids(tokenizer, CONFIG.backbone.chat, "a can .")
    queries = list(range(VOCABULARY, VOCABULARY + QUERIES))
    assert labels[labels != IGNORE].tolist() == [*said, end, *queries, end]
    assert (ids == IMAGE).sum() == IMAGE_TOKENS, "the image is in the first turn alone"
    assert (ids == tokenizer.token_to_id(USER)).sum() == 2
    assert ids[batch.query_start[0]] == VOCABULARY


# Reasoning


def left_padded(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.inference_mode()
def test_cached_reading_then_queries_is_one_uncached_pass(model, tokenizer, images):
    question, answer = "pick the block", "pick up the red block ."
    reading = model.read(images[:1], *left_padded(ids_of(tokenizer, question, answer)))
    latent = model.latent_action(reading)
    whole, _, _, _ = model(
        images[:1], batch_of(tokenizer, PromptRow(((question, answer),), acts=True))
    )
    assert latent.shape == (1, QUERIES, CONFIG.backbone.width)
    torch.testing.assert_close(latent, whole, atol=1e-5, rtol=1e-5)
    at_once = model.act(images[:1], *left_padded(ids_of(tokenizer, question, answer, acts=True)))
    torch.testing.assert_close(at_once, whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_of_a_batch_do_not_see_each_others_padding(model, tokenizer, images):
    rows = [
        PromptRow((("pick the block", ""),), acts=True),
        PromptRow((("put the can in the bowl", "put the can ."),), acts=True),
    ]
    together, _, _, _ = model(images, batch_of(tokenizer, *rows))
    prompts = [prompt_ids(tokenizer, CONFIG.backbone, row, QUERIES)[0] for row in rows]
    padded = model.act(images, *left_padded(*prompts))
    for row in range(2):
        alone, _, _, _ = model(images[row : row + 1], batch_of(tokenizer, rows[row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_latent_actions_are_those_of_the_rows_with_queries(model, tokenizer, images):
    asks = PromptRow((("what is on the table ?", "a red block ."),))
    acts = PromptRow((("pick the block", ""),), acts=True)
    latent, loss, accuracy, _ = model(images, batch_of(tokenizer, asks, acts))
    alone, _, _, _ = model(images[1:], batch_of(tokenizer, acts))
    assert latent.shape[0] == 1 and loss > 0 and 0 <= accuracy <= 1
    torch.testing.assert_close(latent, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", ["sum", "layer", "two_pass"])
def test_training_without_a_mask_is_training_with_one(tokenizer, images, monkeypatch, gate):
    """A causal decoder's rows are padded behind, where none of their tokens looks."""
    lora = LoraConfig(("language", "action"), rank=4, alpha=8.0, gate=gate, head_width=8)
    torch.manual_seed(0)
    model = ReasoningModel(replace(CONFIG, lora=lora)).eval()  # no dropout
    long = PromptRow((("what is on the table ?", "a red block . the can ."),))
    batch = batch_of(tokenizer, PromptRow((("pick", ""),), acts=True), long)
    assert not batch.mask.all() and model.backbone.takes_masks_as_given
    found = []
    for unmasked in (True, False):
        monkeypatch.setattr(type(model.backbone), "takes_masks_as_given", unmasked)
        model.zero_grad()
        latents, loss, *_ = model(images, batch)
        (loss + latents.square().mean()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([latents.detach(), loss.detach(), *gradients])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_batch_of_text_alone_is_trained_on(model, tokenizer, images):
    talks = PromptRow((("what is red ?", "the block ."),), images=0)
    sees = PromptRow((("what is on the table ?", "a red block ."),))
    latent, loss, _, image_tokens = model(images[:0], batch_of(tokenizer, talks, talks))
    assert latent.shape == (0, QUERIES, CONFIG.backbone.width) and len(image_tokens) == 0
    loss.backward()
    assert loss > 0 and model.query_output.grad.isfinite().all()
    # The same row beside one with an image.
    with torch.no_grad():
        both, of_image = (
            model(images[:1], batch_of(tokenizer, *rows))[1] for rows in ((talks, sees), (sees,))
        )
        counts = [(batch_of(tokenizer, row).labels != IGNORE).sum() for row in (talks, sees)]
    expected = (loss.detach() * counts[0] + of_image * counts[1]) / sum(counts)
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_queries_see_instruction_and_image(model, tokenizer, images):
    def latent(question, row):
        prompt = left_padded(ids_of(tokenizer, question, acts=True))
        return model.act(images[row : row + 1], *prompt)

    first = latent("pick the red block", 0)
    assert (latent("pick the can", 0) - first).abs().max() > 1e-4
    assert (latent("pick the red block", 1) - first).abs().max() > 1e-4


class Spoken:
    """Makes a model say given tokens, whatever it reads, by its scores."""

    def __init__(self, *rows: list[int]):
        self.rows = [list(row) for row in rows]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(self.rows), VOCABULARY + QUERIES)
        for row, tokens in enumerate(self.rows):
            scores[row, tokens.pop(0) if tokens else 0] = 1.0
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
    reading = model.read(images[:1], *left_padded(ids_of(tokenizer, "hello")))
    before = reading.mask.shape[1]
    monkeypatch.setattr(model, "logits", Spoken(spoken))
    assert model.generate(reading, {tokenizer.token_to_id(END)}, limit=4) == [heard]
    assert reading.mask.shape[1] == before + len(heard), "the stop token stays outside"
    assert reading.cache.adapted.get_seq_length() == before + len(heard)


@torch.inference_mode()
def test_generation_is_greedy_and_its_cache_serves_the_queries(model, tokenizer, images):
    prompt = ids_of(tokenizer, "what is on the table ?")
    reading = model.read(images[:1], *left_padded(prompt))
    (tokens,) = model.generate(reading, set(), limit=5)
    latent = model.latent_action(reading)
    again = model.read(images[:1], *left_padded(prompt + tokens))
    torch.testing.assert_close(latent, model.latent_action(again), atol=1e-5, rtol=1e-5)
    for count, token in enumerate(tokens):
        before = model.read(images[:1], *left_padded(prompt + tokens[:count]))
        assert int(model.logits(before.hidden)[0].argmax()) == token


@torch.inference_mode()
def test_rows_that_end_early_wait_for_the_others(model, tokenizer, images, monkeypatch):
    """Texts of unlike lengths in one batch give each row's own latent action."""
    prompts = [ids_of(tokenizer, "hello"), ids_of(tokenizer, "put the can in the bowl")]
    said = [[9, 10, 11], [12]]
    reading = model.read(images, *left_padded(*prompts))
    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", Spoken([*said[0], 4], [*said[1], 4]))
        assert model.generate(reading, {4}, limit=8) == said
    together = model.latent_action(reading)
    for row, (prompt, answer) in enumerate(zip(prompts, said, strict=True)):
        alone = model.read(images[row : row + 1], *left_padded(prompt + answer))
        latent = model.latent_action(alone)
        torch.testing.assert_close(together[row : row + 1], latent, atol=1e-5, rtol=1e-5)


def test_query_rows_lie_beside_the_vocabulary(model):
    ids = torch.tensor([[3, VOCABULARY, VOCABULARY + QUERIES - 1]])
    embedded = model.embed(ids)
    torch.testing.assert_close(embedded[0, 0], model.backbone.embed_text(ids[0, :1])[0])
    torch.testing.assert_close(embedded[0, 1:], model.query_embedding[[0, -1]])
    scores = model.logits(torch.randn(2, CONFIG.backbone.width))
    assert scores.shape == (2, VOCABULARY + QUERIES)


def test_joint_loss_reaches_every_part(tokenizer, images):
    torch.manual_seed(0)
    model = InstructVLA(CONFIG, 10, 16, 7)
    text = batch_of(
        tokenizer, PromptRow((("pick", ""),), acts=True), PromptRow((("what ?", "a can ."),))
    )
    expert_images = torch.randint(0, 256, (1, 2, 3, 96, 96), dtype=torch.uint8)
    state, actions, places = torch.randn(1, 10), torch.randn(1, 16, 7), torch.full((1, 2, 2, 2), 9)
    batch = InstructVLABatch(
        images, text, ActingRows(expert_images, state, actions, places.float())
    )
    losses = model(batch, flow_samples=2)
    assert losses["grounding"] > 0
    losses["flow"].backward(retain_graph=True)
    assert model.reasoning.query_embedding.grad.abs().sum() > 0, "the flow trains the queries"
    vision = model.reasoning.backbone.vision_parts["vision encoder"]
    assert sum(p.grad.abs().sum() for p in vision.parameters() if p.grad is not None) > 0
    assert model.reasoning.query_output.grad is None, "scores belong to the text alone"
    losses["text"].backward()
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
    with pytest.raises(CheckpointError, match=r"unknown preset 'huge'; known: .*nano"):
        preset("huge")
    with pytest.raises(CheckpointError, match=r"expert: unknown entries: depth; known: .*layers"):
        from_dict(InstructVLAConfig, {"expert": {"depth": 3}})
    with pytest.raises(CheckpointError, match="unknown backbone 'gpt'"):
        build_backbone(BackboneConfig(kind="gpt"))
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
    tokens = model.backbone.encode_images(images)
    assert tokens.shape == (2, IMAGE_TOKENS, CONFIG.backbone.width)
