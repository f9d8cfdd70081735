"""Frozen networks made as fast as they can be, without a change of results."""

from classroomkd.mentors.tuning.cache import TuningCache, cache_path
from classroomkd.mentors.tuning.fold import Fold, apply_folds, find_folds, fold_batch_norm
from classroomkd.mentors.tuning.measure import Choice, Timing, choose_variant, pick
from classroomkd.mentors.tuning.memory import keep_freed_memory
from classroomkd.mentors.tuning.variants import Tuned, Variant, list_variants, tuned

__all__ = [
    "Choice",
    "Fold",
    "Timing",
    "Tuned",
    "TuningCache",
    "Variant",
    "apply_folds",
    "cache_path",
    "choose_variant",
    "find_folds",
    "fold_batch_norm",
    "keep_freed_memory",
    "list_variants",
    "pick",
    "tuned",
]
