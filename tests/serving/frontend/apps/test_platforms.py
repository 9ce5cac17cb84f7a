"""What KServe and SageMaker ask beyond TorchServe's calls, at a real port, over a played engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import archive_tool
from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.platforms import PlatformsApp, with_platforms
from serving.frontend.engine import Done, Registration
from serving.frontend.entrance import App
from serving.frontend.errors import OutOfResourcesError

from .conftest import PLAIN, PlayedEngine, PlayedMeters, listening, model, played_engine, settings_of

GIVEN = "a-key-of-the-users-own"


class LoadingEngine(PlayedEngine):
    """Plays the loading of any archive of the model store, but of one called ``full``."""

    store: Path

    async def register(self, wanted: Registration) -> Done:
        self.registered.append(wanted)
        assert (self.store / wanted.url).exists()
        name = wanted.model_name or ""
        if name == "full":
            raise OutOfResourcesError("Worker ran out of memory.")
        self.add(model(name, "1.0", wanted.url, 1, default=True))
        return Done(200, "")


@dataclass
class Platform:
    engine: PlayedEngine
    client: httpx.Client
    store: Path
    folder: Path

    def load(self, name: object, url: object) -> httpx.Response:
        return self.client.post("/models", json={"model_name": name, "url": str(url) if url is not None else None})


@contextlib.contextmanager
def served(folder: Path, *, multi_model: bool, keyed: bool = False) -> Iterator[Platform]:
    store, models = folder / "store", folder / "models"
    store.mkdir()
    models.mkdir()
    played = played_engine()
    engine = LoadingEngine(played.models)
    engine.store = store
    settings, meters = settings_of(store), PlayedMeters()
    keys = Keys(folder / "key_file.json", 60, {"inference": GIVEN}) if keyed else None
    app: App = inference_app(engine, settings, keys, meters)
    if multi_model:
        app = with_platforms(app, PlatformsApp(engine, settings, keys, meters, models))
    with (
        listening(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=PLAIN) as client,
    ):
        yield Platform(engine, client, store, models)


@pytest.fixture
def kserve(tmp_path: Path) -> Iterator[Platform]:
    with served(tmp_path, multi_model=False) as found:
        yield found


@pytest.fixture
def sagemaker(tmp_path: Path) -> Iterator[Platform]:
    with served(tmp_path, multi_model=True) as found:
        archive(found.folder / "first" / "model", "inner")
        yield found


def archive(folder: Path, name: str, form: str = "default") -> Path:
    folder.mkdir(parents=True)
    (folder / "h.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name=name, handler=folder / "h.py", export_path=folder, archive_format=form)
    return folder


def links(platform: Platform) -> list[Path]:
    return [path for path in platform.store.iterdir() if path.is_symlink()]


def test_kserve_asks_which_models_there_are_and_whether_one_is_ready(kserve: Platform) -> None:
    assert kserve.client.get("/v1/models").json()["models"] == ["echo", "idle", "stream"]
    answer = kserve.client.get("/v1/models/echo")
    assert answer.status_code == 200
    assert answer.json().items() >= {"name": "echo", "ready": True}.items()
    assert kserve.client.get("/v1/models/idle").status_code == 503
    assert kserve.client.get("/v1/models/none").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/echo:predict", 200),
        ("GET", "/v1/models/echo:explain", 200),
        ("GET", "/v1/models/echo/more", 404),
        ("POST", "/v1/models", 404),
        ("GET", "/v2/models/echo/ready", 200),
        ("POST", "/predictions/echo", 200),
        ("POST", "/models/echo/invoke", 200),
        ("GET", "/models", 404),
        ("POST", "/models", 404),
        ("GET", "/models/echo", 404),
        ("DELETE", "/models/echo", 404),
        ("GET", "/ping", 200),
    ],
)
def test_all_else_is_answered_as_without_it(kserve: Platform, method: str, path: str, status: int) -> None:
    assert kserve.client.request(method, path).status_code == status
    assert set(kserve.engine.models) >= {("echo", "1.0")}


def test_with_keys_these_calls_need_one(tmp_path: Path) -> None:
    with served(tmp_path, multi_model=False, keyed=True) as found:
        assert found.client.get("/v1/models/echo").status_code == 401
        answer = found.client.get("/v1/models/echo", headers={"Authorization": f"Bearer {GIVEN}"})
        assert answer.json()["ready"] is True


def test_sagemaker_loads_asks_and_unloads_a_model(sagemaker: Platform) -> None:
    url = str(sagemaker.folder / "first" / "model")
    assert sagemaker.client.get("/models").json() == {"models": []}
    assert sagemaker.load("hash1", url).status_code == 200
    described = {"modelName": "hash1", "modelUrl": url}
    assert sagemaker.client.get("/models").json() == {"models": [described]}
    assert sagemaker.client.get("/models/hash1").json() == described
    assert sagemaker.client.post("/models/hash1/invoke", content=b"x").status_code == 200
    again = sagemaker.load("hash1", url)
    assert (again.status_code, again.json()["type"]) == (409, "ConflictStatusException")
    (link,) = links(sagemaker)
    assert link.resolve() == sagemaker.folder / "first" / "model" / "inner.mar"
    assert sagemaker.client.delete("/models/hash1").status_code == 200
    assert links(sagemaker) == []
    assert sagemaker.client.delete("/models/hash1").status_code == 404
    assert sagemaker.client.get("/models/hash1").status_code == 404
    assert sagemaker.load("hash1", url).status_code == 200


def test_an_unpacked_archive_is_loaded_too(sagemaker: Platform) -> None:
    folder = archive(sagemaker.folder / "second", "m", "no-archive") / "m"
    assert sagemaker.load("second", folder).status_code == 200
    assert links(sagemaker)[0].resolve() == folder


def test_what_fails_to_load_leaves_nothing_and_can_be_tried_again(sagemaker: Platform) -> None:
    for _ in range(2):
        answer = sagemaker.load("full", sagemaker.folder / "first" / "model")
        assert (answer.status_code, answer.json()["type"]) == (507, "OutOfMemoryException")
    assert links(sagemaker) == []
    assert sagemaker.client.get("/models").json() == {"models": []}


def test_pages_of_models(sagemaker: Platform) -> None:
    for number in range(3):
        assert sagemaker.load(f"m{number}", sagemaker.folder / "first" / "model").status_code == 200
    first = sagemaker.client.get("/models?limit=2").json()
    assert ([one["modelName"] for one in first["models"]], first["nextPageToken"]) == (["m0", "m1"], "2")
    rest = sagemaker.client.get(f"/models?limit=2&next_page_token={first['nextPageToken']}").json()
    assert [one["modelName"] for one in rest["models"]] == ["m2"]
    assert "nextPageToken" not in rest


def test_nothing_is_loaded_from_elsewhere(sagemaker: Platform, tmp_path: Path) -> None:
    outside = archive(tmp_path / "outside", "m")
    (sagemaker.folder / "empty").mkdir()
    (sagemaker.folder / "link").symlink_to(outside)
    two = archive(sagemaker.folder / "two", "one")
    (two / "other.mar").write_bytes((two / "one.mar").read_bytes())
    cases = {
        outside: "must be a folder below",
        sagemaker.folder / "link": "must be a folder below",
        sagemaker.folder / "two" / ".." / ".." / "outside": "must be a folder below",
        Path("models/first/model"): "must be a folder below",
        sagemaker.folder / "empty": "must hold one archive",
        sagemaker.folder / "gone": "must hold one archive",
        sagemaker.folder / "first" / "model" / "inner.mar": "must hold one archive",
        two: "one.mar, other.mar",
        sagemaker.folder / "a\0b": "cannot be read",
        sagemaker.folder / ("x" * 300): "cannot be read",
        "": "must be a folder below",
    }
    for url, text in cases.items():
        answer = sagemaker.load("m", url)
        assert answer.status_code == 400, (url, answer.text)
        assert text in answer.json()["message"], url
    assert links(sagemaker) == []
    assert sagemaker.engine.registered == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", None, 7])
def test_a_name_that_no_model_can_have(sagemaker: Platform, name: object) -> None:
    answer = sagemaker.load(name, sagemaker.folder / "first" / "model")
    assert answer.status_code == 400
    assert "model_name" in answer.json()["message"]


def test_bodies_and_methods_that_are_none(sagemaker: Platform) -> None:
    assert sagemaker.client.post("/models", content=b"{nope").status_code == 400
    assert sagemaker.client.post("/models", content=b"[]").status_code == 400
    assert sagemaker.client.post("/models?url=first.mar").status_code == 400
    assert sagemaker.client.put("/models/x").status_code == 405
    assert sagemaker.client.delete("/models").status_code == 405


def test_a_page_in_a_browser_loads_no_model(sagemaker: Platform) -> None:
    body = {"model_name": "m", "url": str(sagemaker.folder / "first" / "model")}
    answer = sagemaker.client.post("/models", json=body, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert sagemaker.engine.registered == []
