"""What recipes can name, as lines of text."""

from collections.abc import Iterator


def methods() -> Iterator[str]:
    """Every method: name, year, title, kind, whom it listens to; then its options."""
    from classroomkd.methods import list_methods, method_class, method_options

    hears = {"nobody": "no mentor", "one": "one teacher", "all": "all mentors"}
    for name in list_methods():
        cls = method_class(name)
        needs = hears[cls.listens] + (", features" if cls.needs_features else "")
        yield f"{name:12s} {cls.year or '':4} {cls.title} ({cls.kind}; {needs})"
        for option, field in method_options(name).model_fields.items():
            yield f"{'':17s} {option}: {field.default}"


def models() -> Iterator[str]:
    """Every model, with its parameters in millions at 100 classes."""
    import torch

    from classroomkd.models import build_model, list_models

    for name in list_models():
        with torch.device("meta"):
            parameters = sum(p.numel() for p in build_model(name, 100).parameters())
        yield f"{name:14s} {parameters / 1e6:8.3f} M"


def datasets() -> Iterator[str]:
    """Every data set."""
    from classroomkd.data import list_datasets

    yield from list_datasets()


def recipes() -> Iterator[str]:
    """Every recipe of the package, with the comment at its head."""
    from classroomkd.config import list_recipes

    for name, path in list_recipes().items():
        first = path.read_text().splitlines()[0]
        yield f"{name:22s} {first.removeprefix('#').strip()}"
