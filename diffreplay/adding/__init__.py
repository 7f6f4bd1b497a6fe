"""What adds to a buffer: steps, transitions, and whole vector environments' steps, which `vector` checks.

Imports `checks`, `errors` and `store`.
"""

from diffreplay.adding.steps import Adding

__all__ = ["Adding"]
