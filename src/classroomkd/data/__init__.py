"""Images in memory and in files: sets, where they come from, views as pure functions."""

from classroomkd.data.crops import ResizedCrop, resized_crop
from classroomkd.data.draws import Draws, permutation
from classroomkd.data.folder import read_folder
from classroomkd.data.images import ImageSet, development_split
from classroomkd.data.loader import Batch, ViewLoader
from classroomkd.data.mixing import Mixing
from classroomkd.data.photos import PhotoSet
from classroomkd.data.selection import LabelNoise, training_selection
from classroomkd.data.sources import list_datasets, load_image_set, register_dataset
from classroomkd.data.strong import cutout, erase, jitter, randaugment
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
    "LabelNoise",
    "Mixing",
    "PhotoSet",
    "ResizedCrop",
    "ViewFunction",
    "ViewLoader",
    "create_view",
    "crop",
    "development_split",
    "cutout",
    "erase",
    "flip",
    "jitter",
    "list_datasets",
    "list_views",
    "load_image_set",
    "make_view",
    "permutation",
    "randaugment",
    "read_folder",
    "register_dataset",
    "register_view",
    "resized_crop",
    "training_selection",
]
