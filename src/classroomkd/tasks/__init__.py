"""Tasks: what is learnt, and how well."""

from classroomkd.tasks.classification import evaluate

__all__ = ["evaluate", "headline_title"]


def headline_title(headline: str) -> str:
    """What a result is called in sentences.

    >>> headline_title("top1"), headline_title("PCK@0.2")
    ('top-1', 'PCK@0.2')
    """
    return {"top1": "top-1"}.get(headline, headline)
