from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import InputError, UnreadableArchiveError
from serving.control.models.store import default_name, name_for_unknown_store, name_in_store, select, split_list


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store with two archives, seen from a folder beside it."""
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("a", "b"):
        archive_tool.build(model_name=name, handler=str(tmp_path / "handler.py"), export_path=str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def chosen(*wanted: str, store: Path | None = None, **properties: str) -> tuple[Path, list[str], bool]:
    found = select(wanted, model_store=store, properties=properties, config_folder=Path.cwd())
    return found.store, [str(model) for model in found.models], found.load_all


def test_archives_of_the_named_store(store: Path) -> None:
    assert chosen("a.mar", "x=b.mar", store=store) == (store, ["a=a.mar", "x=b.mar"], False)


def test_the_folder_of_the_given_archives_is_the_store(store: Path) -> None:
    assert chosen("store/a.mar", "x=store/b.mar") == (store, ["a=a.mar", "x=b.mar"], False)


def test_the_store_and_the_models_of_the_configuration(store: Path) -> None:
    assert chosen(model_store="store", load_models="a.mar, b.mar") == (store, ["a=a.mar", "b=b.mar"], False)
    assert chosen("b.mar", model_store="store", load_models="a.mar") == (store, ["b=b.mar"], False)


@pytest.mark.parametrize("word", ["all", "ALL"])
def test_all(store: Path, word: str) -> None:
    assert chosen(word, store=store) == (store, [], True)


def test_no_model_is_a_server_to_register_with(store: Path) -> None:
    assert chosen(store=store) == (store, [], False)
    assert chosen(store=store, load_models="none") == (store, [], False)


def test_versions_of_one_model_may_lie_in_two_archives(store: Path) -> None:
    assert chosen("m=a.mar", "m=b.mar", store=store)[1] == ["m=a.mar", "m=b.mar"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("c.mar",), "no archive c.mar in the model store"),
        (("a.mar", "a.mar"), "model a is named twice"),
        (("elsewhere/a.mar",), "is not in the model store"),
        (("nowhere/a.mar",), "no such archive: nowhere/a.mar"),
        (("a=/nowhere/a.mar",), "no such archive: /nowhere/a.mar"),
        (("./a.mar",), r"no such archive: \./a\.mar"),
        (("store/../elsewhere/a.mar",), "is not in the model store"),
        (("..",), "is not in the model store"),
        (("https://host.example/v7/a.mar",), r"may not fetch https://host\.example/v7/a\.mar: allowed_urls="),
        (("file:///nowhere/a.mar",), "may not fetch file:"),
        (("s3://bucket/a.mar",), "cannot be fetched"),
    ],
)
def test_what_cannot_be_loaded_is_named(store: Path, wanted: tuple[str, ...], message: str) -> None:
    other = store.parent / "elsewhere"
    other.mkdir()
    (other / "a.mar").write_bytes((store / "a.mar").read_bytes())
    with pytest.raises(InputError, match=message) as caught:
        chosen(*wanted, store=store)
    assert caught.value.hint


def test_a_store_that_is_no_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not a folder: model_store"):
        chosen("a.mar")
    with pytest.raises(InputError, match=r"nowhere \(model_store of config\.properties\)"):
        chosen("a.mar", model_store="nowhere")


def test_a_broken_archive_is_found_before_anything_starts(store: Path) -> None:
    (store / "a.mar").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UnreadableArchiveError):
        chosen("a.mar", store=store)


def test_a_folder_is_an_archive(store: Path) -> None:
    with archive_tool.open_archive(store / "a.mar") as archive:
        archive.extract(store / "unpacked")
    assert chosen("unpacked", store=store)[1] == ["a=unpacked"]
    assert name_in_store("unpacked/", store) == "unpacked"
    assert name_in_store("store/unpacked/", store) == "unpacked"


def test_the_manifests_name_is_the_models_and_else_the_files_name(store: Path) -> None:
    (store / "a.mar").rename(store / "a-3.0.mar")
    assert chosen("a-3.0.mar", store=store)[1] == ["a=a-3.0.mar"]
    assert chosen("store/a-3.0.mar")[1] == ["a=a-3.0.mar"]
    with zipfile.ZipFile(store / "of-nobody.1.mar", "w") as archive:
        archive.writestr("handler.py", "")
    assert chosen("of-nobody.1.mar", store=store)[1] == ["of_nobody_1=of-nobody.1.mar"]


def test_a_link_in_the_store_is_an_archive_of_the_store(store: Path) -> None:
    (store.parent / "real").mkdir()
    (store / "a.mar").rename(store.parent / "real" / "x.mar")
    (store / "a.mar").symlink_to(store.parent / "real" / "x.mar")
    assert chosen("store/a.mar") == (store, ["a=a.mar"], False)
    assert chosen("m=store/a.mar", store=store) == (store, ["m=a.mar"], False)


@pytest.mark.parametrize(
    "url", ["https://host.example/v7/a.mar", "file:///store/A.mar", "HTTPS://HOST.example/v7/a.mar"]
)
def test_a_url_that_the_server_may_fetch_is_passed_on(store: Path, url: str) -> None:
    allowed = r"nothing,https://host\.example/.*,file:///store/a\.mar"
    assert chosen(f"m={url}", store=store, allowed_urls=allowed)[1] == [f"m={url}"]
    assert chosen(url, store=store, allowed_urls=allowed)[1] == [url]
    assert (
        select([url], model_store=store, properties={"allowed_urls": ".*"}, config_folder=Path.cwd()).archives() == []
    )


def test_for_a_server_whose_store_is_not_known_no_path_is_cut() -> None:
    for given in ("a.mar", "https://host.example/a.mar", "/folder/of/a/model", "net.tar.gz"):
        assert name_for_unknown_store(given) == given
    with pytest.raises(InputError, match=r"/models/a\.mar has a folder"):
        name_for_unknown_store("/models/a.mar")


def test_workers_that_torchserve_will_ignore_are_told(store: Path) -> None:
    with zipfile.ZipFile(store / "a.mar", "a") as archive:
        archive.writestr("c.yaml", "minWorkers: 3\nmaxWorkers: 2\n")
    with zipfile.ZipFile(store / "c.mar", "w") as archive:
        archive.writestr("c.yaml", "minWorkers: 3\nmaxWorkers: 2\n")
        manifest = {"runtime": "python", "model": {"modelName": "c", "handler": "h", "configFile": "c.yaml"}}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    found = select(["a.mar", "c.mar"], model_store=store, properties={}, config_folder=Path.cwd())
    assert [text.split(":")[0] for text in found.without_effect()] == ["c.mar"]


def test_lists_with_commas(store: Path) -> None:
    (store / "x, y.mar").touch()
    assert split_list("a.mar, b.mar,") == ["a.mar", "b.mar"]
    assert split_list(" ") == split_list("") == []
    assert split_list("m=store/x, y.mar") == ["m=store/x, y.mar"]


def test_all_looks_into_every_archive(store: Path) -> None:
    (store / "notes.txt").write_text("no archive, and no business of ours")
    assert chosen("all", store=store) == (store, [], True)
    (store / "c.mar").write_text("broken")
    with pytest.raises(UnreadableArchiveError, match=r"c\.mar"):
        chosen("all", store=store)


def test_the_files_that_will_be_read(store: Path) -> None:
    named = select(["x=a.mar", "y=a.mar", "b.mar"], model_store=store, properties={}, config_folder=Path.cwd())
    assert named.archives() == [store / "a.mar", store / "b.mar"]
    (store / "folder").mkdir()
    (store / "a.mar.sig").write_text("a signature")
    every = select(["all"], model_store=store, properties={}, config_folder=Path.cwd())
    assert every.archives() == [store / "a.mar", store / "b.mar", store / "folder"]


@pytest.mark.parametrize("kind", ["pipe", "endless"])
@pytest.mark.parametrize("wanted", ["all", "x.mar"])
def test_what_is_no_regular_file_in_the_store_holds_nobody_up(kind: str, wanted: str, store: Path) -> None:
    if kind == "pipe":
        os.mkfifo(store / "x.mar")
    else:
        (store / "x.mar").symlink_to("/dev/zero")
    with pytest.raises(UnreadableArchiveError, match="not a regular file"):
        chosen(wanted, store=store)


@pytest.mark.parametrize("model", [{"modelName": "../../x"}, {"modelName": "m", "modelVersion": "../../1"}])
def test_names_of_the_manifest_are_those_that_can_be_built(model: dict[str, str], store: Path) -> None:
    document = {"runtime": "python", "model": {"handler": "base_handler", **model}}
    with zipfile.ZipFile(store / "x.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(document))
    with pytest.raises(UnreadableArchiveError, match=r"\.\./\.\./") as refused:
        chosen("good=x.mar", store=store)
    assert refused.value.hint
    with pytest.raises(UnreadableArchiveError):
        default_name(store / "x.mar")


@pytest.mark.parametrize("name", ["../../x", "a/b", "\ud800", "a" * 100_000])
def test_a_model_is_started_under_a_name_that_it_can_have(name: str, store: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        chosen(f"{name}=a.mar", store=store)
