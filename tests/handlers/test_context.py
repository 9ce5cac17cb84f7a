import inspect

from ts.context import Context as StockContext

from handlers import Context


def test_the_stock_context_offers_all_that_the_sdk_uses():
    context = StockContext("model", "", {}, 1, None, "0.12.0")
    for name in (*Context.__annotations__, *(n for n in vars(Context) if not n.startswith("_"))):
        assert hasattr(context, name)


def test_methods_take_the_same_arguments():
    for name in ("get_request_header", "set_response_status", "set_response_content_type"):
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (Context, StockContext))
        assert [(p.name, p.default) for p in ours.parameters.values()] == [
            (p.name, p.default) for p in theirs.parameters.values()
        ]
