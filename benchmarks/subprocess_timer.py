"""The textbook loop in a process of its own, which handles memory as a process usually does.

The engine keeps freed memory for the next step (`keep_freed_memory`), and that goes for a process
as a whole. Only one of the two works at a time.
"""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch

from benchmarks.timing import whole_steps
from benchmarks.variants import OnStep, Settings, build_textbook_variants
from classroomkd.engine.timer import StepTimer


class SubprocessTimer:
    """A context in which textbook variants can be timed.

    Args:
        settings: what they are made of.
        device: where they run.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, settings, str(device), torch.get_num_threads())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)

    def seconds(self, name: str) -> float:
        """Let a variant train an epoch; the time of its steps."""
        self.pipe.send(name)
        if isinstance(answer := self.pipe.recv(), Exception):
            raise answer
        return answer

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pipe.send(None)
        self.process.join(10)


def _serve(pipe: Connection, settings: Settings, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    timer = StepTimer(torch.device(device))
    variants: dict[str, Callable[[OnStep], None]] | None = None
    while (name := pipe.recv()) is not None:
        try:
            if variants is None:
                variants = dict(build_textbook_variants(settings, torch.device(device)))
            variants[name](whole_steps(timer, name, settings.steps))
            pipe.send(timer.seconds[name][-1])
        except Exception as error:  # whatever it is, who asked is told
            pipe.send(error)
