"""How the compact towers are trained: words and pictures in one space, and words found in the picture.

    captions ── text tower ── pooled ┐
                                     ├─ symmetric cross-entropy: which caption is of which picture (CLIP, Radford 2021)
    views ── image tower ── pooled ──┘
                 │
                 ├─ places · pooled words of a phrase ── cross-entropy: is it here? (boxes of what the phrase names)
                 ├─ ground(places, tokens of the phrase) ── the same
                 └─ places, finer places ── linear ── cross-entropy with a detector's soft class scores (the teacher)

The second stage is `ground.py`'s.

A bag of words, the mean of an embedding of each token, learns the same beside it, to be compared with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from tokenizers import Tokenizer
from torch import Tensor, nn

from trifocal.data import TrainingPicture
from trifocal.detection.image_encoder import ImageEncoder
from trifocal.errors import OptionError
from trifocal.losses import contrastive
from trifocal.losses.detection import soft_cross_entropy
from trifocal.text.compact import TextTransformer, tokenize, train_tokenizer
from trifocal.text.grounding import GroundingHead
from trifocal.training.checkpoint import begin_with, by_one
from trifocal.training.ground import train_ground
from trifocal.training.image_text_batches import AllViews, Teacher, TowerBatch, TowerBatches, views_of
from trifocal.training.lesson import SEED, Given, LessonRun, Note, Report, TrainingTask, pictures_of, silent
from trifocal.types import TextEmbedding
from trifocal.utils.files import atomic_write

__all__ = ["Towers", "train_towers"]

BATCH = 32
WEIGHTS = {"captions": 1.0, "bag": 0.2, "where": 0.5, "ground": 1.0, "teacher": 1.0}
CLASSES = 80
PARTS = ("image.", "text.", "ground.", "bag.")  # that ship


class Towers(TrainingTask):
    """Both towers, the bag of words, and what only training needs."""

    weights = WEIGHTS
    ema = 0.995
    clip = 1.0
    held_out = 1

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab_size()
        self.image = ImageEncoder()
        self.text = TextTransformer(vocabulary)
        self.ground = GroundingHead(self.text.embedding)
        self.bag = nn.Embedding(vocabulary, self.text.embedding)
        self.scale = nn.Parameter(
            torch.tensor([2.3, 2.3])
        )  # logarithms: of cosines against captions and at places
        self.offset = nn.Parameter(torch.tensor(-4.0))
        self.coarse = nn.Linear(self.image.widths[2], CLASSES)
        self.fine = nn.Linear(self.image.widths[1], CLASSES)
        nn.init.constant_(self.coarse.bias, -5.0)
        nn.init.constant_(self.fine.bias, -5.0)

    def bag_of(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, T] → [B, D], of length 1."""
        return F.normalize((self.bag(ids) * mask[..., None]).sum(1), dim=-1)

    def losses(self, batch: TowerBatch) -> dict[str, Tensor]:
        """Each term by its name, before its weight."""
        seen = self.image(batch.x)
        said = [number for number, caption in enumerate(batch.captions) if caption]
        texts = [batch.captions[number] for number in said] + batch.phrases
        ids, mask = (t.to(batch.x.device) for t in tokenize(self.tokenizer, texts))
        words: TextEmbedding = self.text(ids, mask)
        pooled = F.normalize(words.pooled, dim=-1)
        captions, phrases = pooled[: len(said)], pooled[len(said) :]
        pictures = seen.pooled[said]
        bag = self.bag_of(ids[: len(said)], mask[: len(said)])
        at = torch.einsum("bhwd,bd->bhw", seen.places, phrases) * self.scale[1].exp() + self.offset
        ground = self.ground(seen.stages[2], words.of(slice(len(said), None)))
        terms = {
            "captions": contrastive(pictures, captions, self.scale[0].exp()),
            "bag": contrastive(pictures.detach(), bag, self.scale[0].exp().detach()),
            "where": F.binary_cross_entropy_with_logits(at, batch.where),
            "ground": F.binary_cross_entropy_with_logits(ground, batch.where),
        }
        if batch.seen is not None:
            fine, coarse = batch.seen
            terms["teacher"] = soft(self.coarse(seen.stages[2]), coarse) + soft(
                self.fine(seen.stages[1]), fine
            )
        return terms

    def measure(self, batches: Sequence[Given]) -> dict[str, float]:
        """Of one batch: how often a caption finds its own picture among all, and how well a phrase its place."""
        self.eval()
        ((batch,),) = batches
        seen = self.image(batch.x)
        ids, mask = (t.to(batch.x.device) for t in tokenize(self.tokenizer, batch.captions))
        pooled = F.normalize(self.text(ids, mask).pooled, dim=-1)
        row = {}
        for name, words in (("", pooled), ("bag_", self.bag_of(ids, mask))):
            rank = ranks(words @ seen.pooled.T)
            row[f"{name}recall_1"] = round(float((rank < 1).float().mean()), 4)
            row[f"{name}recall_5"] = round(float((rank < 5).float().mean()), 4)
        ids, mask = (t.to(batch.x.device) for t in tokenize(self.tokenizer, batch.phrases))
        words = self.text(ids, mask)
        for name, at in (
            ("where", torch.einsum("bhwd,bd->bhw", seen.places, F.normalize(words.pooled, dim=-1))),
            ("ground", self.ground(seen.stages[2], words)),
        ):
            inside, outside = at[batch.where > 0.9], at[batch.where < 0.1]
            row[f"{name}_auc"] = round(float((inside[:, None] > outside[None, ::7]).float().mean()), 4)
        return row


