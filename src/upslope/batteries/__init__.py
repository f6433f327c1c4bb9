"""Contract batteries: what must hold of every algorithm, env and engine, built in or a user's own.

Continuous integration and ``upslope check`` run the same. Each raises UserError, one sentence, at
the first thing that fails, and returns what was proven.
"""

from upslope.batteries.algorithm import check_algorithm
from upslope.batteries.engine import check_engine
from upslope.batteries.env import check_env

__all__ = ["check_algorithm", "check_engine", "check_env"]
