"""Compiled passes: one graph each, equal to the plain ones, and none is made after the warm-up."""

import contextlib
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny_robovlm
import torch
from tiny_adapter import save_tiny_adapter
from tiny_checkpoint import save_tiny_checkpoint
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from tracing import graphs

from vla.control.committed import CommittedActions
from vla.policies import padded_prompts
from vla.policies.adapters import open_adapter
from vla.policies.backbones import KINDS
from vla.policies.compiled import RecordedGraphs, compiled, plain_passes, require_mode
from vla.policies.config import CheckpointError, LoraConfig
from vla.policies.instructvla.inference import ActionModel, Reasoner
from vla.policies.instructvla.reasoning import ReasoningModel
from vla.policies.instructvla.static_reasoning import StaticReasoning
from vla.policies.lora import lora_layers, merge_for_inference
from vla.policies.parts import ReasoningPart
from vla.policies.registry import preset
from vla.policies.sequence import IMAGE

GATES = ("sum", "two_pass", "layer")
STOP = {7, 8, 9}


def with_gate(gate: str):
    """The tiny policy with two experts, whose language model has one layer."""
    lora = LoraConfig(("language", "action"), rank=4, alpha=8.0, gate=gate, head_width=8)
    return replace(preset("test"), lora=lora)


def reasoning_model(config) -> ReasoningModel:
    torch.manual_seed(0)
    model = ReasoningModel(config).eval().requires_grad_(False)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.3)
    return model


