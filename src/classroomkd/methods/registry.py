"""The methods by name, and their options by what their signatures say."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from classroomkd.errors import nearest, unknown_name
from classroomkd.methods.base import Method

_METHODS: dict[str, type[Method]] = {}


def register_method(name: str) -> Callable[[type[Method]], type[Method]]:
    """Class decorator that makes a method known by ``name``: in recipes, suites and on the CLI.

    Example:
        >>> @register_method("blind_trust")
        ... class BlindTrust(Method):
        ...     title = "Cross-entropy, and the mean of the mentors' KL"
        ...     def __init__(self, *, temperature: float = 2.0) -> None:
        ...         super().__init__()
        ...         self.temperature = temperature
        >>> "blind_trust" in list_methods()
        True
        >>> del _METHODS["blind_trust"]
    """

    def register(cls: type[Method]) -> type[Method]:
        if name in _METHODS:
            raise ValueError(f"method '{name}' is registered already, by {_METHODS[name].__name__}")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return register


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The class registered as ``name``; a ValueError names the nearest if there is none."""
    if name not in _METHODS:
        raise ValueError(unknown_name("method", name, _METHODS))
    return _METHODS[name]


def method_options(name: str) -> type[BaseModel]:
    """The options of a method as a pydantic model, made from its signature."""
    signature = inspect.signature(method_class(name), eval_str=True)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    named = [p for p in named if p.kind is not p.VAR_KEYWORD]
    fields: dict[str, Any] = {p.name: (p.annotation, p.default) for p in named}
    return create_model(f"{name} options", __config__=ConfigDict(extra="forbid"), **fields)


def option_mistakes(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a method's options: a message for each option, empty if all is well."""
    model = method_options(name)
    try:
        model.model_validate(dict(options))
    except ValidationError as error:
        known = model.model_fields
        mistakes: dict[str, str] = {}
        for item in error.errors():
            option, text = str(item["loc"][0]), item["msg"]
            if item["type"] == "extra_forbidden":
                hint = nearest(option, known)
                text = f"unknown option of {name}{hint} (known: {', '.join(known) or 'none'})"
            elif option in mistakes:  # each branch of a union says what it expects
                text = f"{mistakes[option]}, or {text.removeprefix('Input should be ')}"
            mistakes[option] = text
        return {
            option: f"{text}, got {options[option]!r}" if option in known else text
            for option, text in mistakes.items()
        }
    return {}


def create_method(name: str, **options: object) -> Method:
    """Build a method by name.

    Raises:
        ValueError: for an unknown method or option, naming the nearest, and for a bad value.

    Example:
        >>> create_method("kd", temperature=2).listens
        'one'
        >>> create_method("kd", temprature=2)
        Traceback (most recent call last):
        ...
        ValueError: temprature: unknown option of kd: did you mean 'temperature'? ...
    """
    if mistakes := option_mistakes(name, options):
        raise ValueError("; ".join(f"{option}: {text}" for option, text in mistakes.items()))
    values = method_options(name).model_validate(options)
    return method_class(name)(**{field: getattr(values, field) for field in options})
