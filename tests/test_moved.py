"""What has moved is found by its old name for one release, with a word."""

import importlib
import subprocess
import sys

import pytest

from classroomkd.moved import _here

MODULES = [
    ("classroomkd.data.pose.coco", "read_coco", "classroomkd.tasks.pose.data.coco"),
    ("classroomkd.data.pose", "joint_set", "classroomkd.tasks.pose.data"),
    ("classroomkd.models.pose.files", "load_pose_weights", "classroomkd.tasks.pose.models.files"),
    ("classroomkd.models.pose", "build_pose_model", "classroomkd.tasks.pose.models"),
    ("classroomkd.config.lineups", "list_lineups", "classroomkd.recipes.lineups"),
    ("classroomkd.config.pose", "PoseRecipe", "classroomkd.tasks.pose.recipe"),
    ("classroomkd.mentors.sources", "open_mentor", "classroomkd.tasks.classification.mentor"),
    ("classroomkd.tasks.pose.coco_files", "write_results", "classroomkd.tasks.pose.metrics.coco_files"),
]  # fmt: skip
NAMES = [
    ("classroomkd.config", "Recipe", "classroomkd.tasks.classification.recipe"),
    ("classroomkd.config", "PoseRecipe", "classroomkd.tasks.pose.recipe"),
    ("classroomkd.config.schema", "SGD", "classroomkd.config.training"),
    ("classroomkd.mentors", "open_mentor", "classroomkd.tasks.classification.mentor"),
    ("classroomkd.tasks.pose", "evaluate_pose", "classroomkd.tasks.pose.metrics"),
]


@pytest.mark.parametrize(("old", "name", "new"), MODULES)
def test_modules_that_have_moved(old, name, new):
    for loaded in [module for module in sys.modules if _here(module)]:
        del sys.modules[loaded]
    with pytest.warns(DeprecationWarning, match=r"is now classroomkd\..*goes in the next release"):
        module = importlib.import_module(old)
    assert getattr(module, name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize(("module", "name", "new"), NAMES)
def test_names_that_have_moved(module, name, new):
    with pytest.warns(DeprecationWarning, match=f"{name} is now {new}"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(new), name)


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("classroomkd.data.poses")
    with pytest.raises(AttributeError, match="has no attribute 'Recipee'"):
        importlib.import_module("classroomkd.config").Recipee  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, classroomkd; sys.exit(any(n.startswith('classroomkd.tasks') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
