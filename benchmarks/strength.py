"""How strong each method's terms are with its default options, beside the cross-entropy.

Small networks of the zoo on scikit-learn's digits: a student as it begins and after some epochs
alone, and mentors that are trained. A method is measured as it is after its warm-up, on one batch,
with adapters and memories as they begin.

Pose methods are measured on drawn joints, where a network is its maps: gaussians that stand some
pixels from the joints, a student's farther than its mentors', or, for a student that begins, weak
noise.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer

from classroomkd.core import Lesson, make_signals
from classroomkd.core.signals import Blocks
from classroomkd.data import Batch, ImageSet, ViewLoader, crop, load_image_set
from classroomkd.engine.gradients import Sources, Strength, measure_strength, relative_norm
from classroomkd.methods import create_method, list_methods, method_class
from classroomkd.methods.base import read_outputs
from classroomkd.models import Network, build_model
from classroomkd.tasks.pose.models import heatmap_codec, simcc_codec
from classroomkd.tasks.pose.signals import anchored_likelihood, squared_error

COUNTS = (1, 3, 6)
BATCH = 64  # as in the benchmark: relations of samples, and some memories, depend on it
PERSONS, JOINTS = 16, 16
STUDENT, MENTOR = 6.0, 3.0  # pixels from the joints, standard deviation


@dataclass(frozen=True)
class Row:
    """One cell of the table: a method, who learns, from how many, and how strong its terms are."""

    method: str
    student: str
    mentors: int
    strength: Strength


@dataclass(frozen=True)
class Networks:
    """Who is measured.

    Attributes:
        student: name of its model.
        mentors: names of theirs, as many as the largest of `COUNTS`; the first is the teacher.
        student_epochs: of the student that is called trained.
        mentor_epochs: of the mentors.
    """

    student: str = "resnet8"
    mentors: tuple[str, ...] = (
        *("resnet20", "resnet14", "wrn_16_1"),
        *("vgg8", "resnet8", "ShuffleNetV2"),
    )
    student_epochs: int = 3
    mentor_epochs: int = 6


def run_strength(
    *,
    say: Callable[[str], None] = print,
    networks: Networks | None = None,
    names: Sequence[str] | None = None,
    as_csv: Path | None = None,
    markdown: Path | None = None,
) -> list[Row]:
    """Measure methods, and print a table.

    Those of one mentor are measured with the teacher, the others with 1, 3 and 6 mentors; those of
    poses by `pose_strength`.

    Args:
        say: told the table.
        networks: others than the usual ones.
        names: of the methods; all that have mentors if left out.
        as_csv: also write the numbers there.
        markdown: also write the table there.
    """
    chosen = networks or Networks()
    digits = load_image_set("digits", "train")
    torch.manual_seed(0)
    mentors = [_trained(name, digits, chosen.mentor_epochs) for name in chosen.mentors]
    epochs = {"fresh": 0, "trained": chosen.student_epochs}
    students = {who: _trained(chosen.student, digits, count) for who, count in epochs.items()}
    rows = [
        Row(
            name,
            who,
            count,
            pose_strength(name, trained=who == "trained", mentors=count)
            if method_class(name).kind == "pose"
            else _strength(name, student, mentors[:count], digits),
        )
        for name in names or [n for n in list_methods() if method_class(n).num_mentors != 0]
        for who, student in students.items()
        for count in ((1,) if method_class(name).num_mentors == 1 else COUNTS)
    ]
    table = strength_table(rows)
    say(table)
    if as_csv is not None:
        as_csv.parent.mkdir(parents=True, exist_ok=True)
        as_csv.write_text(_csv(rows))
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(table + "\n")
    return rows


def _trained(name: str, digits: ImageSet, epochs: int) -> Network:
    torch.manual_seed(0)
    network = build_model(name, len(digits.classes), mean=digits.mean, std=digits.std)
    loader = _views(digits, batch_size=64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    network.train()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(batch.images), batch.target).backward()
            optimizer.step()
    return network


def _views(digits: ImageSet, *, batch_size: int, views: int = 1) -> ViewLoader:
    shift = [crop(1)]
    second = shift if views == 2 else None
    return ViewLoader(
        digits, batch_size, augment=shift, second=second, shuffle=True, drop_last=True
    )


def _strength(
    name: str, student: Network, mentors: Sequence[Network], digits: ImageSet
) -> Strength:
    torch.manual_seed(0)
    method = create_method(name)
    batch: Batch = next(iter(_views(digits, batch_size=BATCH, views=method.views)))
    wanted = {"features": method.needs_features, "preactivations": method.needs_preactivations}
    learnt = read_outputs(student.train(), batch.images, **wanted)
    with torch.no_grad():
        taught = [read_outputs(mentor.eval(), batch.images, **wanted) for mentor in mentors]
        method.on_train_set(digits.index, digits.target)
        method.setup(learnt, taught)
    return measure_strength(
        learnt,
        lambda: method(learnt, taught, batch.target, batch.index),
        batch.target,
        [p for p in student.parameters() if p.requires_grad],
    )


def pose_strength(name: str, *, trained: bool, mentors: int) -> Strength:
    """The strength of a method's terms on the outputs, beside its task at weight 1.

    Those that bring the squared error are measured on heatmaps of 64 x 64 bins, the others on rows
    of 384 and 512 bins (SimCC) and the cross-entropy.

    Args:
        name: of the method.
        trained: whether the student has learnt; else it begins.
        mentors: how many.
    """
    draw = torch.Generator().manual_seed(0)
    heatmaps = method_class(name).own_task == "mse"
    codec = heatmap_codec((256, 256)) if heatmaps else simcc_codec((256, 192))
    points = 32 + 128 * torch.rand(PERSONS, JOINTS, 2, generator=draw)

    def seen(shift: float) -> Blocks:
        return codec.encode(points + shift * torch.randn(points.shape, generator=draw))

    truth = codec.logits(codec.encode(points))
    taught = [codec.logits(seen(MENTOR)) for _ in range(mentors)]
    begins = tuple(0.01 * torch.randn(block.shape, generator=draw) for block in seen(0))
    student = codec.logits(seen(STUDENT) if trained else begins)
    for block in student:
        block.requires_grad_()
    task = squared_error(truth) if heatmaps else anchored_likelihood(truth)

    def lesson(method: str, said: list[Blocks]) -> Lesson:
        target = tuple(block.softmax(-1) for block in truth)
        return create_method(method)(make_signals(student, said, target, task_loss=task))

    with Sources() as sources:
        whole = lesson(name, taught)
    added = whole.loss - sources.of(whole.task_loss).mean()
    return Strength(relative_norm(added, lesson("none", []).loss, student), nan)


def strength_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: a line for each method, columns for who learns from how many.

    A cell has the strength on the student's logits and, after a slash, on its parameters; of poses
    that on its outputs alone.
    """
    columns = [(who, count) for who in ("fresh", "trained") for count in COUNTS]
    cells = {(r.method, r.student, r.mentors): _cell(r.strength) for r in rows}
    lines = [
        "| method | " + " | ".join(f"{who}, {count}" for who, count in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in dict.fromkeys(row.method for row in rows):
        line = " | ".join(cells.get((name, *column), "") for column in columns)
        lines.append(f"| `{name}` | {line} |")
    return "\n".join(lines)


def _cell(strength: Strength) -> str:
    return " / ".join(f"{x:.2g}" for x in (strength.logits, strength.parameters) if not isnan(x))


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "student", "mentors", "logits", "parameters"])
    for row in rows:
        both = row.strength.logits, row.strength.parameters
        numbers = ("" if isnan(x) else f"{x:.3g}" for x in both)
        writer.writerow([row.method, row.student, row.mentors, *numbers])
    return text.getvalue()


def main(
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write the numbers as CSV.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown.")
    ] = None,
) -> None:
    """Measure how strong each method's terms are beside the cross-entropy (a minute or two)."""
    run_strength(as_csv=as_csv, markdown=markdown)


if __name__ == "__main__":
    typer.run(main)
