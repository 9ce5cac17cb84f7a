"""Keys, in themselves and over a played engine."""

from __future__ import annotations

import json
import os
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from serving.control.keys import key_in_file
from serving.frontend.apps.keys import Keys, Kind
from serving.frontend.errors import ConflictError, InternalError, InvalidKeyError

from .conftest import served


def _file(folder: Path) -> Path:
    return folder / "key_file.json"


def _key(folder: Path, kind: str) -> str:
    return str(json.loads(_file(folder).read_text())[kind]["key"])


def test_the_file_is_for_its_owner_and_has_torchserves_form(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Keys(_file(tmp_path), 60)
    finally:
        os.umask(before)
    assert stat.S_IMODE(_file(tmp_path).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key_file.json"]
    document = json.loads(_file(tmp_path).read_text())
    assert list(document) == ["management", "inference", "API"]
    assert list(document["API"]) == ["key"]
    expires = datetime.strptime(document["inference"]["expiration time"], "%Y-%m-%dT%H:%M:%S.%fZ")
    left = expires.replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)
    assert timedelta(minutes=59) < left <= timedelta(minutes=60)
    assert len({entry["key"] for entry in document.values()}) == 3


def test_the_reader_of_the_command_line_finds_them(tmp_path: Path) -> None:
    keys = Keys(_file(tmp_path), 60)
    keys.check("inference", f"Bearer {key_in_file(_file(tmp_path), 'inference', None)}")
    keys.check("management", f"Bearer {key_in_file(_file(tmp_path), 'management', None)}")


@pytest.mark.parametrize("kind", ["inference", "management", "API"])
def test_each_key_opens_its_own_api(tmp_path: Path, kind: Kind) -> None:
    keys = Keys(_file(tmp_path), 60)
    kinds: tuple[Kind, ...] = ("inference", "management", "API")
    for other in kinds:
        given = f"Bearer {_key(tmp_path, other)}"
        if other == kind:
            keys.check(kind, given)
        else:
            with pytest.raises(InvalidKeyError, match="Token Authorization failed"):
                keys.check(kind, given)


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer x", "Bearer \xe4", "{key}", "bearer {key}", "Bearer {key} x"])
def test_what_is_no_key_opens_nothing(tmp_path: Path, given: str) -> None:
    keys = Keys(_file(tmp_path), 60)
    with pytest.raises(InvalidKeyError):
        keys.check("inference", given.format(key=_key(tmp_path, "inference")))


def test_a_key_expires_but_the_one_that_renews(tmp_path: Path) -> None:
    keys = Keys(_file(tmp_path), 1e-9)
    with pytest.raises(InvalidKeyError):
        keys.check("inference", f"Bearer {_key(tmp_path, 'inference')}")
    keys.check("API", f"Bearer {_key(tmp_path, 'API')}")


def test_a_renewed_key_replaces_the_one_before(tmp_path: Path) -> None:
    keys = Keys(_file(tmp_path), 60)
    before = {kind: _key(tmp_path, kind) for kind in ("inference", "management", "API")}
    keys.renew(f"Bearer {before['API']}", "inference")
    assert _key(tmp_path, "management") == before["management"]
    assert _key(tmp_path, "API") == before["API"]
    with pytest.raises(InvalidKeyError):
        keys.check("inference", f"Bearer {before['inference']}")
    keys.check("inference", f"Bearer {_key(tmp_path, 'inference')}")


def test_who_may_have_a_key_has_one_that_is_good(tmp_path: Path) -> None:
    assert Keys(_file(tmp_path), 60).current("inference") == _key(tmp_path, "inference")
    keys = Keys(_file(tmp_path), 0)
    before = _key(tmp_path, "inference")
    assert keys.current("inference") == _key(tmp_path, "inference") != before


@pytest.mark.parametrize("kind", ["API", "", "other"])
def test_only_the_keys_of_the_apis_are_renewed(tmp_path: Path, kind: str) -> None:
    keys = Keys(_file(tmp_path), 60)
    with pytest.raises(InvalidKeyError, match="Token Authentication failed"):
        keys.renew(f"Bearer {_key(tmp_path, 'API')}", kind)


def test_a_key_that_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    keys = Keys(_file(folder), 60)
    inference, api = _key(folder, "inference"), _key(folder, "API")
    folder.rename(tmp_path / "away")
    with pytest.raises(InternalError, match="key file cannot be written"):
        keys.renew(f"Bearer {api}", "inference")
    keys.check("inference", f"Bearer {inference}")


def test_a_life_without_end(tmp_path: Path) -> None:
    Keys(_file(tmp_path), 9e8)
    assert json.loads(_file(tmp_path).read_text())["inference"]["expiration time"].startswith("3")


def test_a_given_key_never_expires_and_is_not_renewed(tmp_path: Path) -> None:
    keys = Keys(_file(tmp_path), 1e-9, {"inference": "given"})
    keys.check("inference", "Bearer given")
    assert key_in_file(_file(tmp_path), "inference", "unix:/nobody/listens") == "given"  # it is not expired
    with pytest.raises(InvalidKeyError):
        keys.check("management", "Bearer given")
    with pytest.raises(InvalidKeyError):
        keys.check("management", f"Bearer {_key(tmp_path, 'management')}")  # made here: it has expired
    with pytest.raises(ConflictError, match="inference key was given"):
        keys.renew(f"Bearer {_key(tmp_path, 'API')}", "inference")
    with pytest.raises(InvalidKeyError):
        keys.renew("Bearer wrong", "inference")
    keys.renew(f"Bearer {_key(tmp_path, 'API')}", "management")
    keys.check("inference", "Bearer given")


def test_played_engine_is_not_asked_without_a_key(tmp_path: Path) -> None:
    with served(tmp_path, keyed=True) as server, server.client() as client, server.client("management") as manager:
        assert client.post("/predictions/echo", content=b"x" * 100_000).status_code == 400
        assert manager.delete("/models/stream").status_code == 400
        assert not server.engine.calls
        assert ("stream", "1.0") in server.engine.models
        assert client.get("/readyz").status_code == 200
        key = {"Authorization": f"Bearer {_key(tmp_path, 'inference')}"}
        assert client.post("/predictions/echo", content=b"x", headers=key).status_code == 200
        api = {"Authorization": f"Bearer {_key(tmp_path, 'API')}"}
        renewed = manager.get("/token", params={"type": "inference"}, headers=api)
        assert (renewed.status_code, renewed.text) == (200, "\n")
        assert client.get("/ping", headers=key).json()["type"] == "InvalidKeyException"
        assert (
            client.get("/ping", headers={"Authorization": f"Bearer {_key(tmp_path, 'inference')}"}).status_code == 200
        )
