"""RoboVLMs: a backbone, learned tokens, and a head that reads them over a window of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from vla.datasets.grounding import EVENTS
from vla.policies.backbones import Backbone, Images, TokenCache, build_backbone
from vla.policies.heads.action_tokens import ActionTokens
from vla.policies.heads.outputs import Denoiser, Diffusion, Flow, Regression
from vla.policies.heads.trunks import FcTrunk, GptTrunk, LstmTrunk
from vla.policies.images import blank, fit_images
from vla.policies.robovlms.config import RoboVLMConfig
from vla.policies.robovlms.mixture import MixtureHead, Prefix
from vla.policies.robovlms.pointing import VALUES, Pointing, pointing_loss
from vla.policies.robovlms.resampler import PerceiverResampler
from vla.policies.robovlms.sequence import LEARNED, STATE, Rows
from vla.policies.sequence import IGNORE, IMAGE, on_device


@dataclass
class FrameBatch:
    """F frames in B windows of up to W."""

    slots: torch.Tensor  # bool [B, W]: which slots of the windows have a frame
    state: torch.Tensor  # [F, S], normalised
    actions: torch.Tensor  # [F, H, A], normalised
    steps: torch.Tensor  # bool [F, H]: before the episode's end
    used: torch.Tensor  # bool [F, A]: dimensions that the frame's robot has
    # [V, C, E, 2], of the V frames that are seen: pixels where the gripper acts next, see
    # vla.datasets.grounding.
    places: torch.Tensor | None = None
    seen: torch.Tensor | None = None  # bool [B], False for masked windows; None where all are seen


@dataclass
class RobotBatch:
    """Windows of frames, or conversations, which have none."""

    images: torch.Tensor  # uint8 [N, 3, H, W], in the order of the rows' image tokens
    rows: Rows
    frames: FrameBatch | None = None

    def to(self, device: str | torch.device) -> RobotBatch:
        """The batch on another device."""
        return on_device(self, device)

    @property
    def sees(self) -> bool:
        """Whether it has images."""
        return len(self.images) > 0

    def with_blank(self) -> RobotBatch:
        """See vla.policies.collation.SeeingBatch."""
        return replace(self, images=blank(self.images))


class PolicyHead(nn.Module):
    """A trunk over the window, and what makes a chunk of its newest state."""

    trunk: FcTrunk | LstmTrunk | GptTrunk
    output: Regression | Flow | Diffusion

    def __init__(self, config: RoboVLMConfig, horizon: int, binary: tuple[bool, ...]):
        """binary: which of the action's dimensions are open or closed."""
        super().__init__()
        head, structure = config.head, config.structure
        width = config.backbone.width * structure.latent
        if config.pointing.width:
            width += len(config.cameras) * len(EVENTS) * VALUES
        self.width = width  # of a frame's features
        hidden = head.hidden * structure.latent
        if head.trunk == "fc":
            self.trunk = FcTrunk(width, hidden)
        elif head.trunk == "lstm":
            self.trunk = LstmTrunk(width, hidden, head.layers)
        else:
            self.trunk = GptTrunk(
                width, hidden, head.layers, head.heads, structure.window, head.dropout
            )
        shape = horizon, len(binary)
        if head.output == "regression":
            self.output = Regression(hidden, head.widths, horizon, binary, config.loss)
            return
        denoiser = Denoiser(
            hidden, *shape, head.denoiser_width, head.denoiser_layers, head.denoiser_heads
        )
        if head.output == "flow":
            self.output = Flow(denoiser, shape, config.flow)
        else:
            self.output = Diffusion(denoiser, shape, head.diffusion_steps, config.flow.steps)


def make_head(
    backbone: Backbone, config: RoboVLMConfig, horizon: int, binary: tuple[bool, ...]
) -> PolicyHead | MixtureHead:
    """What makes chunks of what a backbone has read."""
    if not config.mixture.width:
        return PolicyHead(config, horizon, binary)
    flow = config.flow if config.head.output == "flow" else None
    return MixtureHead(backbone, config.mixture, horizon, binary, flow, config.loss)


