"""Components known by name, in words."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping

from upslope.components import default_of, find, required


def described(kinds: Mapping[str, str]) -> Iterator[str]:
    """Each name with its module's first sentence, then its settings and their defaults."""
    for name, where in kinds.items():
        about = (importlib.import_module(where.partition(":")[0]).__doc__ or "").split("\n\n")[0]
        yield f"{name:14}{' '.join(about.split()).replace('``', '`')}"
        for field in dataclasses.fields(find(kinds, name, "component")):
            default = "(required)" if required(field) else repr(default_of(field))
            yield f"{'':14}{field.name} = {default}"
