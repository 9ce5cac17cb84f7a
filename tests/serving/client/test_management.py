"""The errors that the server's refusals become; tests/integration/test_client.py asks a real one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.client import Address, ManagementClient, Transport
from serving.client.transport import Reply, error_of
from serving.errors import ModelApiOffError, ReplyError


class Refusing(Transport):
    """A server that answers everything with one error of the frontend's."""

    def __init__(self, status: int, kind: str) -> None:
        super().__init__(Address("http://127.0.0.1:1"))
        self._answer = Reply(status, {}, json.dumps({"code": status, "type": kind, "message": "no"}).encode(), 0.0)

    def request(self, *_: Any, **__: Any) -> Reply:
        return self._answer


def test_a_server_without_the_model_api_says_how_to_start_it() -> None:
    client = ManagementClient(Refusing(405, "MethodNotAllowedException"))
    for change in (
        lambda: client.register("m.mar"),
        lambda: client.unregister("m"),
        lambda: client.unregister("m", "2"),
    ):
        with pytest.raises(ModelApiOffError, match="its model API is off") as caught:
            change()
        assert "torchmar start --enable-model-api" in (caught.value.hint or "")
        assert caught.value.status == 405


def test_other_refusals_stay_what_they_are() -> None:
    client = ManagementClient(Refusing(404, "ModelNotFoundException"))
    with pytest.raises(ReplyError, match="no \\(HTTP 404\\)") as caught:
        client.unregister("m")
    assert not isinstance(caught.value, ModelApiOffError)
    assert caught.value.hint is None


def test_a_wrong_key_says_where_to_name_it() -> None:
    reply = Refusing(400, "InvalidKeyException").request()
    assert "--token-file" in (error_of(reply, "x").hint or "")


class Answering(Transport):
    """A server that answers everything with one document."""

    def __init__(self, document: Any) -> None:
        super().__init__(Address("http://127.0.0.1:1"))
        self.asked: list[tuple[Any, ...]] = []
        self._body = json.dumps(document).encode()

    def request(self, method: str, path: str, *, params: dict[str, str] | None = None, **_: Any) -> Reply:
        self.asked.append((method, path, params))
        return Reply(200, {}, self._body, 0.0)


_TRAFFIC = "/models/{model_name}/{model_version}/traffic"


@pytest.mark.parametrize("document", [{}, ["no version"], [{"modelName": "m"}, 1], "no", None])
def test_a_description_that_is_none_is_told_as_it_is(document: Any) -> None:
    client = ManagementClient(Answering(document))
    for describe in (client.describe, client.rows, client.default_version):
        with pytest.raises(ReplyError, match="the description of models cannot be read"):
            describe("m")


def test_a_model_without_versions_is_described_by_nothing() -> None:
    client = ManagementClient(Answering([]))
    assert client.describe("m") == client.rows("m") == ()


def test_a_share_is_asked_for_where_the_frontend_knows_shares() -> None:
    played = Answering({"paths": {_TRAFFIC: {}}, "status": "done"})
    client = ManagementClient(played)
    assert client.share("m", "2.0", percent=5, sticky_headers=("x-user", "x-session")) == "done"
    client.share("m", "2.0", percent=0, shadow=True)
    first, second = (asked for asked in played.asked if asked[0] == "PUT")
    params = {"percent": "5", "shadow": "false", "sticky_header": "x-user,x-session"}
    assert first == ("PUT", "/models/m/2.0/traffic", params)
    assert second == ("PUT", "/models/m/2.0/traffic", {"percent": "0", "shadow": "true"})


@pytest.mark.parametrize("document", [{"paths": {"/models": {}}}, {}, {"paths": None}, []])
def test_a_frontend_that_knows_no_shares_is_asked_for_none(document: Any) -> None:
    """TorchServe's would scale the model to one worker."""
    played = Answering(document)
    with pytest.raises(ReplyError, match="cannot share requests out") as caught:
        ManagementClient(played).share("m", "2.0", percent=5)
    assert "--frontend python" in (caught.value.hint or "")
    assert [(method, path) for method, path, _ in played.asked] == [("OPTIONS", "/models/m")]


@pytest.mark.parametrize(
    "document",
    [
        *(7, "text", None, [1], [None], [{}]),
        *([{"modelName": "m", "minWorkers": number}] for number in ("many", {}, float("inf"))),
        *([{"modelName": "m", "workers": workers}] for workers in (1, ["x"])),
        [{"modelName": "m", "traffic": [1]}],
    ],
)
def test_a_played_server_that_describes_nothing_known_is_an_error(document: Any) -> None:
    for ask in (
        lambda client: client.default_version("m"),
        lambda client: client.describe("m"),
        lambda client: client.describe("m", "1.0"),
    ):
        with pytest.raises(ReplyError, match="cannot be read") as caught:
            ask(ManagementClient(Answering(document)))
        assert (caught.value.where or "").startswith("/models/m")
        assert len(caught.value.message) < 400


@pytest.mark.parametrize("document", [7, [], {"models": 1}, {"models": [1]}, {"models": [{}]}])
def test_a_played_server_that_lists_nothing_known_is_an_error(document: Any) -> None:
    with pytest.raises(ReplyError, match="cannot be read"):
        ManagementClient(Answering(document)).models()


def test_a_played_server_whose_list_has_no_end_is_an_error() -> None:
    played = Answering({"models": [], "nextPageToken": "1"})
    with pytest.raises(ReplyError, match="more than 1000 pages"):
        ManagementClient(played).models()


def test_json_within_json_without_end_is_none() -> None:
    deep = Reply(200, {}, b"[" * 100_000, 0.0)
    with pytest.raises(ReplyError, match="not JSON"):
        deep.json()
    assert "[[[" in error_of(deep, "x").message
