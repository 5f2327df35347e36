"""RoboVLMs as their authors have them: transformers' models, torch's heads, and their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from tiny_backbones import save_released
from tiny_checkpoint import CONTRACT_PATH
from torch import nn
from transformers import AutoModelForImageTextToText, GPT2Config, GPT2Model, PreTrainedTokenizerFast

from vla.contract.embodiment import load_contract
from vla.policies.robovlms.config import ResamplerConfig
from vla.policies.robovlms.resampler import PerceiverResampler
from vla.policies.tokenizer import train_tokenizer

SIDE, HORIZON, WIDTH = 28, 4, 32
# What marks the beginning and end of their texts, and the words before an instruction.
TEXTS = {
    "kosmos2": ("<s>", "<grounding>An image of a robot ", "</s>"),
    "paligemma": ("<eos>", "", "\n"),
}
NAMES = {"kosmos2": "RoboKosMos", "paligemma": "RoboPaligemma"}
TYPES = {"fc": "FCDecoder", "lstm": "LSTMDecoder", "gpt": "GPTDecoder"}


class Mlp(nn.Module):
    def __init__(self, hidden: int, outputs: int, last: list[nn.Module]):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 16),
            nn.ReLU(), nn.Linear(16, outputs), *last,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


class Head(nn.Module):
    """act_head: features [B, W, F] to the arm's chunks and the gripper's logits."""

    def __init__(self, trunk: str, width: int, hidden: int, window: int, horizon: int = HORIZON):
        super().__init__()
        self.trunk, self.horizon = trunk, horizon
        if trunk == "fc":
            self.mlp = nn.Sequential(
                nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, hidden)
            )
        elif trunk == "lstm":
            self.rnn = nn.LSTM(width, hidden, 2, batch_first=True)
        else:
            self.fc = nn.Linear(width, hidden) if width != hidden else nn.Identity()
            self.gpt = GPT2Model(
                GPT2Config(vocab_size=5, n_positions=window, n_embd=hidden, n_layer=2, n_head=8)
            )
        self.actions = Mlp(hidden, 6 * horizon, [nn.Tanh()])
        self.gripper = Mlp(hidden, horizon, [])

    def hidden(self, features: torch.Tensor) -> torch.Tensor:
        if self.trunk == "fc":
            return self.mlp(features)
        if self.trunk == "lstm":
            return self.rnn(features)[0]
        return self.gpt(inputs_embeds=self.fc(features)).last_hidden_state

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(features)
        arm = self.actions(hidden).unflatten(-1, (self.horizon, 6))
        return arm, self.gripper(hidden)[..., None]

    def tensors(self) -> dict[str, torch.Tensor]:
        """With the masks that GPT-2 stored in their version of transformers."""
        state = dict(self.state_dict())
        if self.trunk == "gpt":
            state["gpt.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
            state["gpt.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        return {f"act_head.{name}": value for name, value in state.items()}


class Run:
    """A released run on disk, and what its modules make of frames."""

    def __init__(
        self,
        folder: Path,
        kind: str = "kosmos2",
        trunk: str = "lstm",
        history: str = "post",
        window: int = 3,
        latent: int = 1,
        hand: bool = True,
        resampler: bool = False,
        pooled: str = "",
    ):
        self.folder, self.kind, self.history = folder, kind, history
        self.window, self.latent, self.hand, self.pooled = window, latent, hand, pooled
        self.base = folder / "base"
        save_released(self.base, kind, tokenizer=False)
        begin, words, end = TEXTS[kind]
        fast = train_tokenizer(["An image of a robot pick up the red block\n"], 300)
        fast.add_special_tokens(["<s>", "</s>", "<eos>", "<grounding>"])
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=fast, eos_token="<eos>" if kind == "paligemma" else "</s>"
        )
        self.tokenizer.save_pretrained(self.base)
        self.model = AutoModelForImageTextToText.from_pretrained(self.base).eval()
        torch.manual_seed(5)
        self.resampler = PerceiverResampler(WIDTH, ResamplerConfig(5, 2, 1)) if resampler else None
        hidden = 16
        self.head = Head(trunk, WIDTH * latent, hidden * latent, window).eval()
        self.action_token = torch.randn(WIDTH)
        self.text = lambda instruction: f"{begin}{words}{instruction}{end}"
        self.config = {
            "robovlm_name": NAMES[kind],
            "parent": None,
            "window_size": window,
            "fwd_pred_next_n": HORIZON,
            "arm_gripper_loss_ratio": 0.01,
            "image_size": SIDE,
            "use_hand_rgb": hand,
            "use_vision_resampler": resampler,
            "norm_action": True,
            "norm_min": -0.65,
            "norm_max": 0.65,
            "learning_rate": 2e-5,
            "act_head": {
                "type": TYPES[trunk],
                "hidden_size": hidden,
                "action_dim": 7,
                "latent": latent,
                "action_space": "down_sample" if pooled else "continuous",
                "down_sample": "pooling" if pooled else "none",
                "token_source": pooled or None,
                "with_history": True,
                "history_type": history,
            },
        }
        contract = load_contract(CONTRACT_PATH)
        cameras = tuple(replace(c, width=SIDE, height=SIDE) for c in contract.cameras)
        self.contract = replace(contract, cameras=cameras, horizon=HORIZON)
        (folder / "robot.yaml").write_text(yaml.safe_dump(self.contract.to_dict()))
        self.write(self.tensors())
        self.write_config()

    def tensors(self) -> dict[str, torch.Tensor]:
        state = {f"backbone.{name}": value for name, value in self.model.state_dict().items()}
        state |= self.head.tensors()
        if not self.pooled:
            state["action_token"] = self.action_token
        if self.resampler is not None:
            own = self.resampler.state_dict()
            state |= {f"vision_resampler.{name}": value for name, value in own.items()}
        return state

    @property
    def file(self) -> Path:
        return self.folder / "last.pt"

    def write(self, tensors: dict[str, torch.Tensor], prefix: str = "model.") -> None:
        named = {prefix + name: value for name, value in tensors.items()}
        torch.save({"state_dict": named, "epoch": 4}, self.file)

    def write_config(self, **changes) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.config | changes))

    def words(self, target: Path, *more: str) -> list[str]:
        words = ["convert", "robovlms", str(self.file), str(target), "--backbone", str(self.base)]
        words += ["--config", str(self.folder / "config.json")]
        return [*words, "--contract", str(self.folder / "robot.yaml"), *more]

    # What their modules make of it

    def image_tokens(self, image: np.ndarray) -> torch.Tensor:
        values = json.loads((self.base / "preprocessor_config.json").read_text())
        mean, std = (torch.tensor(values[n])[:, None, None] for n in ("image_mean", "image_std"))
        pixels = ((torch.from_numpy(image).permute(2, 0, 1) / 255.0 - mean) / std)[None]
        if self.kind == "kosmos2":
            vision = self.model.vision_model
            seen = vision.model.post_layernorm(vision(pixel_values=pixels).last_hidden_state)
            tokens = self.model.image_to_text_projection(nn.functional.normalize(seen, dim=-1))[0]
        else:
            seen = self.model.model.vision_tower(pixels).last_hidden_state
            tokens = self.model.model.multi_modal_projector(seen) / WIDTH**0.5
        return tokens[0] if self.resampler is None else self.resampler(tokens)[0]

    def frame(self, images: dict[str, np.ndarray], instruction: str) -> tuple[torch.Tensor, ...]:
        """Embeddings of one frame [T, D]; which of them are learned, and of images."""
        ids = self.tokenizer(self.text(instruction), add_special_tokens=False).input_ids
        words = self.model.get_input_embeddings().weight[torch.tensor(ids)]
        seen = [self.image_tokens(images["front"])]
        if self.hand:
            seen.insert(0, self.image_tokens(images["wrist"]))
        learned = self.action_token.expand(0 if self.pooled else self.latent, -1)
        parts = [words[:1], *seen, words[1:-1], learned, words[-1:]]
        marks = [0, *[2] * len(seen), 0, 1, 0]
        kinds = torch.cat([torch.full((len(p),), m) for p, m in zip(parts, marks, strict=True)])
        return torch.cat(parts), kinds == 1, kinds == 2

    def hidden(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Final hidden states [B, T, D]: they give embeddings and a mask of tokens.

        Their version of Gemma multiplied embeddings itself.
        """
        language = (
            self.model.text_model.model
            if self.kind == "kosmos2"
            else self.model.model.language_model
        )
        embeddings = embeddings * (WIDTH**0.5 if self.kind == "paligemma" else 1.0)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        return language(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state

    @torch.no_grad()
    def chunk(self, frames: list[dict[str, np.ndarray]], instruction: str) -> np.ndarray:
        """The newest chunk [H, 7], the arm in -1 to 1, the gripper 0 or 1."""
        made = [self.frame(images, instruction) for images in frames]
        rows = torch.stack([embeddings for embeddings, _, _ in made])
        if self.history == "pre":
            rows = self.hidden(rows.flatten(0, 1)[None])[0].unflatten(0, (len(made), -1))
        else:
            rows = self.hidden(rows)
        features = []
        for hidden, (_, learned, of_images) in zip(rows, made, strict=True):
            if not self.pooled:
                features.append(hidden[learned].flatten())
                continue
            tokens = hidden[of_images] if self.pooled == "vision" else hidden
            pool = nn.AdaptiveMaxPool1d(self.latent)
            features.append(pool(tokens.T).T.flatten())
        arm, logits = self.head(torch.stack(features)[None])
        return torch.cat([arm[0, -1], (logits[0, -1] > 0).float()], dim=-1).numpy()
