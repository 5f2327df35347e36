"""BLEU, METEOR, CIDEr and sentence similarity of answers, as InstructVLA's authors compute them.

The first three are pycocoevalcap's (MS COCO's), after Stanford's tokenizer, which is a Java program
as METEOR is. Similarity is the cosine of two embeddings, by models of sentence-transformers, and by
those that have none of its files, such as SimCSE, the pooled output (InstructVLA, table 5).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla.core.shown import brief
from vla.core.text import one_line
from vla.evaluation.answer_texts import GivenAnswer, by_kind, comparable
from vla.evaluation.errors import AnswerError

INSTALL = "pip install 'vla_ros[metrics]'"
_BATCH = 64


@dataclass(frozen=True)
class TextScores:
    """Scores of the answers of one kind."""

    kind: str
    answers: int
    bleu_1: float  # 0 to 1, of the whole corpus, as all up to METEOR
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float
    cider: float  # 0 to 10
    # Mean cosine by model.
    similarity: dict[str, float] = field(default_factory=dict)


def require_metrics() -> None:
    """Raises AnswerError, which says what to install, where the metrics can't be computed."""
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise AnswerError(f"BLEU, METEOR and CIDEr need pycocoevalcap: {INSTALL}") from error
    if shutil.which("java") is None:
        raise AnswerError(
            "METEOR and the tokenizer are Java programs, and there is no 'java': install one, such "
            "as Debian's default-jre-headless"
        )


def score_answers(answers: Sequence[GivenAnswer], models: Sequence[str] = ()) -> list[TextScores]:
    """The scores of each kind.

    models: of sentence similarity, folders or names at the Hugging Face hub. Raises AnswerError
    where something is not installed or a model can't be loaded.
    """
    require_metrics()
    embedders = {name: _Embedder(name) for name in models}
    return [_scores(kind, own, embedders) for kind, own in by_kind(answers).items()]


def _scores(kind: str, answers: list[GivenAnswer], embedders: dict[str, _Embedder]) -> TextScores:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    said = [comparable(entry.response) for entry in answers]
    meant = [comparable(entry.gt) for entry in answers]
    tokenizer = PTBTokenizer()
    given, references = (
        tokenizer.tokenize({index: [{"caption": text}] for index, text in enumerate(texts)})
        for texts in (said, meant)
    )
    bleu, _ = Bleu(4).compute_score(references, given, verbose=0)
    meteor, _ = Meteor().compute_score(references, given)
    cider, _ = Cider().compute_score(references, given)
    similarity = {name: embedder.similarity(said, meant) for name, embedder in embedders.items()}
    bleu_1, bleu_2, bleu_3, bleu_4 = map(float, bleu)
    return TextScores(
        kind,
        len(answers),
        bleu_1,
        bleu_2,
        bleu_3,
        bleu_4,
        float(meteor),
        float(cider),
        similarity,
    )


class _Embedder:
    """A model that turns sentences into vectors. Raises AnswerError."""

    def __init__(self, name: str):
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.util import is_sentence_transformer_model
        except ImportError as error:
            raise AnswerError(
                f"sentence similarity needs sentence-transformers: {INSTALL}"
            ) from error
        from transformers import AutoModel, AutoTokenizer

        try:
            self._sentences = None
            if is_sentence_transformer_model(name):
                self._sentences = SentenceTransformer(name, device="cpu")
            else:
                self._tokenizer = AutoTokenizer.from_pretrained(name)
                self._model = AutoModel.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise AnswerError(
                f"cannot load the model {brief(name)} ({one_line(error, 100)}); give a folder, or "
                "fetch it first with 'hf download'"
            ) from error

    def similarity(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """The mean cosine of texts and their references."""
        one, other = self._vectors(texts), self._vectors(references)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return float(np.mean(np.sum(one * other, axis=1) / np.maximum(lengths, 1e-12)))

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [N, D]."""
        if self._sentences is not None:
            return np.asarray(self._sentences.encode(list(texts), show_progress_bar=False))
        import torch

        found = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                found.append(self._model(**batch).pooler_output.numpy())
        return np.concatenate(found)


def score_table(scores: Sequence[TextScores]) -> str:
    """The scores as text, one kind a line; in percent but for CIDEr, as the paper prints them."""
    models = list(dict.fromkeys(name for entry in scores for name in entry.similarity))
    names = [Path(name).name for name in models]
    titles = "".join(f"  {name}" for name in names)
    lines = [f"kind         answers  BLEU-1  BLEU-4  METEOR  CIDEr{titles}"]
    for entry in scores:
        similar = "".join(
            f"  {100 * entry.similarity[model]:>{len(name)}.1f}"
            for model, name in zip(models, names, strict=True)
        )
        lines.append(
            f"{entry.kind:<12} {entry.answers:>7}  {100 * entry.bleu_1:>6.1f}  "
            f"{100 * entry.bleu_4:>6.1f}  {100 * entry.meteor:>6.1f}  {entry.cider:>5.2f}{similar}"
        )
    return "\n".join(lines)
