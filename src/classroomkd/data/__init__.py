"""Small images: sets, where they come from, and views of them as pure functions."""

from classroomkd.data.draws import Draws, permutation
from classroomkd.data.images import ImageSet, development_split
from classroomkd.data.loader import Batch, ViewLoader
from classroomkd.data.sources import list_datasets, load_image_set, register_dataset
from classroomkd.data.strong import erase, jitter, randaugment
from classroomkd.data.views import (
    ViewFunction,
    create_view,
    crop,
    flip,
    list_views,
    make_view,
    register_view,
)

__all__ = [
    "Batch",
    "Draws",
    "ImageSet",
    "ViewFunction",
    "ViewLoader",
    "create_view",
    "crop",
    "development_split",
    "erase",
    "flip",
    "jitter",
    "list_datasets",
    "list_views",
    "load_image_set",
    "make_view",
    "permutation",
    "randaugment",
    "register_dataset",
    "register_view",
]
