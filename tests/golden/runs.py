"""A dozen tiny runs whose students must stay bit-identical while the code is reshaped.

``python -m tests.golden.runs`` records their SHA-256 anew in ``students.json``, beside the versions
and the processor that they were made with; elsewhere the test that compares them skips, since
another kernel adds in another order.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torchvision

from classroomkd.config import parse_recipe
from classroomkd.engine.run import train

STUDENTS = Path(__file__).with_name("students.json")
DATA = Path(
    os.environ.get("CLASSROOMKD_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared/data"
)
JOINTS, HEATMAP, SIMCC = 14, "pose/tiny/heatmap", "pose/tiny/simcc"


def circumstances() -> dict[str, str]:
    """What the bits of a training depend on, beside the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def digits(folder: Path, method: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe on handwritten digits, with two trained mentors of other sizes."""
    raw: dict[str, Any] = {
        "name": "golden",
        "seed": 3,
        "data": {"name": "digits", "dev": 0.2, **changes.pop("data", {})},
        "student": {"model": "resnet8"},
        "mentors": [
            {"run": str(folder / "mentor-resnet14"), "role": "teacher"},
            {"run": str(folder / "mentor-wrn_16_1"), "role": "peer"},
        ],
        "method": method,
        "train": {
            "epochs": 2,
            "batch_size": 128,
            "precision": "fp32",
            "device": "cpu",
            "optimizer": {"name": "sgd", "lr": 0.05},
            **changes.pop("train", {}),
        },
    }
    return raw | changes


def poses(folder: Path, heads: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """A recipe on a few persons of LSPET, with mentors of these heads."""
    return {
        "name": "golden",
        "task": "pose",
        "seed": 3,
        "data": {"name": "lspet", "path": str(folder / "persons"), "dev": 24, "workers": 0},
        "student": {"model": changes.pop("student", HEATMAP), "input": [64, 64]},
        "mentors": [{"run": str(folder / f"mentor-{head}")} for head in heads],
        "method": {"name": "classroom", "task_weight": 1} if heads else {"name": "none"},
        "train": {
            "epochs": 2,
            "batch_size": 24,
            "precision": "fp32",
            "device": "cpu",
            **changes.pop("train", {}),
        },
    } | changes


def _train(raw: dict[str, Any], folder: Path, **options: Any) -> str:
    train(parse_recipe(raw), folder, progress=False, say=lambda *_: None, **options)
    return hashlib.sha256(
        (folder / "checkpoints/last/student.safetensors").read_bytes()
    ).hexdigest()


def _interrupted(raw: dict[str, Any], folder: Path) -> str:
    """The same run, stopped at the end of its second epoch and resumed from the first."""

    def stop(line: str) -> None:
        if line.startswith("epoch 2/"):  # the first epoch is in the checkpoint by now
            raise KeyboardInterrupt

    try:
        train(parse_recipe(raw), folder, progress=False, say=stop)
    except (KeyboardInterrupt, SystemExit):
        return _train(raw, folder, resume=True)
    raise AssertionError("the run was not interrupted")


def copy_persons(folder: Path) -> None:
    """The first persons of LSPET's training and test sets, as a set of their own."""
    for split, count in (("train", 120), ("val", 24)):
        name = f"person_keypoints_{split}.json"
        whole = json.loads((DATA / "lspet/annotations" / name).read_text(encoding="utf-8"))
        images = whole["images"][:count]
        kept = {image["id"] for image in images}
        whole["images"] = images
        whole["annotations"] = [a for a in whole["annotations"] if a["image_id"] in kept]
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / name).write_text(json.dumps(whole), encoding="utf-8")
        (folder / "images" / split).mkdir(parents=True)
        for image in images:
            there = (DATA / "lspet/images" / split / image["file_name"]).resolve()
            (folder / "images" / split / image["file_name"]).symlink_to(there)


Make = Callable[[Path], str]


def digit_runs() -> Iterator[tuple[str, Make]]:
    """The runs on digits, by name, mentors first."""

    def one(method: dict[str, Any] | str, **changes: Any) -> Make:
        chosen = {"name": method} if isinstance(method, str) else method
        return lambda folder: _train(digits(folder, chosen, **_copy(changes)), _new(folder))

    def mentor(model: str) -> Make:
        alone = {"student": {"model": model}, "mentors": []}
        return lambda folder: _train(
            digits(folder, {"name": "none"}, **alone), folder / f"mentor-{model}"
        )

    yield "mentor-resnet14", mentor("resnet14")
    yield "mentor-wrn_16_1", mentor("wrn_16_1")
    yield "classroom", one("classroom")
    yield "classroom-official", one({"name": "classroom", "compat": "official"})
    yield "classroom-also", one({"name": "classroom", "also": "at", "task_weight": 1})
    for name in ("kd", "crd", "simkd", "fitnets", "mlld", "aekd", "ca_mkd"):
        yield name, one(name)
    yield "dml", one("dml", mentors=[{"model": "resnet8", "train": True}])
    yield "mixing", one("classroom", data={"mix": {"mixup": 0.4, "cutmix": 0.4}, "smoothing": 0.1})
    yield (
        "bank-filled",
        lambda folder: _train(
            digits(folder, {"name": "classroom"}, bank={"path": str(folder / "bank")}), _new(folder)
        ),
    )
    yield (
        "bank-read",
        lambda folder: _train(
            digits(folder, {"name": "classroom"}, bank={"path": str(folder / "bank")}), _new(folder)
        ),
    )
    yield "skip", one("classroom", train={"skip": {}})
    yield (
        "resumed",
        lambda folder: _interrupted(digits(folder, {"name": "classroom"}), _new(folder)),
    )
    yield "two-processes", one("classroom", train={"devices": 2})


def pose_runs() -> Iterator[tuple[str, Make]]:
    """The runs on persons, by name, mentors first."""

    def one(heads: tuple[str, ...], **changes: Any) -> Make:
        return lambda folder: _train(poses(folder, heads, **_copy(changes)), _new(folder))

    def mentor(head: str) -> Make:
        model = {"heatmap": HEATMAP, "simcc": SIMCC}[head]
        return lambda folder: _train(
            poses(folder, (), student=model, seed=4), folder / f"mentor-{head}"
        )

    yield "pose-mentor-heatmap", mentor("heatmap")
    yield "pose-mentor-simcc", mentor("simcc")
    yield "pose-heatmap", one(("heatmap",))
    yield "pose-simcc", one(("simcc",), student=SIMCC)
    yield "pose-mixed", one(("heatmap", "simcc"))
    yield "pose-two-processes", one(("heatmap", "simcc"), train={"devices": 2})


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder)) / "run"


def _copy(changes: dict[str, Any]) -> dict[str, Any]:
    return {k: dict(v) if isinstance(v, dict) else v for k, v in changes.items()}


def make(folder: Path) -> Iterator[tuple[str, str]]:
    """Train all that can be trained here; names and hashes of the students as they come."""
    torch.set_num_threads(1)
    for name, run in digit_runs():
        yield name, run(folder)
    if (DATA / "lspet").is_dir():
        copy_persons(folder / "persons")
        for name, run in pose_runs():
            yield name, run(folder)


def main() -> None:
    """Record the students of today's code."""
    with tempfile.TemporaryDirectory() as folder:
        students = {}
        for name, digest in make(Path(folder)):
            students[name] = digest
            print(name, digest, file=sys.stderr, flush=True)
    said = {"circumstances": circumstances(), "students": students}
    STUDENTS.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
