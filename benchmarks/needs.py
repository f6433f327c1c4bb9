"""What an installed package asks for, but for the packages named after it; a line each, for pip."""

from __future__ import annotations

import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

package, *without = sys.argv[1:]
for need in map(Requirement, requires(package) or ()):
    if need.name not in without and (not need.marker or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