def soft(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with soft targets, summed over classes, less its least value; mean over places."""
    return soft_cross_entropy(logits.movedim(-1, 1), target.movedim(-1, 1))


def train_towers(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    stage: int = 1,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    resume: bool = False,
    every: float = 5.0,
    batch: int | None = None,
    precision: str = "auto",
    report: Report = silent,
    note: Note = silent,
) -> Path:
    """Trains the compact text tower and image tower.

    Args:
        data: shards or folders of pictures with records: captions, boxes, labels (see `read_pictures`).
        out: folder of the run: checkpoint.pt, log.csv, and towers.safetensors, .json and .csv, and tokenizer.json at the end.
        steps, minutes: the run's length; one of them.
        stage: 1 for all of it, 2 for `ground` alone.
        start: towers.safetensors to begin from, with its tokenizer.json beside it; the second stage needs it.
        teacher: PicoDet as ONNX, whose class scores teach the image tower; without it that term is left out.
        resume: go on from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: views a step; 32 if not said.
        precision: "auto", "bfloat16" or "float32"; see `choose_precision`. The second stage is in float32.
        report: called after each step with the fraction done and a line of text.
        note: called with a sentence that is to stay on the screen.

    Returns:
        The weights.

    Raises:
        OptionError: for a run without an end, pictures without captions, no checkpoint to resume, a second stage without
            towers to begin from.
    """
    if stage not in (1, 2) or stage == 2 and start is None:
        raise OptionError(
            "Towers have stages 1 and 2, and 2 begins --start from the towers.safetensors of 1."
        )
    training, held_out = pictures_of(data, steps, minutes, report)
    captions = [caption for picture in training for caption in picture.captions]
    if not captions or not any(picture.captions for picture in held_out):
        raise OptionError("Towers need captions: shards or folders where KEY.json stands beside KEY.jpg.")
    if start is None:
        tokenizer = train_tokenizer(captions)
    else:
        tokenizer = Tokenizer.from_str(Path(start).with_name("tokenizer.json").read_text("utf-8"))
    towers = Towers(tokenizer)
    if start is not None:
        begin_with(towers, start)
    if stage == 2 and precision == "bfloat16":
        raise OptionError("The second stage of towers trains in float32; leave --precision out.")
    run = LessonRun(
        towers, Path(out), steps, minutes, precision=precision if stage == 1 else "float32", note=note
    )
    if resume:
        run.resume()
    seer = None if teacher is None else Teacher(teacher)
    views = views_of(training, seer, progress=lambda f: report(0.0, f"the teacher looks, {f:.0%}"))
    others = views_of(captioned(held_out), None, ("whole",))
    batch = batch or BATCH
    average = run.average
    assert isinstance(average, Towers)
    found: dict[str, Any] = {"terms": {k: w for k, w in WEIGHTS.items() if seer or k != "teacher"}}
    if stage == 1:
        seed = SEED + run.progress.step + run.accelerator.process_index
        run.go(TowerBatches(views, batch, seed), AllViews(others), every, report)
    else:
        found = {"terms": {"ground": WEIGHTS["ground"]}}
        found |= train_ground(average, views, others, 60 * (minutes or 0), steps, SEED, report)
    path = run.out / "towers.safetensors"

    def export() -> None:
        facts = {"pictures": len(training), "views": len(views), "batch": batch, "stage": stage, **found}
        run.describe(path, data, teacher, start, parameters=write_towers(average, path), **facts)

    by_one(run.accelerator, export)
    return path


def captioned(pictures: Sequence[TrainingPicture]) -> list[TrainingPicture]:
    return [picture for picture in pictures if picture.captions]


def write_towers(towers: Towers, path: Path) -> dict[str, int]:
    """PARTS as float16, and tokenizer.json beside them. Returns the number of parameters of each."""
    weights = {k: v for k, v in towers.state_dict().items() if k.startswith(PARTS)}
    with atomic_write(path) as stream:
        stream.write(to_safetensors({k: v.half().cpu().contiguous() for k, v in weights.items()}))
    path.with_name("tokenizer.json").write_text(towers.tokenizer.to_str(), "utf-8")
    return {
        part.rstrip("."): sum(v.numel() for k, v in weights.items() if k.startswith(part)) for part in PARTS
    }


def ranks(similarity: Tensor) -> Tensor:
    """How many others are nearer to each row's text than its own picture, which stands on the diagonal; [N]."""
    return (similarity > similarity.diagonal()[:, None]).sum(1)