class RoboVLM(nn.Module):
    """Any backbone in one of four structures (RoboVLMs, section III.C)."""

    head: PolicyHead | MixtureHead
    action_token: nn.Parameter
    row_embedding: nn.Parameter
    row_output: nn.Parameter

    def __init__(
        self, config: RoboVLMConfig, state_size: int, horizon: int, binary: tuple[bool, ...]
    ):
        super().__init__()
        self.config, self.horizon, self.action_size = config, horizon, len(binary)
        self.backbone = build_backbone(config.backbone, config.lora)
        width = config.backbone.width
        if config.use_state:
            self.state_token = nn.Linear(state_size, width)
        if config.discrete:
            self.tokens = action_tokens(config)
            if config.appends_rows:
                rows = config.action_tokens.bins
                self.row_embedding = nn.Parameter(torch.randn(rows, width) * 0.02)
                self.row_output = nn.Parameter(torch.randn(rows, width) * 0.02)
        else:
            if config.learned:
                # One vector for all learned tokens, zero at first, as published.
                self.action_token = nn.Parameter(torch.zeros(width))
            self.head = make_head(self.backbone, config, horizon, binary)
        if config.pointing.width:
            self.pointing = Pointing(width, config.pointing.width, config.image_tokens)
        if config.resampler.tokens:
            self.vision_resampler = PerceiverResampler(width, config.resampler)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """What the backbone takes [N, I, F] of uint8 images [N, 3, H, W]; of none, nothing."""
        if not len(images):
            return images
        images = fit_images(images, self.config.backbone.image_size)
        tokens = self.backbone.encode_images(images)
        if not self.config.resampler.tokens:
            return tokens
        # Of backbones whose layers take features of their own, the resampler reads each level.
        levels = tokens.unflatten(-1, (-1, self.config.backbone.width)).transpose(1, 2)
        resampled = self.vision_resampler(levels.flatten(0, 1))  # [N * L, I, D]
        return resampled.unflatten(0, levels.shape[:2]).transpose(1, 2).flatten(2)

    def embed(self, ids: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        """Embeddings [R, T, D] of ids [R, T] and states [F, S]; `Backbone.run` places images."""
        vocabulary = self.config.backbone.vocabulary
        text = (ids >= 0) & (ids < vocabulary)
        embeddings = self.backbone.embed_text(ids.masked_fill(~text, 0))
        if state is not None and self.config.use_state:
            tokens = self.state_token(state).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter((ids == STATE)[..., None], tokens)
        if self.config.appends_rows:
            rows = self.row_embedding[(ids - vocabulary).clamp(min=0)].to(embeddings.dtype)
            embeddings = torch.where((ids >= vocabulary)[..., None], rows, embeddings)
        if self.config.learned:
            learned = self.action_token.to(embeddings.dtype)
            embeddings = torch.where((ids == LEARNED)[..., None], learned, embeddings)
        return embeddings

    def hidden_states(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        prefix: torch.Tensor,
        image_tokens: torch.Tensor,
        state: torch.Tensor | None,
        cache: TokenCache | None = None,
    ) -> torch.Tensor:
        """Final hidden states [R, T, D] of rows."""
        structure = self.config.structure
        counted: torch.Tensor = mask
        attended: torch.Tensor | None = mask
        if structure.token_place == "before_last":
            # The published place of learned tokens counts the padding before them.
            counted = torch.ones_like(mask)
        else:
            attended = self.backbone.mask_of(mask)
        positions = self.backbone.positions(self._laid_out(ids), counted)
        images = Images(image_tokens, ids == IMAGE) if len(image_tokens) else None
        seen = prefix if structure.both_ways else torch.zeros_like(prefix)
        return self.backbone.run(self.embed(ids, state), positions, attended, cache, seen, images)

    def _laid_out(self, ids: torch.Tensor) -> torch.Tensor:
        """[R, T], True on tokens that have places in an image; a resampler's have none."""
        return (ids == IMAGE) & (not self.config.resampler.tokens)

    def frame_features(
        self, rows: Rows, image_tokens: torch.Tensor, state: torch.Tensor | None
    ) -> torch.Tensor:
        """Features [F, G] of the rows' frames, in order: learned tokens, and what points."""
        return self._features(rows, image_tokens, state)[0]

    def _features(
        self, rows: Rows, image_tokens: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Features [F, G]; scores and places of the pointing in the V frames that are seen."""
        hidden = self.hidden_states(rows.ids, rows.mask, rows.prefix, image_tokens, state)
        if not self.config.learned:
            return self._pooled(rows, hidden), None, None
        learned = hidden[rows.ids == LEARNED].unflatten(0, (-1, self.config.structure.latent))
        if not self.config.pointing.width:
            return learned.flatten(1), None, None
        seen, scores, found = self._seen_frames(rows), None, None
        shape = len(learned), len(self.config.cameras), len(EVENTS), VALUES
        places = learned.new_zeros(shape, dtype=torch.float32)
        if len(image_tokens):
            each = -1, len(self.config.cameras), self.config.image_tokens
            tokens = hidden[rows.ids == IMAGE].unflatten(0, each)  # [V, C, I, D]
            scores, found = self.pointing(learned[seen].mean(dim=1), tokens)
            places[seen] = found.float()
        return torch.cat([learned.flatten(1), places.flatten(1)], dim=1), scores, found

    def _seen_frames(self, rows: Rows) -> torch.Tensor:
        """Bool [F]: which frames of the rows, in order, have image tokens; a row is of one kind."""
        frames = (rows.ids == LEARNED).sum(dim=1) // self.config.structure.latent
        return (rows.ids == IMAGE).any(dim=1).repeat_interleave(frames)

    def read(self, rows: Rows, image_tokens: torch.Tensor, state: torch.Tensor | None) -> Prefix:
        """What the backbone's layers hold of prompts, for an expert beside them."""
        cache = self.backbone.new_cache()
        self.hidden_states(rows.ids, rows.mask, rows.prefix, image_tokens, state, cache)
        assert isinstance(cache.adapted, DynamicCache)
        return Prefix(cache.adapted, rows.mask, self._next_position(rows))

    def _next_position(self, rows: Rows) -> torch.Tensor:
        """[R]: of the token behind each row."""
        positions = self.backbone.positions(self._laid_out(rows.ids), rows.mask)
        last = positions.masked_fill(rows.mask == 0, 0).amax(dim=-1)
        last = last.amax(dim=0) if last.ndim == 2 else last  # some count along several axes
        return last + 1

    def _pooled(self, rows: Rows, hidden: torch.Tensor) -> torch.Tensor:
        """Features [F, latent * D]: the largest values of each frame's tokens, in groups."""
        kind, is_image = self.config.structure.token_source, rows.ids == IMAGE
        wanted = {"text": ~is_image, "vision": is_image, "all": torch.ones_like(is_image)}[kind]
        features = []
        for row, numbers in enumerate(rows.prefix):
            for number in range(1, int(numbers.max()) + 1):
                tokens = hidden[row, wanted[row] & (numbers == number)]  # [T, D]
                pooled = F.adaptive_max_pool1d(tokens.T, self.config.structure.latent)
                features.append(pooled.T.flatten())
        return torch.stack(features)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [..., vocabulary], with those of appended action rows behind."""
        scores = self.backbone.logits(hidden)
        if not self.config.appends_rows:
            return scores
        return torch.cat([scores, hidden @ self.row_output.T.to(hidden.dtype)], dim=-1)

    def forward(
        self,
        batch: RobotBatch,
        flow_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of the frames, or "text" of conversations; means over the batch.

        action: what is minimised of a head, see vla.policies.heads.outputs, of each frame of a
        window. tokens: cross-entropy of action tokens, with token_accuracy and the error of the
        decoded values, token_error. Where windows are masked, masked_share: of the windows.
        """
        losses = self._losses(batch, flow_samples, generator)
        if batch.frames is not None and batch.frames.seen is not None:
            losses["masked_share"] = 1.0 - batch.frames.seen.float().mean()
        return losses

    def _losses(
        self, batch: RobotBatch, flow_samples: int, generator: torch.Generator | None
    ) -> dict[str, torch.Tensor]:
        image_tokens = self.encode_images(batch.images)
        rows, frames = batch.rows, batch.frames
        if frames is None or self.config.discrete:
            return self._text_losses(rows, image_tokens, frames)
        targets = frames.actions, frames.steps
        if isinstance(self.head, MixtureHead):
            prefix = self.read(rows, image_tokens, frames.state)
            return self.head.losses(prefix, *targets, flow_samples, generator, frames.used)
        features, scores, places = self._features(rows, image_tokens, frames.state)  # [F, G]
        windows = features.new_zeros(*frames.slots.shape, features.shape[-1])  # [B, W, G]
        windows[frames.slots] = features
        hidden = self.head.trunk(windows.to(next(self.head.parameters()).dtype))[frames.slots]
        losses = self.head.output.losses(hidden, *targets, flow_samples, generator, frames.used)
        if scores is not None and places is not None and frames.places is not None:
            size = batch.images.shape[-1]
            losses["grounding"] = pointing_loss(scores, places, frames.places, size)
        return losses

    def _text_losses(
        self, rows: Rows, image_tokens: torch.Tensor, frames: FrameBatch | None
    ) -> dict[str, torch.Tensor]:
        state = None if frames is None else frames.state
        hidden = self.hidden_states(rows.ids, rows.mask, rows.prefix, image_tokens, state)
        targets = rows.labels[:, 1:]
        wanted = targets != IGNORE
        scores, targets = self.logits(hidden[:, :-1][wanted]).float(), targets[wanted]
        loss, guess = F.cross_entropy(scores, targets), scores.argmax(dim=-1)
        accuracy = (guess == targets).float().mean()
        if frames is None:
            return {"text": loss, "text_accuracy": accuracy}
        known = self.tokens.rows
        is_action = (targets >= known.start) & (targets < known.stop)
        values, truth = (self.tokens.decode(x[is_action].cpu()) for x in (guess, targets))
        error = torch.as_tensor(abs(values - truth).mean(), dtype=loss.dtype, device=loss.device)
        return {"tokens": loss, "token_accuracy": accuracy, "token_error": error}

    @torch.no_grad()
    def generate_actions(
        self, rows: Rows, image_tokens: torch.Tensor, state: torch.Tensor | None
    ) -> torch.Tensor:
        """Chunks [R, H, A] of discrete actions: greedy, among action tokens alone, on a cache.

        rows: prompts of equal length.
        """
        allowed = torch.tensor(self.tokens.rows, device=rows.ids.device)
        count = self.horizon * self.action_size
        chosen = self._continue(rows, image_tokens, state, allowed, count)
        values = self.tokens.decode(chosen.cpu())
        return torch.from_numpy(values).float().unflatten(-1, (self.horizon, self.action_size))

    @torch.no_grad()
    def generate_text(
        self, rows: Rows, image_tokens: torch.Tensor, end: int, most: int
    ) -> list[int]:
        """Token ids of an answer to the one row's question: greedy, up to the end token."""
        words = torch.arange(self.config.backbone.vocabulary, device=rows.ids.device)
        chosen = self._continue(rows, image_tokens, None, words, most, end)
        return chosen[0].tolist()

    def _continue(
        self,
        rows: Rows,
        image_tokens: torch.Tensor,
        state: torch.Tensor | None,
        allowed: torch.Tensor,
        most: int,
        end: int | None = None,
    ) -> torch.Tensor:
        """Tokens [R, n] that go on after rows of equal length, each the best of those allowed.

        end: before which they stop, in all rows at once.
        """
        cache = self.backbone.new_cache()
        first, mask = self._next_position(rows), rows.mask
        hidden = self.hidden_states(rows.ids, mask, rows.prefix, image_tokens, state, cache)[:, -1]
        chosen = rows.ids[:, :0]
        for index in range(most):
            token = allowed[self.logits(hidden)[:, allowed].argmax(dim=-1)]  # [R]
            if end is not None and (token == end).all():
                break
            chosen = torch.cat([chosen, token[:, None]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            embeddings = self.embed(token[:, None], None)
            positions = self.backbone.text_positions((first + index)[:, None])
            hidden = self.backbone.run(embeddings, positions, mask, cache)[:, -1]
        return chosen


def action_tokens(config: RoboVLMConfig) -> ActionTokens:
    """The rows that stand for values."""
    tokens, vocabulary = config.action_tokens, config.backbone.vocabulary
    if tokens.rows == "appended":
        return ActionTokens.appended(vocabulary, tokens.bins)
    return ActionTokens.reused(vocabulary, tokens.bins, tokens.special, tokens.offset)
