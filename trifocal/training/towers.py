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

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save as to_safetensors
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trifocal.data import TrainingPicture, read_pictures, split
from trifocal.errors import OptionError
from trifocal.files import replacing
from trifocal.losses import contrastive
from trifocal.losses.detection import soft_cross_entropy
from trifocal.machine.tower import ImageTower
from trifocal.text.compact import TextTransformer, tokens_of, train_tokenizer
from trifocal.text.ground import Ground
from trifocal.training.checkpoint import (
    Progress,
    append_row,
    begin_with,
    check_length,
    record_of,
    restore,
    save,
)
from trifocal.training.ground import train_ground
from trifocal.training.views import Teacher, TowerBatch, TowerBatches, View, collate, views_of
from trifocal.types import Words

__all__ = ["Towers", "train_towers"]

LEARNING_RATE, WEIGHT_DECAY, WARMUP, EMA = 1e-3, 0.05, 100, 0.995
BATCH, SEED = 32, 1
WEIGHTS = {"captions": 1.0, "bag": 0.2, "where": 0.5, "ground": 1.0, "teacher": 1.0}
CLASSES = 80
Report = Callable[[float, str], None]


class Towers(nn.Module):
    """Both towers, the bag of words, and what only training needs."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = TextTransformer(vocabulary)
        self.ground = Ground(self.text.embedding)
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

    def forward(self, batch: TowerBatch, tokenizer: Tokenizer) -> dict[str, Tensor]:
        """`losses`, through whatever accelerate wraps around the towers: on many GPUs gradients are shared there."""
        return self.losses(batch, tokenizer)

    def losses(self, batch: TowerBatch, tokenizer: Tokenizer) -> dict[str, Tensor]:
        """Each term by its name, before its weight."""
        seen = self.image(batch.x)
        said = [number for number, caption in enumerate(batch.captions) if caption]
        texts = [batch.captions[number] for number in said] + batch.phrases
        ids, mask = (t.to(batch.x.device) for t in tokens_of(tokenizer, texts))
        words: Words = self.text(ids, mask)
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
    report: Report | None = None,
) -> Path:
    """Trains the compact text tower and image tower.

    Args:
        data: shards or folders of pictures with records: captions, boxes, labels (see `read_pictures`).
        out: folder of the run: checkpoint.pt, log.csv, and towers.safetensors, tokenizer.json, towers.json at the end.
        steps, minutes: the run's length; one of them.
        stage: 1 for all of it, 2 for `ground` alone.
        start: towers.safetensors to begin from, with its tokenizer.json beside it; the second stage needs it.
        teacher: PicoDet as ONNX, whose class scores teach the image tower; without it that term is left out.
        resume: go on from the checkpoint in `out`.
        every: minutes between checkpoints.
        batch: views a step; 32 if not said.
        report: called after each step with the fraction done and a line of text.

    Returns:
        The weights.

    Raises:
        OptionError: for a run without an end, pictures without captions, no checkpoint to resume, a second stage without
            towers to begin from.
    """
    check_length(steps, minutes)
    if stage not in (1, 2) or stage == 2 and start is None:
        raise OptionError(
            "Towers have stages 1 and 2, and 2 begins --start from the towers.safetensors of 1."
        )
    set_seed(SEED)
    batch = batch or BATCH
    report = report or (lambda fraction, text: None)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = split(read_pictures(data, 64, lambda key: report(0.0, f"reading {key}")))
    captions = [caption for picture in training for caption in picture.captions]
    if not captions or not any(picture.captions for picture in held_out):
        raise OptionError("Towers need captions: shards or folders where KEY.json stands beside KEY.jpg.")
    if start is None:
        tokenizer = train_tokenizer(captions)
    else:
        tokenizer = Tokenizer.from_str(Path(start).with_name("tokenizer.json").read_text("utf-8"))
    seer = None if teacher is None else Teacher(teacher)
    views = views_of(training, seer, progress=lambda f: report(0.0, f"the teacher looks, {f:.0%}"))
    run = TowerRun(tokenizer, folder, steps, minutes)
    if start is not None:
        run.start_from(Path(start))
    if resume:
        run.resume()
    others = views_of(captioned(held_out), None, ("whole",))
    if stage == 1:
        run.go(views, others, every, batch, report)
    else:
        run.second(views, others, report)
    record: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "data": [Path(source).name for source in data],
        "teacher": None if teacher is None else Path(teacher).name,
        "pictures": len(training),
        "views": len(views),
        "batch": batch,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "stage": stage,
        "start": None if start is None else record_of(Path(start)),
        "terms": run.weights,
        "seed": SEED,
    }
    return run.export(record)


def captioned(pictures: Sequence[TrainingPicture]) -> list[TrainingPicture]:
    return [picture for picture in pictures if picture.captions]


class TowerRun:
    """One run: towers, their average, optimiser, and how far they are."""

    def __init__(self, tokenizer: Tokenizer, out: Path, steps: int | None, minutes: float | None) -> None:
        self.accelerator = Accelerator()
        self.tokenizer, self.out, self.steps, self.minutes = tokenizer, out, steps, minutes
        towers = Towers(tokenizer.get_vocab_size())
        learning = list(towers.parameters())
        decayed, plain = ([p for p in learning if (p.ndim > 1) == wide] for wide in (True, False))
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
            lr=LEARNING_RATE,
            betas=(0.9, 0.98),
        )
        self.towers, self.optimiser = self.accelerator.prepare(towers, optimiser)
        self.averaged = AveragedModel(self.bare, multi_avg_fn=get_ema_multi_avg_fn(EMA))
        self.progress = Progress()
        self.terms: list[str] = []
        self.found: dict[str, float] = {}

    @property
    def bare(self) -> Towers:
        towers: Towers = self.accelerator.unwrap_model(self.towers)
        return towers

    @property
    def average(self) -> Towers:
        towers = self.averaged.module
        assert isinstance(towers, Towers)
        return towers

    @property
    def fraction(self) -> float:
        """The part of the run that is done, 0..1."""
        return min(1.0, self.progress.fraction(self.steps, self.minutes))

    def go(
        self, views: Sequence[View], held_out: Sequence[View], every: float, batch: int, report: Report
    ) -> None:
        batches = TowerBatches(views, batch, SEED + self.progress.step + self.accelerator.process_index)
        saved = self.progress.seconds
        terms: list[dict[str, float]] = []
        self.towers.train()
        while self.fraction < 1:
            began = time.monotonic()
            terms.append(self.step(batches.next()))
            self.progress.step += 1
            self.progress.seconds += time.monotonic() - began
            mean = {name: float(np.mean([t[name] for t in terms[-50:]])) for name in terms[-1]}
            said = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            report(self.fraction, f"step {self.progress.step}  {said}")
            if self.progress.seconds - saved > 60 * every or self.fraction >= 1:
                self.checkpoint(held_out, mean)
                saved = self.progress.seconds

    def second(self, views: Sequence[View], held_out: Sequence[View], report: Report) -> None:
        """Trains `ground` alone, on the averaged towers."""
        self.terms = ["ground"]
        seconds = 60 * (self.minutes or 0)
        self.found = train_ground(
            self.average, self.tokenizer, views, held_out, seconds, self.steps, SEED, report
        )

    def step(self, batch: TowerBatch) -> dict[str, float]:
        rising = min(1.0, (self.progress.step + 1) / WARMUP)
        rate = LEARNING_RATE * rising * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.fraction)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            terms = self.towers(on(batch, self.accelerator.device), self.tokenizer)
        loss = sum((WEIGHTS[name] * term for name, term in terms.items()), torch.zeros(()))
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.towers.parameters(), 1.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.bare)
        self.terms = list(terms)
        return {name: term.item() for name, term in terms.items()}

    def checkpoint(self, held_out: Sequence[View], terms: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        row: dict[str, object] = {
            "step": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 2),
            **{name: round(value, 4) for name, value in terms.items()},
            **validate(self.average, self.tokenizer, held_out),
        }
        append_row(self.out / "log.csv", row)
        state = {
            "towers": self.bare.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        save(self.out / "checkpoint.pt", state)

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms that were in the last step's loss."""
        return {name: WEIGHTS[name] for name in self.terms}

    def start_from(self, path: Path) -> None:
        """Begins with trained towers; what only training needs begins anew."""
        begin_with(self.bare, path)
        self.average.load_state_dict(self.bare.state_dict())

    def resume(self) -> None:
        state = restore(self.out / "checkpoint.pt", self.accelerator.device)
        self.bare.load_state_dict(state["towers"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def export(self, record: dict[str, object]) -> Path:
        """towers.safetensors (float16: image., text., ground., bag.), tokenizer.json, and the record and log beside them."""
        path = self.out / "towers.safetensors"
        parts = ("image.", "text.", "ground.", "bag.")
        weights = {k: v for k, v in self.average.state_dict().items() if k.startswith(parts)}
        with replacing(path) as stream:
            stream.write(to_safetensors({k: v.half().cpu().contiguous() for k, v in weights.items()}))
        (self.out / "tokenizer.json").write_text(self.tokenizer.to_str(), "utf-8")
        record |= self.found
        record |= {
            "steps": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 1),
            "parameters": {
                part.rstrip("."): sum(v.numel() for k, v in weights.items() if k.startswith(part))
                for part in parts
            },
            "machine": f"{self.accelerator.device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }
        (self.out / "towers.json").write_text(json.dumps(record, indent=2) + "\n")
        return path


def on(batch: TowerBatch, device: torch.device) -> TowerBatch:
    seen = None if batch.seen is None else (batch.seen[0].to(device), batch.seen[1].to(device))
    return replace(batch, x=batch.x.to(device), where=batch.where.to(device), seen=seen)


@torch.no_grad()
def validate(towers: Towers, tokenizer: Tokenizer, views: Sequence[View]) -> dict[str, float]:
    """On held-out pictures: how often a caption finds its own picture among all, and how well a phrase its place."""
    towers.eval()
    device = towers.offset.device
    batch = on(collate(views, np.random.default_rng(0)), device)
    seen = towers.image(batch.x)
    texts = [view.captions[0] for view in views]
    ids, mask = (t.to(device) for t in tokens_of(tokenizer, texts))
    pooled = F.normalize(towers.text(ids, mask).pooled, dim=-1)
    row = {}
    for name, words in (("", pooled), ("bag_", towers.bag_of(ids, mask))):
        rank = ranks(words @ seen.pooled.T)
        row[f"{name}recall_1"] = round(float((rank < 1).float().mean()), 4)
        row[f"{name}recall_5"] = round(float((rank < 5).float().mean()), 4)
    ids, mask = (t.to(device) for t in tokens_of(tokenizer, batch.phrases))
    words = towers.text(ids, mask)
    for name, at in (
        ("where", torch.einsum("bhwd,bd->bhw", seen.places, F.normalize(words.pooled, dim=-1))),
        ("ground", towers.ground(seen.stages[2], words)),
    ):
        inside, outside = at[batch.where > 0.9], at[batch.where < 0.1]
        row[f"{name}_auc"] = round(float((inside[:, None] > outside[None, ::7]).float().mean()), 4)
    towers.train()
    return row


def ranks(similarity: Tensor) -> Tensor:
    """How many others are nearer to each row's text than its own picture, which stands on the diagonal; [N]."""
    return (similarity > similarity.diagonal()[:, None]).sum(1)