def prompts(model: ReasoningModel, lengths):
    """An image, and for each length the tokens of a prompt with it and so many words."""
    generator = torch.Generator().manual_seed(1)
    backbone = model.config.backbone
    shape = (1, 3, backbone.image_size, backbone.image_size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    places = [IMAGE] * backbone.image_tokens
    words = torch.randint(10, 300, (max(lengths),), generator=generator).tolist()
    return image, [places + words[:length] for length in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
def test_passes_with_every_gate(gate, traced, monkeypatch):
    # One length, since each is traced.
    monkeypatch.setattr(padded_prompts, "ROOM", (200,))
    model = reasoning_model(with_gate(gate))
    merge_for_inference(model.backbone, gated=gate != "sum")
    vocabulary, count = model.config.backbone.vocabulary, model.config.num_queries
    queries = [*range(vocabulary, vocabulary + count)]
    image, rows = prompts(model, range(5, 205, 10))
    static = StaticReasoning(model, "inductor", len(rows[0]) + count, image.shape, 20)
    # A prompt to act on and one to answer, a token, a latent action on a text.
    assert len([*static.warm_up()]) == graphs() == 4
    for tokens in rows:
        ids = torch.tensor([tokens + queries])
        expected = model.act(image, ids, torch.ones_like(ids))
        torch.testing.assert_close(static.act(image, tokens + queries), expected, atol=1e-4, rtol=0)
    for tokens in (rows[0], rows[1], rows[-1]):
        ids = torch.tensor([tokens])
        read = model.read(image, ids, torch.ones_like(ids))
        (text,) = model.generate(read, STOP, 20)
        own = static.read(image, tokens)
        assert static.generate(own, STOP, 20) == text
        after = static.latent_action(), model.latent_action(read)
        torch.testing.assert_close(*after, atol=1e-4, rtol=0)
    assert graphs() == 4, "20 lengths of prompts made other graphs"


def test_a_text_ends_where_the_plain_one_does():
    model = reasoning_model(replace(with_gate("layer"), backbone=KINDS["eagle"].tiny()))
    image, (tokens,) = prompts(model, [12])
    static = StaticReasoning(model, "none", len(tokens), image.shape, 40)
    ids = torch.tensor([tokens])
    (whole,) = model.generate(model.read(image, ids, torch.ones_like(ids)), set(), 20)
    # At the first token, in the middle of those that are looked at together, and at their edge.
    for place in (0, 3, 8, 11):
        stop = {whole[place]}
        read = model.read(image, ids, torch.ones_like(ids))
        (text,) = model.generate(read, stop, 20)
        own = static.read(image, tokens)
        assert static.generate(own, stop, 20) == text
        after = static.latent_action(), model.latent_action(read)
        torch.testing.assert_close(*after, atol=1e-4, rtol=0)


def test_merged_experts_act_as_those_beside_the_layers():
    for gate in GATES:
        model = reasoning_model(with_gate(gate))
        image, (tokens,) = prompts(model, [12])
        ids = torch.tensor([tokens])
        before = model.act(image, ids, torch.ones_like(ids))
        merge_for_inference(model.backbone, gated=gate != "sum")
        after = model.act(image, ids, torch.ones_like(ids))
        torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
        for layer in lora_layers(model).values():
            assert layer.is_merged == (gate == "sum")
            layer.lora_b.zero_()
        # Experts that were merged are not run beside the layers any more.
        again = model.act(image, ids, torch.ones_like(ids))
        assert torch.equal(again, after) == (gate == "sum")


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A checkpoint with experts that are merged, and two adapters of it."""
    folder = tmp_path_factory.mktemp("merged")
    save_tiny_checkpoint(folder / "base", config=with_gate("sum"), scale=1.5)
    return folder / "base", *(
        save_tiny_adapter(folder / "base", folder / f"adapter{seed}", seed) for seed in (0, 1)
    )


def test_an_adapter_leaves_merged_experts_in_their_layers(merged):
    folder, one, two = merged
    seen = tiny_robovlm.observation(0).images
    part = Reasoner.from_pretrained(folder)
    experts = [*lora_layers(part.module).values()]
    assert experts and all(layer.is_merged for layer in experts)
    plain = part.latent_action(seen, "pick the red block")
    weights = {name: value.clone() for name, value in part.module.named_parameters()}
    fresh = Reasoner.from_pretrained(folder, adapter=two).latent_action(seen, "pick the red block")
    assert np.abs(fresh - plain).max() > 1e-3
    for adapter in (one, two):
        part.set_adapter(open_adapter(adapter))
    np.testing.assert_allclose(
        part.latent_action(seen, "pick the red block"), fresh, atol=1e-5, rtol=0
    )
    part.set_adapter(None)
    for name, value in part.module.named_parameters():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=0)


def chunk_of(part: ActionModel, latent, **asked):
    seen = tiny_robovlm.observation(1)
    return part.action_chunk(seen.images, seen.state, latent, seed=3, **asked)


@pytest.mark.slow
def test_after_the_warm_up_nothing_is_compiled(merged, traced, monkeypatch):
    monkeypatch.setattr(padded_prompts, "ROOM", (16, 64))
    folder, adapter, _ = merged
    seen = tiny_robovlm.observation(0).images
    plain = Reasoner.from_pretrained(folder), ActionModel.from_pretrained(folder)
    parts = (
        Reasoner.from_pretrained(folder, compile="inductor"),
        ActionModel.from_pretrained(folder, compile="inductor"),
    )
    for part in parts:
        assert all(isinstance(done, str) for done in part.warm_up())
    made = graphs()
    assert made == 2 * 2 + 2 + 2
    before = CommittedActions(np.full((8, 7), 0.01), 2)

    def use() -> list[object]:
        return [use_of(*plain), use_of(*parts)]

    def use_of(reasoner: Reasoner, action: ActionModel) -> list[np.ndarray | str]:
        latents = [
            reasoner.latent_action(seen, "red block " * words) for words in (0, 1, 2, 7, 30, 500)
        ]
        text, latent = reasoner.think_and_act(tiny_robovlm.observation(0), "pick the can")
        texts = [text, reasoner.ask(seen, "what is on the table ?"), reasoner.ask({}, "what ?")]
        chunks = [chunk_of(action, latent), action.action_chunk({}, np.zeros(10), latent, seed=1)]
        for bound in (None, 0.5, 4.0):
            chunks.append(chunk_of(action, latent, before=before, max_guidance=bound))
        return [*latents, latent, *texts, *chunks]

    results: list[list[object]] = []
    for change in (None, open_adapter(adapter)):
        for part in (*plain, *parts):
            part.set_adapter(change)
        # Nodes warm up in one thread and work in another one.
        thread = threading.Thread(target=lambda: results.append(use()))
        thread.start()
        thread.join()
    assert len(results) == 2 and graphs() == made
    for expected, found in results:
        for one, other in zip(expected, found, strict=True):
            if isinstance(one, str):
                assert one == other
            else:
                np.testing.assert_allclose(other, one, atol=1e-4, rtol=0)


class Replay:
    """A CUDA graph as the CPU can play it: the function again, with results where they were."""

    def __init__(self):
        self.runs = []

    def replay(self):
        for run in self.runs:
            run()


def test_recorded_graphs_run_on_their_own_memory(monkeypatch):
    # What a GPU offers, where there is none.
    calls, recording = [], []

    class Stream:
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def graph(given):
        recording.append(given)
        yield
        recording.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replay)
    monkeypatch.setattr(torch.cuda, "graph", graph)

    def double(value):
        calls.append(value.shape)
        result = value * 2
        for record in recording:
            record.runs.append(lambda: torch.mul(value, 2, out=result))
        return result

    run = RecordedGraphs(double)
    first, second = torch.tensor([1.0]), torch.tensor([5.0])
    assert run(first).tolist() == [2.0]
    made = len(calls)
    assert run(second).tolist() == [10.0] and first.tolist() == [1.0]
    assert len(calls) == made, "the same shapes are replayed, not run"
    assert run(torch.ones(2)).tolist() == [2.0, 2.0] and len(calls) == 2 * made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")
def test_nothing_waits_for_a_gpu_but_the_results(merged):
    parts = [
        kind.from_pretrained(merged[0], "cuda", compile="manual")
        for kind in (Reasoner, ActionModel)
    ]
    for part in parts:
        assert [*part.warm_up()]
    reasoner, action = parts
    images, tokens = torch.zeros(reasoner._static.images, dtype=torch.uint8).cuda(), [IMAGE] * 4
    noise = torch.zeros(1, action.horizon, 7).cuda()
    cameras = action._config.expert_cameras
    shape = (1, len(cameras), 3, *tiny_robovlm.observation(0).images[cameras[0]].shape[:2])
    seen = torch.zeros(shape, dtype=torch.uint8).cuda()
    latent, state = torch.zeros(1, 4, 32).cuda(), torch.zeros(1, 10).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        reasoner._static.act(images, tokens)
        reasoner._static._step()
        reasoner._static.latent_action()
        action._chunk(seen, latent, state, noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_modes_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="unknown compile 'fast'; known: none"):
        require_mode("fast", "cuda")
    with pytest.raises(CheckpointError, match="'manual' records CUDA graphs, and the device is"):
        require_mode("manual", "cpu")
    masked = replace(preset("test"), backbone=KINDS["paligemma"].tiny())
    folder = save_tiny_checkpoint(tmp_path / "masked", config=masked)
    with pytest.raises(CheckpointError, match="the passes of backbone 'paligemma' depend on"):
        ReasoningPart.from_pretrained(folder, compile="inductor")


def test_another_number_of_threads_compiles_nothing(traced):
    double = compiled(lambda value: value * 2, "inductor")
    with plain_passes():
        assert double(torch.ones(2)).tolist() == [2.0, 2.0]
    assert graphs() == 0
    assert double(torch.ones(2)).tolist() == [2.0, 2.0] and graphs() == 1


def test_what_was_compiled_is_kept_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # As torch sets it when its compiler is imported; then as the user does.
    for given, used in ((default_cache_dir(), tmp_path / "vla_ros/compiled"), ("/mine", "/mine")):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", given)
        compiled(torch.neg, "inductor")
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(used)
