"""Starting the processes of a team, and joining them."""

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

from classroomkd.config.training import Train
from classroomkd.engine.devices.context import SINGLE_PROCESS, DistContext
from classroomkd.errors import ClassroomError

_PATIENCE = timedelta(hours=6)  # with others, such as one that judges the student
_LAST_WORDS = 5.0  # seconds in which the others may say what went wrong
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def must_start(train: Train) -> bool:
    """Whether a recipe wants processes that nobody, such as ``torchrun``, has started."""
    return train.devices > 1 and not _started()


def speaks() -> bool:
    """Whether this process is the one that a user hears: the only one, or the first of several."""
    return not _started() or os.environ["RANK"] == "0"


def _started() -> bool:
    return all(name in os.environ for name in _ENVIRONMENT)


@contextmanager
def join(train: Train) -> Iterator[DistContext]:
    """Join the processes that ``torchrun`` or `start` has started; a team of one without them.

    Args:
        train: of the recipe.

    Raises:
        ClassroomError: if the recipe asks for another number of them, or its batches cannot be
            divided by their number.
    """
    size = int(os.environ["WORLD_SIZE"]) if _started() else 1
    _check(train, size)
    if size == 1:
        yield SINGLE_PROCESS
        return
    rank = int(os.environ["RANK"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    cuda = train.device != "cpu" and torch.cuda.is_available()
    if cuda:
        if torch.cuda.device_count() < local_size:
            raise ClassroomError(
                f"{local_size} processes on this machine need a GPU each, and torch finds"
                f" {torch.cuda.device_count()}: start fewer, or set train.device=cpu"
            )
        torch.cuda.set_device(local_rank)
    ours = not dist.is_initialized()
    if ours:
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    yield DistContext(rank, size, local_rank, local_size, train.sync_batchnorm)
    if ours:  # not after an error: the others may never come
        gc.collect()  # networks and loops that hold the group: its threads must end with it here
        dist.destroy_process_group()


def _check(train: Train, size: int) -> None:
    if train.devices not in (1, size):
        raise ClassroomError(
            f"train.devices is {train.devices}, but {size} process(es) were started: give both the"
            " same number, or leave train.devices out"
        )
    if train.batch_size % size:
        raise ClassroomError(
            f"train.batch_size={train.batch_size} is the whole batch, and {size} processes cannot"
            f" share it equally: make it {max(train.batch_size // size, 1) * size}"
        )
    if size > 1 and ":" in train.device:
        raise ClassroomError(
            f"train.device={train.device} is one GPU, and there are {size}"
            " processes: leave the number out"
        )


def start(count: int, work: Callable[..., object], args: tuple, say: Callable[[str], Any]) -> None:
    """Run ``work(*args, say)`` in new processes that are a team, until all have ended.

    Args:
        count: of processes.
        work: a function of a module; it is to `join`.
        args: can be pickled.
        say: told, in this process, what any of them says.

    Raises:
        ClassroomError: what one of them raised, or that one was killed.
        RuntimeError: with the traceback of any other error of one of them.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else each remarks on all being used
    context = get_context("spawn")
    processes: list[BaseProcess] = []
    ends: list[Connection] = []
    try:
        for rank in range(count):
            end, other = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(rank, count, store.port, other, work, args)
            )
            process.start()
            other.close()
            processes.append(process)
            ends.append(end)
        _listen(processes, ends, say)
    finally:
        for process in processes:  # whatever they write is written atomically
            process.kill()
        for process in processes:
            process.join()


@dataclass(frozen=True)
class _Failure:
    """How a process ended.

    ``kind`` says what is most likely the cause, where several fail: 0 is most likely.
    """

    kind: int
    text: str


_KILLED, _MISTAKE, _INTERRUPTED, _CRASH, _FORSAKEN = range(5)


def _listen(
    processes: Sequence[BaseProcess], ends: Sequence[Connection], say: Callable[[str], Any]
) -> None:
    """Pass on what processes say until all have ended; raise what went wrong."""
    running = set(range(len(processes)))
    failures: dict[int, _Failure] = {}
    while running:
        signs = [sign for rank in running for sign in (ends[rank], processes[rank].sentinel)]
        if not wait(signs, _LAST_WORDS if failures else None):
            break
        for rank in list(running):
            ended = processes[rank].exitcode is not None  # before its last words are read
            for word in _words(ends[rank]):
                if isinstance(word, _Failure):
                    failures[rank] = word
                else:
                    say(word)
            if ended:
                running.discard(rank)
                if processes[rank].exitcode and rank not in failures:
                    failures[rank] = _without_a_word(rank, processes)
    if failures:
        _raise(min(failures.values(), key=lambda failure: failure.kind))


def _words(end: Connection) -> Iterator[Any]:
    """What a process has said and nobody has heard yet."""
    try:
        while end.poll():
            yield end.recv()
    except (EOFError, OSError):
        return


def _without_a_word(rank: int, processes: Sequence[BaseProcess]) -> _Failure:
    code = processes[rank].exitcode or 0
    which = f"process {rank + 1} of {len(processes)} was ended"
    if code < 0:
        text = (
            f"{which} by {signal.Signals(-code).name} (out of memory?), and the others with it:"
            " what was saved is there; continue with --resume"
        )
    else:
        text = (
            f"{which} with exit code {code}, and the others with it: it may have said why above. A"
            ' script that trains on several devices needs `if __name__ == "__main__":` before what'
            " it does, since each process imports it"
        )
    return _Failure(_KILLED, text)


def _raise(failure: _Failure) -> None:
    if failure.kind == _INTERRUPTED:
        raise KeyboardInterrupt
    if failure.kind in (_KILLED, _MISTAKE):
        raise ClassroomError(failure.text)
    raise RuntimeError(failure.text)


def _run(
    rank: int, count: int, port: int, out: Connection, work: Callable[..., object], args: tuple
) -> None:
    """Be one of the processes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the parent has the store
    torch.set_num_threads(max(torch.get_num_threads() // count, 1))
    try:
        work(*args, out.send)
    except ClassroomError as error:
        failure = _Failure(_MISTAKE, str(error))
    except KeyboardInterrupt:
        failure = _Failure(_INTERRUPTED, "")
    except dist.DistError:
        failure = _Failure(_FORSAKEN, traceback.format_exc())
    except BaseException:
        lost = "Connection closed by peer" in (text := traceback.format_exc())
        failure = _Failure(_FORSAKEN if lost else _CRASH, text)
    else:
        return
    out.send(failure)
    out.close()
    sys.stderr.flush()
    os._exit(1)  # in good order it would wait for the others


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
