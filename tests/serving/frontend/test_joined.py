"""Whose a request is where several APIs share an address."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.frontend.entrance import App, Receive, Scope, Send
from serving.frontend.joined import api_of, joined


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/", "inference"),
        ("", "inference"),
        ("/ping", "inference"),
        ("/predictions/models", "inference"),
        ("/explanations/m/1.0", "inference"),
        ("/api-description", "inference"),
        ("/models", "management"),
        ("/models/m", "management"),
        ("/models/m/1.0/set-default", "management"),
        ("/models/m/invoke", "inference"),
        ("/models/m/1.0/invoke", "management"),
        ("/invocations", "inference"),
        ("/v1/models/m", "inference"),
        ("/v1/models/m:predict", "inference"),
        ("/v2/models/m/infer", "inference"),
        ("/token", "management"),
        ("/workflows", "management"),
        ("/metrics", "metrics"),
        ("/metrics/predict", "inference"),
        ("/m/predict", "inference"),
        ("/console", "management"),
        ("/console/models/m", "management"),
        ("/docs", "management"),
        ("/docs/predict", "inference"),
        ("/livez", "inference"),
        ("/readyz", "inference"),
    ],
)
def test_the_path_tells(path: str, api: str) -> None:
    assert api_of(path) == api


def names(name: str, seen: list[str]) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(f"{name} {scope['path']}")

    return app


def test_the_applications_that_share_an_address_are_asked_what_is_theirs() -> None:
    seen: list[str] = []
    both = joined({"inference": names("inference", seen), "metrics": names("metrics", seen)})
    nothing: Any = None
    for path in ("/ping", "/metrics", "/models"):  # nobody's here: it gets the answer that inference has for it
        asyncio.run(both({"type": "http", "path": path}, nothing, nothing))  # type: ignore[arg-type]
    assert seen == ["inference /ping", "metrics /metrics", "inference /models"]


def test_one_alone_is_asked_everything() -> None:
    app = names("metrics", [])
    assert joined({"metrics": app}) is app
