"""Where a container finds its models: folders of a test in place of its root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import BuildError, InputError
from serving.image import layout
from serving.image.layout import find

HANDLER = "def handle(data, context):\n    return data\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the archives a.mar and b.mar, and the folder c, which is an unpacked one."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "h.py").write_text(HANDLER)
    for name, form in (("a", "default"), ("b", "default"), ("c", "no-archive")):
        archive_tool.build(model_name=name, handler=folder / "h.py", export_path=folder, archive_format=form)
    return folder


def put(folder: Path, *archives: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        (folder / archive.name).symlink_to(archive)
    return folder


@pytest.mark.parametrize(
    ("path", "platform"),
    [(layout.SAGEMAKER, "SageMaker"), (layout.KSERVE, "KServe"), (layout.IMAGE, "")],
)
def test_archives_packed_or_not_are_found_in_the_folder_of_each_platform(
    built: Path, tmp_path: Path, path: Path, platform: str
) -> None:
    folder = put(tmp_path / path, built / "a.mar", built / "c")
    (folder / "code").mkdir()  # of SageMaker's own toolkits
    (folder / "weights.pt").touch()
    found = find(tmp_path, {})
    assert found.models == (f"a={folder / 'a.mar'}", f"c={folder / 'c'}")
    assert (found.folder, found.store, found.platform, found.config) == (folder, folder, platform, None)


def test_what_is_mounted_comes_before_what_the_image_holds(built: Path, tmp_path: Path) -> None:
    put(tmp_path / layout.IMAGE, built / "a.mar")
    (tmp_path / layout.SAGEMAKER).mkdir(parents=True)  # SageMaker makes it, models or not
    assert find(tmp_path, {}).platform == ""
    put(tmp_path / layout.KSERVE, built / "b.mar")
    assert find(tmp_path, {}).platform == "KServe"
    put(tmp_path / layout.SAGEMAKER, built / "a.mar")
    assert find(tmp_path, {}).platform == "SageMaker"
    assert find(tmp_path, {}, model_dir=tmp_path / layout.KSERVE).platform == "KServe"


def test_an_unpacked_archive_is_the_folder_itself(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / layout.KSERVE
    shutil.copytree(built / "c", folder)
    found = find(tmp_path, {}, model_name="named")
    assert (found.store, found.models) == (folder.parent, (f"named={folder}",))


def test_torchserves_own_layout_of_kserve(tmp_path: Path) -> None:
    folder = tmp_path / layout.KSERVE
    (folder / "model-store").mkdir(parents=True)
    assert find(tmp_path, {}).models == ("all",)
    (folder / "config").mkdir()
    config = folder / "config" / "config.properties"
    config.write_text('model_snapshot={"models": {}}\n')
    found = find(tmp_path, {})
    assert (found.store, found.config, found.models) == (folder / "model-store", config, ())
    config.write_text("load_models=\n")
    assert find(tmp_path, {}).models == ("all",)


def test_the_images_own_configuration_serves_what_is_mounted_too(built: Path, tmp_path: Path) -> None:
    put(tmp_path / layout.KSERVE, built / "a.mar")
    config = put(tmp_path / "srv") / "config.properties"
    config.touch()
    assert find(tmp_path, {}).config == config


def test_a_name_is_that_of_one_archive_or_one_of_several(built: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / layout.KSERVE, built / "a.mar")
    assert find(tmp_path, {}, model_name="x").models == (f"x={folder / 'a.mar'}",)
    put(folder, built / "b.mar")
    assert find(tmp_path, {}, model_name="b").models == (f"a={folder / 'a.mar'}", f"b={folder / 'b.mar'}")
    with pytest.raises(InputError, match="no model x: it holds a, b"):
        find(tmp_path, {}, model_name="x")


@pytest.mark.parametrize("name", ["a=b", "a,b", "../x", "x\ny", "$(x)"])
def test_a_name_that_no_model_can_have_is_refused_as_such(built: Path, tmp_path: Path, name: str) -> None:
    put(tmp_path / "opt" / "ml" / "model", built / "a.mar")
    with pytest.raises(BuildError, match="cannot be used"):
        find(tmp_path, {}, model_name=name)


def test_multi_model_endpoints_begin_with_none(built: Path, tmp_path: Path) -> None:
    put(tmp_path / layout.SAGEMAKER, built / "a.mar")
    found = find(tmp_path, {layout.MULTI_MODEL_VARIABLE: "true"})
    assert (found.models, found.store) == (("none",), None)
    assert found.multi_model == tmp_path / "opt/ml/models"
    assert find(tmp_path, {layout.MULTI_MODEL_VARIABLE: "false"}).multi_model is None


def test_a_container_without_a_model_says_where_it_has_looked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"opt/ml/model, .*mnt/models, .*srv/model_store hold nothing"):
        find(tmp_path, {})
    with pytest.raises(InputError, match="no such folder"):
        find(tmp_path, {}, model_dir=tmp_path / "gone")
    (tmp_path / layout.SAGEMAKER).mkdir(parents=True)
    (tmp_path / layout.SAGEMAKER / "model.pth").touch()
    with pytest.raises(InputError, match="holds no archive") as error:
        find(tmp_path, {})
    assert "it holds model.pth" in str(error.value.hint)


@pytest.mark.parametrize(("text", "trusted"), [(None, False), ("", False), ("0", False), ("1", True), (" 1 ", True)])
def test_a_network_is_trusted_when_the_image_says_so(text: str | None, trusted: bool) -> None:
    assert layout.is_trusted({} if text is None else {layout.TRUSTED_VARIABLE: text}) is trusted


def test_what_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(InputError, match="TORCHMAR_TRUSTED_NETWORK=yes is neither 0 nor 1"):
        layout.is_trusted({layout.TRUSTED_VARIABLE: "yes"})
