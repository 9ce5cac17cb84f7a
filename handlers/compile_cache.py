"""The documented name of `handlers.optimization.compile_cache.save`."""

from handlers.optimization.compile_cache import save

__all__ = ["save"]
