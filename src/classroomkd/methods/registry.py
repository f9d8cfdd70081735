"""The methods by name, and their options by what their signatures say."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from classroomkd.errors import nearest, unknown_name
from classroomkd.methods import published
from classroomkd.methods.base import Method
from classroomkd.methods.published import PublishedValue, Setting

# Weights that standardised logits multiply by 9, as LSKD's code does those of DKD: z-scores have
# small logits, and with them small gradients. Elsewhere than for KD and DKD, this is ours.
_STANDARDIZED = {
    "dkd": ("alpha", "beta"),
    "rld": ("alpha", "beta"),
    "wsld": ("weight",),
    "aver": ("weight",),
    "ebkd": ("weight",),
    "dgkd": ("weight",),
    "ca_mkd": ("weight",),
}
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


def option_errors(name: str, options: Mapping[str, Any]) -> dict[str, str]:
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


def published_options(
    name: str, options: Mapping[str, Any], setting: Setting | None = None
) -> dict[str, PublishedValue]:
    """What is published for the options of a method, whatever they are set to.

    With ``standardize``, the options of `lskd` for `kd`; temperature 2 and 9 times the weights for
    other methods on the KL divergence.

    Args:
        name: of the method.
        options: valid ones, as they are given; of them, only ``standardize`` matters.
        setting: data set and networks; None if they are not known.

    Example:
        >>> {option: found.value for option, found in published_options("kd", {}).items()}
        {}
        >>> found = published_options("kd", {"standardize": True})
        >>> {option: each.value for option, each in found.items()}
        {'temperature': 2.0, 'weight': 9.0, 'task_weight': 0.1}
    """
    setting = setting or Setting()
    given = method_options(name).model_validate(dict(options))
    if not getattr(given, "standardize", False):
        return published.values(name, setting)
    if name == "kd":
        return _defaults("lskd", "LSKD") | published.values("lskd", setting)
    found = published.values(name, setting)
    if name not in _STANDARDIZED:
        return found
    usual = _defaults(name, "default") | found
    scaled = {
        option: PublishedValue(9 * usual[option].value, f"LSKD: 9 times {usual[option].source}")
        for option in _STANDARDIZED[name]
    }
    return found | {"temperature": PublishedValue(2.0, "LSKD")} | scaled


def _defaults(name: str, source: str) -> dict[str, PublishedValue]:
    fields = method_options(name).model_fields
    return {option: PublishedValue(field.default, source) for option, field in fields.items()}


def create_method(name: str, **options: object) -> Method:
    """Build a method by name.

    With ``standardize``, options that are not given are those that go with it: see
    `published_options`.

    Raises:
        ValueError: for an unknown method or option, naming the nearest, and for a bad value.

    Example:
        >>> create_method("kd", temperature=2).num_mentors
        1
        >>> create_method("kd", temprature=2)
        Traceback (most recent call last):
        ...
        ValueError: temprature: unknown option of kd: did you mean 'temperature'? ...
    """
    if mistakes := option_errors(name, options):
        raise ValueError("; ".join(f"{option}: {text}" for option, text in mistakes.items()))
    filled = {option: found.value for option, found in published_options(name, options).items()}
    values = method_options(name).model_validate(filled | options)
    return method_class(name)(**{field: getattr(values, field) for field in filled | options})
