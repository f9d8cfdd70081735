"""Whether task and mentors are heard beside each other: looked at in the first lesson of a run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from classroomkd.config.published import fill_published
from classroomkd.config.schema import MethodRecipe, RunRecipe
from classroomkd.core import Lesson
from classroomkd.engine.gradients import Sources, term_norms
from classroomkd.methods import Method, method_options

DROWNED = 20.0
"""Times the task's gradient from which mentors drown it, where a recipe chooses options."""
DROWNED_AS_USUAL = 200.0
"""The same for usual options: published weights begin with a hundred times (docs/cards.md)."""
UNHEARD = 0.02
"""Times the task's gradient below which mentors hardly count."""


class FirstLesson:
    """Looks at one lesson as it is made, and says if mentors drown the task or are not heard.

    It costs two backward passes, once.

    Args:
        recipe: of the run.
        student: who learns in it.
        method: at any weight of its warm-up.
        say: told the warning, if there is one.
    """

    def __init__(
        self, recipe: RunRecipe, student: nn.Module, method: Method, say: Callable[[str], object]
    ) -> None:
        self._recipe, self._student, self._method, self._say = recipe, student, method, say
        self._sources: Sources | None = Sources()

    def made(self) -> AbstractContextManager[Any]:
        """To be entered while a lesson is made of what was said."""
        return self._sources or nullcontext()

    def look(self, lesson: Lesson) -> None:
        """Judge the first lesson; later ones are let pass."""
        if self._sources is None:
            return
        sources, self._sources = self._sources, None
        parameters = [p for p in self._student.parameters() if p.requires_grad]
        task, mentors = term_norms(lesson, sources, parameters)
        method = self._recipe.method
        if isinstance(option(method, "task_weight"), str):  # it rises to 1 as the student learns
            task /= max(lesson.student_score.mean().item(), 1e-6)
        times = mentors / task / getattr(self._method, "ramp", 1.0) if task and mentors else 1.0
        if (found := imbalance(method, times, usual=usual_options(self._recipe))) is not None:
            text, cure = found
            self._say(
                f"{text} (in the first batch, at full weight, their gradient is {times:.2g} times"
                f" the task's): {cure}"
            )


def imbalance(method: MethodRecipe, times: float, *, usual: bool) -> tuple[str, str] | None:
    """What is wrong and what to do about it, in words; None if mentors and task are both heard.

    Args:
        method: of the recipe.
        times: the norm of the gradient of the mentors' terms over that of the task's.
        usual: whether its options are the usual or published ones.

    Example:
        >>> imbalance(MethodRecipe(name="kd", weight=1000), 260.0, usual=False)
        ('the mentors drown the task', 'lower method.weight, or set method.task_weight=1')
        >>> imbalance(MethodRecipe(name="kd"), 2.6, usual=True)
    """
    if times < UNHEARD:
        options = method_options(method.name).model_fields
        cure = "raise method.weight" if "weight" in options else "use other mentors or methods"
        return "the mentors hardly count beside the task", cure
    if times <= (DROWNED_AS_USUAL if usual else DROWNED):
        return None
    return "the mentors drown the task", lighter_mentors(method)


def usual_options(recipe: RunRecipe) -> bool:
    """Whether every option of a recipe's method is the usual one, or the one that is published."""
    name = recipe.method.name
    bare = fill_published(recipe.model_copy(update={"method": MethodRecipe(name=name)})).method
    return all(value == option(bare, key) for key, value in recipe.method.options.items())


def lighter_mentors(method: MethodRecipe) -> str:
    """How the task comes to count more: the option that makes the mentors' terms so large."""
    if (also := option(method, "also")) is not None:
        name = also if isinstance(also, str) else also["name"]
        return f"lower the weight of the second method: method.also={{name: {name}, weight: ...}}"
    known = {
        "weight": "lower method.weight",
        "balance": "lower method.balance",
        "task_weight": "set method.task_weight=1",
        "temperature": "lower method.temperature",
    }
    done = {"task_weight"} if option(method, "task_weight") == 1 else set()
    options = method_options(method.name).model_fields.keys() - done
    cures = [cure for name, cure in known.items() if name in options]
    return ", or ".join(cures[:2]) or "lower the mentors' weight"


def option(method: MethodRecipe, name: str) -> Any:
    """The value of an option of the method, given or usual; None if it has none such."""
    fields = method_options(method.name).model_fields
    usual = fields[name].default if name in fields else None
    return method.options.get(name, usual)
