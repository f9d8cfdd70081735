"""The pictures of a pose run, from what its folder keeps for them."""

import json
from pathlib import Path

from safetensors.torch import load_file

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.belief import belief
from classroomkd.tasks.pose.figures import heatmaps, skeletons, who_taught
from classroomkd.tasks.pose.models.codec import codec_from_dict

_JOINTS = 6  # columns of heatmaps


def pose_pictures(folder: Path, prefix: str) -> list[str]:
    """Skeletons of some persons, who taught which joint, and heatmaps of all networks, as SVG.

    Args:
        folder: of a run.
        prefix: begins every id; different for each run of a page.

    Raises:
        ClassroomError: if the files are damaged.
    """
    try:
        said = json.loads((folder / "pictures.json").read_text())
        kept = load_file(folder / "pictures.safetensors")
        images, joints = kept["images"].float() / 255, said["joints"]
        edges = [(a, b) for a, b in said["skeleton"]]
        pictures = [
            skeletons(
                images, kept["predicted"], kept["truth"], kept["visible"], edges, f"{prefix}-poses"
            )
        ]
        if "taught" in kept:
            mentors = [network["name"] for network in said["networks"][1:]]
            pictures.append(who_taught(kept["taught"], mentors, joints, f"{prefix}-taught"))
        beliefs = []
        for number, network in enumerate(said["networks"]):
            blocks = [
                kept[f"belief.{number}.{b}"].float()
                for b in range(2)
                if f"belief.{number}.{b}" in kept
            ]
            codec = codec_from_dict(network["codec"])
            size = (network["input_size"][0], network["input_size"][1])
            beliefs.append(belief(network["name"], tuple(blocks), codec, size))
        labelled = kept["visible"][0].nonzero()[:, 0].tolist()
        step = max(len(labelled) // _JOINTS, 1)
        pictures.append(
            heatmaps(
                images[0],
                beliefs,
                labelled[::step][:_JOINTS] or [0],
                joints,
                f"{prefix}-maps",
                truth=kept["truth"][0],
                visible=kept["visible"][0],
            )
        )
    except Exception as error:  # whatever damaged files provoke
        raise ClassroomError(
            f"{folder}: pictures.json and pictures.safetensors cannot be read: {error}. Remove them"
            " for a report without pictures"
        ) from error
    return pictures
