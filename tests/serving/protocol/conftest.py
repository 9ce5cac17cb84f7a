"""The stock backend's codec, which ours is compared with."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def stock() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ts.protocol import otf_message_handler

    return otf_message_handler
