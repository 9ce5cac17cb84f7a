import importlib.util
import inspect
from typing import Any

from ts.context import Context as StockContext

from handlers import Context

NAMES = {*Context.__annotations__, *(name for name in vars(Context) if not name.startswith("_"))}
#: What only torchmar's worker has.
OURS = {"deadline", "attempt", "trace", "get_deadline", "get_attempt", "get_trace"}


def untouched() -> Any:
    """Return TorchServe's own class; torchmar's worker adds to the one that everybody else imports."""
    spec = importlib.util.find_spec("ts.context")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Context


def test_the_stock_context_offers_all_that_the_sdk_uses():
    context = untouched()("model", "", {}, 1, None, "0.12.0")
    assert {name for name in NAMES if not hasattr(context, name)} == OURS


def test_methods_take_the_same_arguments():
    for name in ("get_request_header", "set_response_status", "set_response_content_type"):
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Context, StockContext))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]
