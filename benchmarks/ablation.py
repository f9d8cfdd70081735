"""What each way to run frozen mentors faster is worth, in the live training step.

One classroom trains on, its mentors run in one way after the other; all take turns within each
round, and ratios are taken within rounds. The student runs as recipes run it (bfloat16,
channels_last). ``autocast`` converts the mentors' weights at each call, ``bf16`` keeps them
converted; ``folded`` has batch normalisation in the weights before it, ``compiled`` is
`torch.compile` with frozen weights. The last row gives each mentor the way in which it was the
fastest by itself.
"""

import csv
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.timing import own_clock, ratios
from benchmarks.variants import Settings, build_bench, build_loader, build_mentors, plain_loop
from classroomkd.engine.memory import keep_freed_memory
from classroomkd.engine.places import choose_device
from classroomkd.engine.timer import StepTimer
from classroomkd.mentors.fold import fold_batch_norm

LINEUPS = {
    "MobileNetV2": Settings().mentors,
    "resnet8": ("wrn_16_2", "resnet14", "resnet20", "resnet32"),
}


@dataclass(frozen=True)
class Way:
    """How frozen networks are run; by default as a textbook would."""

    autocast: bool = False
    bf16: bool = False
    channels_last: bool = False
    folded: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        return ", ".join(name for name, value in vars(self).items() if value) or "nothing"


RECIPE = Way(autocast=True, channels_last=True)  # as a mentor runs that nobody tunes
WAYS = (
    Way(),
    Way(channels_last=True),
    Way(autocast=True),
    RECIPE,
    Way(bf16=True, channels_last=True),
    Way(folded=True),
    Way(autocast=True, channels_last=True, folded=True),
    Way(bf16=True, channels_last=True, folded=True),
    Way(compiled=True),
    Way(autocast=True, channels_last=True, compiled=True),
    Way(autocast=True, channels_last=True, folded=True, compiled=True),
    Way(bf16=True, channels_last=True, folded=True, compiled=True),
)
FASTEST = "the fastest of each mentor"


class Running(nn.Module):
    """A copy of a frozen network that runs in one way, whatever autocast it is called in."""

    def __init__(self, network: nn.Module, way: Way, example: Tensor) -> None:
        super().__init__()
        copy = deepcopy(network).eval().to(memory_format=torch.contiguous_format)
        if way.folded:
            copy = fold_batch_norm(copy, example)
        if way.bf16:
            for module in copy.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        self.layout = torch.channels_last if way.channels_last else torch.contiguous_format
        self.network: Callable[[Tensor], Tensor] = copy.to(memory_format=self.layout)
        self.lowered = way.bf16 or way.autocast
        if way.compiled:
            self.network = torch.compile(self.network, dynamic=False)
            from torch._inductor import config

            # networks of a family share their code, of which eight are compiled by default
            torch._dynamo.config.recompile_limit = 1000
            with torch.no_grad(), config.patch(freezing=True):
                self(example)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, 3, H, W]``."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.lowered):
            return self.network(images.contiguous(memory_format=self.layout))


class Lineup:
    """A classroom and its mentors' networks, built for each of `WAYS`.

    Args:
        settings: the classroom; its mentors are not tuned.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = settings, choose_device("auto")
        self.clock = own_clock(self.device)
        mentors = build_mentors(settings, self.device)
        self.classroom = build_bench(settings, self.device, mentors)
        self.classroom.begin_epoch(0)
        self.example = next(iter(self.classroom.train)).images
        self.networks = {
            str(way): [Running(mentor.network, way, self.example) for mentor in mentors]
            for way in WAYS
        }

    def measure(self) -> list[dict[str, Any]]:
        """Milliseconds of a step in each way, and images a second over those of two other ways.

        Medians over rounds, and the quartiles beside the recipe's way.
        """
        networks = self.networks | {FASTEST: self._fastest()}
        turns = list(networks) * (self.settings.rounds + 1)
        settings = replace(self.settings, steps=len(turns))
        loader = build_loader(settings, self.device, channels_last=settings.train.channels_last)
        classroom = replace(self.classroom, train=loader)
        timer, begun = StepTimer(self.device, self.clock), iter(["before", *turns])
        following = iter(turns)

        def on_step(_: object) -> None:
            """A step ends here, of the networks that were given at the last call."""
            timer.lap(next(begun))
            for mentor, network in zip(
                classroom.mentors, networks.get(next(following, ""), ()), strict=False
            ):
                mentor.network = network
            timer.start()

        plain_loop(classroom, on_step)
        seconds = {name: timer.seconds[name][1:] for name in networks}  # the first is warm-up
        return [self._row(name, seconds) for name in networks]

    def _row(self, name: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
        gains = ratios(seconds[str(RECIPE)], seconds[name])
        low, middle, high = quantiles(gains, n=4)
        return {
            "student": self.settings.student,
            "mentors": len(self.classroom.mentors),
            "mentors_run": name,
            "milliseconds": f"{1000 * median(seconds[name]):.1f}",
            "over_nothing": f"{median(ratios(seconds[str(Way())], seconds[name])):.2f}",
            "over_recipe": f"{middle:.2f}",
            "lower_quartile": f"{low:.2f}",
            "upper_quartile": f"{high:.2f}",
        }

    def _fastest(self) -> list[nn.Module]:
        """Of each mentor, the network that answers soonest by itself."""
        chosen = []
        for place in range(len(self.classroom.mentors)):
            timer = StepTimer(self.device, self.clock)
            for _ in range(self.settings.rounds):
                for name, running in self.networks.items():
                    timer.start()
                    with torch.no_grad():
                        running[place](self.example)
                    timer.lap(name)
            chosen.append(self.networks[min(self.networks, key=timer.milliseconds)][place])
        return chosen


def main(
    out: Annotated[Path | None, typer.Option(help="Also write the rows as CSV.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="In each, all ways take turns.")] = 25,
) -> None:
    """Measure what each way to run mentors faster is worth, for both line-ups."""
    keep_freed_memory()
    rows = []
    for student, mentors in LINEUPS.items():
        settings = Settings(student, mentors, rounds=rounds, steps=1, tuned=False)
        for row in Lineup(settings).measure():
            print("  ".join(map(str, row.values())))
            rows.append(row)
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    typer.run(main)
