"""The vendors, one small file each; the folder is the registry.

``base`` says what there is to know about a provider dialect. A module in this folder that holds a
``provider`` is found by itself.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from keymux.providers.base import Provider


def by_name(dialects: Iterable[Provider]) -> Mapping[str, Provider]:
    """The dialects by their names.

    Raises:
        ValueError: two share a name.
    """
    found: dict[str, Provider] = {}
    for provider in dialects:
        if provider.name in found:
            raise ValueError(f"two files of {__name__} call their provider {provider.name!r}")
        found[provider.name] = provider
    return MappingProxyType(found)


def _in_this_folder() -> Iterator[Provider]:
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        provider = getattr(importlib.import_module(f"{__name__}.{module}"), "provider", None)
        if isinstance(provider, Provider):
            yield provider


CATALOGUE = by_name(_in_this_folder())
"""Every provider dialect by the name that ``kind`` uses in the config."""
