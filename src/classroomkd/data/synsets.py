"""WordNet's synsets, which ImageNet's classes are: their words."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

SYNSET = re.compile(r"n\d{8}")


def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the usual order; with timm, each begins with its synset.

    >>> len(imagenet_names()), "goldfish" in imagenet_names()[1]
    (1000, True)
    """
    if words := _timm_words():
        return tuple(f"{synset}, {text}" for synset, text in words.items())
    return _torchvision_names()


def synset_names(synsets: Sequence[str], given: dict[str, str]) -> tuple[str, ...]:
    """Names of classes: each its synset and, where known, its words, commas between.

    Words come from ``given``; or from timm, where that is installed; or, for all of ImageNet-1k,
    from torchvision.

    >>> synset_names(["n00000001", "n00000002"], {"n00000001": "ant, emmet"})
    ('n00000001, ant, emmet', 'n00000002')
    """
    words = dict(_timm_words())
    if not words and len(synsets) == 1000:
        words = dict(zip(sorted(synsets), _torchvision_names(), strict=True))
    words |= {synset: text for synset, text in given.items() if synset not in words}
    return tuple(f"{synset}, {words[synset]}" if synset in words else synset for synset in synsets)


def read_words(lines: Iterable[str]) -> dict[str, str]:
    r"""Words by synset, from lines of a synset, a space or a tab, and its words.

    >>> read_words(["n01440764 tench, Tinca tinca\n", "n00001740\tentity"])
    {'n01440764': 'tench, Tinca tinca', 'n00001740': 'entity'}
    """
    pairs = (line.strip().split(None, 1) for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and SYNSET.fullmatch(pair[0])}


def _torchvision_names() -> tuple[str, ...]:
    """ImageNet-1k's classes in the usual order, two names of which are there twice."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


@cache
def _timm_words() -> dict[str, str]:
    """Words of ImageNet-1k's synsets, in the usual order; none without timm."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return {}
    info = ImageNetInfo()
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))
