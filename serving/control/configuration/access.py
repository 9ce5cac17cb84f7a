"""Who may make a server run code: the model API, the keys, workflows. Decided once, before anything starts.

A client that can register a model can run code as the server's owner: the frontend takes any folder of the machine by
its path. A loopback port is open to every user of the machine, and to the web pages in their browsers. So the model API
is off unless the user asks for it, and then its requests need a key unless the user turns keys off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from archive_tool.errors import InputError
from serving.control.configuration.config import is_loopback, listening_hosts, token_authorization
from serving.control.configuration.settings import is_true
from serving.errors import StartError

#: A workflow store that holds nothing, and that nothing can be downloaded to. The frontend registers workflows whether
#: or not the model API is on.
NO_WORKFLOWS: Final = os.devnull


def model_api(properties: Mapping[str, str]) -> bool:
    """Return whether models can be registered and removed while the server runs."""
    return is_true(properties, "enable_model_api")


def settled(
    properties: Mapping[str, str],
    *,
    enable_model_api: bool,
    disable_token_auth: bool,
    warn: Callable[[str], None],
    given_keys: bool = False,
    trusted_network: bool = False,
    multi_model: Path | None = None,
) -> dict[str, str]:
    """Return a configuration that says who may do what.

    Args:
        properties: the user's over the defaults; what it does not say is decided here.
        enable_model_api: of the command line: turns the API on, and keys with it.
        disable_token_auth: of the command line: turns keys off, whatever else says that they are on.
        warn: gets what leaves the server open, and what has no effect.
        given_keys: the environment gives keys: they are asked for, on loopback, too.
        trusted_network: others see to who reaches it, so it may listen anywhere without keys, and takes no model.
        multi_model: folder from which it takes models all the same.

    Raises:
        StartError: it would listen beyond loopback without token authorization.
        InputError: keys are given, and are to be asked for by nobody.
    """
    if trusted_network:
        return _trusted(properties, given_keys=given_keys, multi_model=multi_model, warn=warn)
    api = enable_model_api or model_api(properties)
    beyond = [host for host in listening_hosts(properties) if not is_loopback(host)]
    if given_keys and (disable_token_auth or not token_authorization(properties)):
        raise InputError(
            "the environment gives keys, and keys are off: disable_token_authorization=true or --disable-token-auth",
            hint="have one of the two",
        )
    if disable_token_auth or enable_model_api:
        keys = not disable_token_auth
    elif "disable_token_authorization" in properties:
        keys = token_authorization(properties)
    else:
        keys = api or given_keys or bool(beyond)
    if beyond and not keys:
        raise StartError(
            f"refusing to listen on {', '.join(sorted(set(beyond)))} without token authorization: "
            "anybody who reaches it could use and change the server",
            hint="remove disable_token_authorization=true and --disable-token-auth, "
            "or listen on 127.0.0.1 behind a proxy",
        )
    if api and not keys:
        warn(
            "the model API is on and asks for no key: every user of this machine, and every web page in a browser on "
            "it, can make this server run code"
        )
    store = properties.get("workflow_store", NO_WORKFLOWS)
    if not api and store != NO_WORKFLOWS:
        warn(f"workflow_store={store} is not used: workflows load code, which needs the model API (--enable-model-api)")
    decided = {"enable_model_api": str(api).lower(), "disable_token_authorization": str(not keys).lower()}
    return {**properties, **decided} if api else {**properties, **decided, "workflow_store": NO_WORKFLOWS}


def _trusted(
    properties: Mapping[str, str], *, given_keys: bool, multi_model: Path | None, warn: Callable[[str], None]
) -> dict[str, str]:
    """Return a configuration without keys and without the model API, whatever the user's says."""
    if given_keys:
        raise InputError(
            "the environment gives keys, and says that the network is trusted, where none is asked for",
            hint="have one of the two",
        )
    off = " (enable_model_api=true of the configuration is not used)" if model_api(properties) else ""
    warn(
        "the network is trusted: no request needs a key, and whoever reaches this server can use its models; "
        f"the model API is off{off}{f', but SageMaker may load what lies below {multi_model}' if multi_model else ''}"
    )
    decided = {"enable_model_api": "false", "disable_token_authorization": "true", "workflow_store": NO_WORKFLOWS}
    return {**properties, **decided}
