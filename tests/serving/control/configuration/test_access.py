"""Who may make a server run code; tests/integration/test_access.py attacks real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import access, config
from serving.control.configuration.access import NO_WORKFLOWS, settled
from serving.errors import StartError

WILD = "http://0.0.0.0:8080"


def settle(user: dict[str, str], *flags: str) -> tuple[dict[str, str], list[str]]:
    """Return what holds with a config.properties and flags of the command line, and the warnings."""
    warned: list[str] = []
    found = settled(
        config.effective(user, port=None, workers=None),
        enable_model_api="--enable-model-api" in flags,
        disable_token_auth="--disable-token-auth" in flags,
        warn=warned.append,
        given_keys="given" in flags,
        trusted_network="trusted" in flags,
    )
    return found, warned


API, NO_KEYS, KEYS = (
    {"enable_model_api": "true"},
    {"disable_token_authorization": "true"},
    {"disable_token_authorization": "false"},
)
MAPI, DT = "--enable-model-api", "--disable-token-auth"


@pytest.mark.parametrize(
    ("user", "flags", "api", "keys"),
    [
        ({}, (), False, False),
        ({}, (DT,), False, False),
        ({}, (MAPI,), True, True),
        ({}, (MAPI, DT), True, False),
        (KEYS, (), False, True),
        (KEYS, (DT,), False, False),
        (KEYS, (MAPI,), True, True),
        (NO_KEYS, (), False, False),
        (NO_KEYS, (MAPI,), True, True),  # the repository's config.properties has it
        (NO_KEYS, (MAPI, DT), True, False),
        (API, (), True, True),
        (API, (DT,), True, False),
        (API | KEYS, (), True, True),
        (API | NO_KEYS, (), True, False),
        (API | NO_KEYS, (MAPI,), True, True),
        ({"enable_model_api": "yes"}, (), False, False),
        ({"enable_model_api": " TRUE "}, (), True, True),
        ({"inference_address": WILD}, (), False, True),
        ({"inference_address": WILD}, (MAPI,), True, True),
        ({"inference_address": WILD} | NO_KEYS, (MAPI,), True, True),
    ],
)
def test_the_model_api_and_keys(user: dict[str, str], flags: tuple[str, ...], api: bool, keys: bool) -> None:
    found, warned = settle(user, *flags)
    assert (access.model_api(found), config.token_authorization(found)) == (api, keys)
    # Java reads nothing but these two.
    assert found["enable_model_api"] == str(api).lower()
    assert found["disable_token_authorization"] == str(not keys).lower()
    assert len(warned) == (api and not keys)
    assert all("every web page" in text for text in warned)


@pytest.mark.parametrize("key", ["inference_address", "grpc_management_address"])
@pytest.mark.parametrize(("user", "flags"), [(NO_KEYS, ()), ({}, (DT,)), (API | NO_KEYS, ()), (KEYS, (DT,))])
def test_listening_beyond_loopback_without_keys_is_refused(
    key: str, user: dict[str, str], flags: tuple[str, ...]
) -> None:
    with pytest.raises(StartError, match=r"0\.0\.0\.0 without token authorization") as caught:
        settle(user | {key: "0.0.0.0" if key.startswith("grpc") else WILD}, *flags)
    assert caught.value.hint


def test_workflows_need_the_model_api(tmp_path: Path) -> None:
    store = str(tmp_path)
    assert settle({})[0]["workflow_store"] == NO_WORKFLOWS
    found, (warning,) = settle({"workflow_store": store})
    assert found["workflow_store"] == NO_WORKFLOWS
    assert f"workflow_store={store} is not used" in warning
    assert settle({"workflow_store": NO_WORKFLOWS})[1] == []
    assert settle({"workflow_store": store}, MAPI)[0]["workflow_store"] == store
    assert "workflow_store" not in settle({}, MAPI)[0]  # then it is the model store, as in TorchServe


@pytest.mark.parametrize("user", [{}, API, KEYS, API | KEYS, {"workflow_store": "."}])
def test_a_trusted_network_needs_no_keys_and_takes_no_models(user: dict[str, str]) -> None:
    found, (warning,) = settle({**user, "inference_address": WILD}, "trusted")
    assert (access.model_api(found), config.token_authorization(found)) == (False, False)
    assert found["workflow_store"] == NO_WORKFLOWS
    assert warning.startswith("the network is trusted: no request needs a key")
    assert ("enable_model_api=true of the configuration is not used" in warning) == ("enable_model_api" in user)


def test_given_keys_are_asked_for() -> None:
    found, warned = settle({}, "given")
    assert (access.model_api(found), config.token_authorization(found), warned) == (False, True, [])


@pytest.mark.parametrize(("user", "flags"), [({}, (DT,)), (NO_KEYS, ()), ({}, ("trusted",))])
def test_given_keys_that_nobody_asks_for_are_refused(user: dict[str, str], flags: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="the environment gives keys") as error:
        settle(user, "given", *flags)
    assert error.value.hint == "have one of the two"
