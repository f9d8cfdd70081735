"""A task of its own: every token of a sequence has a class, and sequences have several lengths.

All that a task needs is here; nothing under ``src`` knows of it.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from classroomkd.config.fields import Section
from classroomkd.config.schema import DataSection, MentorSection, RunRecipe
from classroomkd.core import make_signals
from classroomkd.data.draws import Draws, permutation
from classroomkd.data.epochs import Epochs
from classroomkd.mentors import LearningMentor, Mentor
from classroomkd.tasks.base import Saved, Task, alone
from classroomkd.tasks.registry import register_task

WORDS, TAGS, LENGTH, PAD = 12, ("low", "same", "high"), 8, 0


class TokenData(DataSection):
    """Sequences that are drawn."""

    name: Literal["sequences"] = "sequences"
    count: Annotated[int, Field(ge=8)] = 64


class TokenStudent(Section):
    """A network, by the width of its hidden layer."""

    model: str = "tagger-8"


class TokenMentor(MentorSection):
    """A run, or a network that starts from nothing."""

    model: str | None = None


class TokenRecipe(RunRecipe):
    """A run on sequences."""

    task: Literal["tokens"] = "tokens"
    data: TokenData = TokenData()
    student: TokenStudent = TokenStudent()
    mentors: tuple[TokenMentor, ...] = ()


@dataclass(frozen=True)
class Sequences:
    """``tokens [N, T]``, 0 after the end; whether each is below, as, or above the one before."""

    index: Tensor
    tokens: Tensor
    fingerprint: str
    notes: tuple[str, ...] = ()

    @staticmethod
    def draw(count: int, seed: int) -> "Sequences":
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(1, WORDS, (count, LENGTH), generator=generator)
        length = torch.randint(3, LENGTH + 1, (count, 1), generator=generator)
        tokens = tokens.where(torch.arange(LENGTH) < length, PAD)
        return Sequences(torch.arange(count), tokens, f"sequences {count} {seed}")

    def subset(self, rows: Tensor) -> "Sequences":
        kept = self.index[rows]
        return Sequences(kept, self.tokens[rows], f"{self.fingerprint} {kept.tolist()}")

    def __len__(self) -> int:
        return len(self.index)


class TokenBatch(NamedTuple):
    """``tokens [B, T]``, ``target [B, T]``, ``mask [B, T]`` (1 for tokens), ``index [B]``."""

    tokens: Tensor
    target: Tensor
    mask: Tensor
    index: Tensor


class TokenLoader(Epochs):
    """Sequences, of which each view starts with another word."""

    def __init__(self, sequences, batch_size, *, seed=0, views=False, shuffle=False, repeat=None):
        drop = shuffle and len(sequences) >= batch_size
        super().__init__(len(sequences), batch_size, repeat=repeat, drop_last=drop, part=(0, 1))
        self.sequences, self.seed, self.views, self.shuffle = sequences, seed, views, shuffle

    @property
    def dataset(self):
        return self.sequences

    def _rows(self):
        count = len(self.sequences)
        order = permutation(count, self.seed, self.epoch) if self.shuffle else torch.arange(count)
        return order[: len(self) * self.batch_size]

    def samples(self):
        return self.sequences.index[self._rows()]

    def __iter__(self):
        for rows in self.own(self._rows()):
            index, tokens = self.sequences.index[rows], self.sequences.tokens[rows].clone()
            if self.views:
                first = Draws(self.seed, self.view, index).uniform("first word")
                tokens[:, 0] = 1 + (first[:, 0] * (WORDS - 1)).long()
            before = torch.cat([tokens[:, :1], tokens[:, :-1]], 1)
            target = 1 + (tokens - before).sign()
            yield TokenBatch(tokens, target, (tokens != PAD).float(), index)


class Tagger(nn.Module):
    """Tags each token by itself and the one before."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, width = name, int(name.rpartition("-")[2])
        self.words = nn.Embedding(WORDS, width)
        self.hidden = nn.Linear(2 * width, width)
        self.tag = nn.Linear(width, len(TAGS))

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.words(tokens)
        before = torch.cat([words[:, :1], words[:, :-1]], 1)
        return self.tag(F.relu(self.hidden(torch.cat([words, before], -1))))


class Tokens(Task):
    """Tagging."""

    name = "tokens"
    samples = "sequences"
    outputs = "tags"
    headline = "accuracy"

    def training_sets(self):
        data = self.recipe.data
        whole = Sequences.draw(data.count, 0)
        dev = round(data.dev * data.count) if isinstance(data.dev, float) else data.dev
        order = permutation(data.count, data.dev_seed, 0, stream="split")
        rows = order[dev:].sort().values, order[:dev].sort().values
        return whole.subset(rows[0]), whole.subset(rows[1]) if dev else None

    def test_set(self):
        return Sequences.draw(self.recipe.data.count, 1)

    def training_loader(self, dataset, *, views=1, batch_size=None):
        return TokenLoader(
            dataset,
            batch_size or self.recipe.train.batch_size,
            seed=self.recipe.seed,
            views=True,
            shuffle=batch_size is None,
            repeat=self.recipe.data.repeat,
        )

    def plain_loader(self, dataset):
        return TokenLoader(dataset, 32)

    def example(self, dataset, count):
        return dataset.tokens[:count]

    def build_student(self, dataset):
        return Tagger(self.recipe.student.model)

    def open_mentor(self, entry, name, student, dataset):
        if entry.run is None:
            return LearningMentor(Tagger(entry.model), name, entry.role)
        return Mentor(self.load(entry.student_folder).network, name, entry.role)

    def signals(self, student, mentors, batch):
        return make_signals(
            student.logits, [m.logits for m in mentors], batch.target, unit_weight=batch.mask
        )

    def bins(self, batch):
        return (batch.target,)

    def view_key(self, dataset):
        return {"data": dataset.fingerprint, "seed": self.recipe.seed, "tags": list(TAGS)}

    @torch.no_grad()
    def evaluate(self, network, loader, all_gather=alone):
        right = total = 0.0
        for batch in loader:
            hits = (network(batch.tokens).argmax(-1) == batch.target) * batch.mask
            right, total = right + hits.sum().item(), total + batch.mask.sum().item()
        right, total = (sum(counts) for counts in zip(*all_gather((right, total)), strict=True))
        return {"accuracy": 100 * right / total}

    def save(self, student, folder, dataset, epoch, result):
        save_file(student.state_dict(), folder / "student.safetensors")
        said = {"model": student.name, "epoch": epoch, "result": result}
        (folder / "student.json").write_text(json.dumps(said))

    def load(self, folder):
        said = json.loads((folder / "student.json").read_text())
        network = Tagger(said["model"])
        network.load_state_dict(load_file(folder / "student.safetensors"))
        return Saved(network.eval(), said["epoch"], said["result"], TAGS)

    def output_names(self, dataset):
        return TAGS


register_task("tokens", recipe=TokenRecipe, task=Tokens)
