"""vitlab: pretraining and evaluation of vision transformers for dense prediction."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitlab.api import FitResult, analyze, evaluate, fit, load

__all__ = ["FitResult", "analyze", "evaluate", "fit", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return a function of `vitlab.api`; torch is imported only then."""
    if name in __all__:
        return getattr(importlib.import_module("vitlab.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
