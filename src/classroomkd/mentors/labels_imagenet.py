"""ImageNet-1k's classes: their WordNet ids, their words, and the usual order of the logits."""

import re
import unicodedata
from functools import cache

_WORDNET_ID = re.compile(r"n\d{8}")


def plain(name: str) -> str:
    """A name in the spelling in which names are compared.

    >>> plain("Great-white_Shark")
    'great white shark'
    """
    letters = unicodedata.normalize("NFKC", name).casefold()  # folders of macOS are not composed
    return " ".join(re.sub(r"[_-]", " ", letters).replace("\u2019", "'").split())


def synonyms(name: str) -> list[str]:
    """What stands between the commas of a name, in plain spelling, without WordNet ids.

    >>> synonyms("n01440764, tench, Tinca tinca")
    ['tench', 'tinca tinca']
    >>> synonyms("n02085620-Chihuahua")
    ['chihuahua']
    """
    parts = (plain(part) for part in _WORDNET_ID.sub(" ", name).split(","))
    return [part for part in parts if part]


def wordnet_id(name: str) -> str:
    """The WordNet id in a name, or nothing.

    >>> wordnet_id("n01440764_tench"), wordnet_id("tench")
    ('n01440764', '')
    """
    found = _WORDNET_ID.search(name)
    return found[0] if found else ""


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the usual order, synonyms with commas between.

    >>> len(imagenet_classes()), "goldfish" in imagenet_classes()[1]
    (1000, True)
    """
    from torchvision.models import ResNet18_Weights

    return _wordnet() or tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def wordnet_words(identity: str) -> str:
    """The words of a WordNet id of ImageNet-1k; empty where it is not known.

    >>> wordnet_words("n01440764")
    'tench, Tinca tinca'
    """
    return _words().get(identity, "")


def wordnet_ids(names: tuple[str, ...]) -> list[str]:
    """The WordNet ids of classes, empty where unknown: those in their names, or by their order."""
    own = [wordnet_id(name) for name in names]
    before = classes_before_imagenet(names)
    return own if any(own) or before is None else ["" for _ in range(before)] + list(_words())


@cache
def classes_before_imagenet(names: tuple[str, ...]) -> int | None:
    """How many classes come before ImageNet's 1000 in the usual order; None if they are others.

    Some networks have one for the background first. Libraries do not spell all names alike, so a
    few may be unknown; but a name that is known elsewhere in the list says that the order is
    another.

    >>> classes_before_imagenet(("background", *imagenet_classes()))
    1
    >>> classes_before_imagenet(imagenet_classes()[::-1]) is None
    True
    """
    usual = imagenet_classes()
    before = len(names) - len(usual)
    if before not in (0, 1):
        return None
    known = [_keys(name) for name in usual]
    every = set().union(*known)
    own = [_keys(name) for name in names[before:]]
    strange = [keys for keys, here in zip(own, known, strict=True) if keys.isdisjoint(here)]
    return before if len(strange) <= 100 and all(map(every.isdisjoint, strange)) else None


def _keys(name: str) -> set[str]:
    return {*synonyms(name), wordnet_id(name)} - {""}


@cache
def _wordnet() -> tuple[str, ...]:
    """Id and words of ImageNet-1k's classes in the usual order, from timm; empty without it."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo()
    names = zip(info.label_names(), info.label_descriptions(), strict=True)
    return tuple(f"{identity}, {words}" for identity, words in names)


@cache
def _words() -> dict[str, str]:
    """Words of each WordNet id of ImageNet-1k."""
    pairs = (name.partition(", ") for name in _wordnet())
    return {identity: words for identity, _, words in pairs}
