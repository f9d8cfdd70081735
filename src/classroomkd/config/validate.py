"""What cannot go together in a recipe, though each part of it is right by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classroomkd.config.schema import MethodRecipe, RunRecipe
    from classroomkd.methods import Method


def build_method(recipe: MethodRecipe) -> Method | None:
    """The method as its options make it; None if something is wrong with these."""
    from classroomkd.methods import create_method

    try:
        return create_method(recipe.name, **recipe.options)
    except ValueError:
        return None


def validate(recipe: RunRecipe) -> Iterator[str]:
    """Mistakes that any task may have, each with its path and cure.

    A method with wrong options is left out of them.
    """
    stored = recipe.bank is not None or any(mentor.outputs for mentor in recipe.mentors)
    if (method := build_method(recipe.method)) is None:
        return
    yield from _learning_mentors(recipe, method)
    yield from _soft_targets(recipe, method)
    yield from _sharded_mentors(recipe, method, stored)
    yield from _unmeasured_mentors(recipe, method)
    yield from _stored_mentors(recipe, method, stored)
    yield from _skipped_mentors(recipe, method)


def _stored_mentors(recipe: RunRecipe, method: Method, stored: bool) -> Iterator[str]:
    if stored and (method.needs_features or method.views > 1):
        wants = "reads features" if method.needs_features else "wants two views of a sample"
        yield (
            f"method: '{recipe.method.name}' {wants}, and a bank holds the logits of one view:"
            " leave bank out, or use another method"
        )


def _skipped_mentors(recipe: RunRecipe, method: Method) -> Iterator[str]:
    if recipe.train.skip is not None and (method.needs_features or recipe.bank is not None):
        yield (
            "train.skip: it leaves out mentors whose logits hardly teach, and goes"
            " neither with methods that read features nor with a bank; leave it out"
        )


def _learning_mentors(recipe: RunRecipe, method: Method) -> Iterator[str]:
    learning = [place for place, mentor in enumerate(recipe.mentors) if mentor.train]
    if learning and not method.mutual:
        yield (
            f"mentors[{learning[0]}].train: mentors cannot train along with the method"
            f" '{method.name}': use one of logits that learns from many, such as dml"
        )


def _soft_targets(recipe: RunRecipe, method: Method) -> Iterator[str]:
    mixing, smoothing = (getattr(recipe.data, key, None) for key in ("mixing", "smoothing"))
    soft = {"data.mix": mixing, "data.smoothing": smoothing}
    if (given := [key for key, value in soft.items() if value]) and not method.soft_targets:
        yield (
            f"{given[0]}: the method '{method.name}' needs each sample's one true class, which"
            f" {' and '.join(given)} take away: leave them out, or use another method"
        )


def _sharded_mentors(recipe: RunRecipe, method: Method, stored: bool) -> Iterator[str]:
    if recipe.train.mentor_placement != "shard":
        return
    others = {
        f"the method '{method.name}', which reads features": method.needs_features,
        "a bank": stored,
        "mentors that train along": any(mentor.train for mentor in recipe.mentors),
        "train.skip": recipe.train.skip is not None,
    }
    if found := [what for what, there in others.items() if there]:
        yield (
            "train.mentor_placement: shard has each mentor in one process, which tells the others"
            f" its logits at every step; it does not go with {' and '.join(found)}: leave it out,"
            " or use offload"
        )


def _unmeasured_mentors(recipe: RunRecipe, method: Method) -> Iterator[str]:
    if not method.needs_accuracy:
        return
    lacking = {
        "data.dev=0, since there is nothing to measure it on": not recipe.data.dev,
        "mentors that train along, whose accuracy changes": any(m.train for m in recipe.mentors),
        "mentors of which only outputs are here": any(m.outputs for m in recipe.mentors),
        "train.mentor_placement: shard": recipe.train.mentor_placement == "shard",
    }
    if found := [what for what, there in lacking.items() if there]:
        yield (
            "method.prior: each mentor's accuracy on the development split is measured before"
            f" training, which does not go with {' and '.join(found)}: leave method.prior out, or"
            " these"
        )
