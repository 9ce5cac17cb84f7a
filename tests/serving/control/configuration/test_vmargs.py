from __future__ import annotations

from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import vmargs
from serving.control.configuration.config import read_properties
from serving.control.configuration.java import WORKER_SCRIPT, log_config, torchserve_home, worker_home
from serving.control.configuration.vmargs import STOCK_HOME, STOCK_LOG_CONFIG, VmArguments, home_named

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a working folder that is not the repository's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_home(folder: Path) -> Path:
    (folder / WORKER_SCRIPT).parent.mkdir(parents=True)
    (folder / WORKER_SCRIPT).touch()
    return folder


def test_the_repositorys_own_are_found_from_anywhere() -> None:
    found = vmargs.read(read_properties(ROOT / "config.properties")["vmargs"])
    assert found == VmArguments((f"-Dlog4j.configurationFile={log_config().as_uri()}",), STOCK_HOME)
    assert home_named(STOCK_HOME, "vmargs") == worker_home()


def test_the_repositorys_own_paths_are_right_for_the_stock_command() -> None:
    assert (ROOT / STOCK_LOG_CONFIG).samefile(log_config())
    assert (ROOT / STOCK_HOME).samefile(worker_home())


def test_a_log_configuration_of_the_user_is_kept(elsewhere: Path) -> None:
    (elsewhere / "mine.xml").touch()
    found = vmargs.read("-Dlog4j.configurationFile=mine.xml")
    assert found.options == (f"-Dlog4j.configurationFile={(elsewhere / 'mine.xml').as_uri()}",)
    with pytest.raises(InputError, match=r"no such log configuration: other\.xml"):
        vmargs.read("-Dlog4j2.configurationFile=other.xml")


def test_other_options_are_left_alone() -> None:
    assert vmargs.read("-Xmx1g '-Da=b c' -Dlog4j.configurationFile=file:///x.xml").options == (
        "-Xmx1g",
        "-Da=b c",
        "-Dlog4j.configurationFile=file:///x.xml",
    )
    assert vmargs.read("") == VmArguments()


@pytest.mark.parametrize(
    "option",
    [
        "-Djavax.net.ssl.keyStore={}",
        "-Djavax.net.ssl.trustStore={}",
        "-Djava.util.logging.config.file={}",
        "-Djava.security.policy=={}",
        "-XX:Flags={}",
        "-javaagent:{}",
        "-javaagent:{}=port=9999",
    ],
)
def test_files_that_java_reads_are_absolute_and_there(elsewhere: Path, option: str) -> None:
    (elsewhere / "mine").touch()
    absolute = option.format(elsewhere / "mine")
    assert vmargs.read(option.format("mine")).options == vmargs.read(absolute).options == (absolute,)
    with pytest.raises(InputError, match=r"no such file: other \(-.* in vmargs of config.properties\)") as caught:
        vmargs.read(option.format("other"))
    assert "in which the command is run" in (caught.value.hint or "")


def test_files_that_java_writes_are_absolute(elsewhere: Path) -> None:
    found = vmargs.read(
        "-XX:HeapDumpPath=dumps -Xloggc:gc.log -Xlog:gc*:file=gc.log:time:filecount=3 -Djava.io.tmpdir=t"
    )
    assert found.options == (
        f"-XX:HeapDumpPath={elsewhere / 'dumps'}",
        f"-Xloggc:{elsewhere / 'gc.log'}",
        f"-Xlog:gc*:file={elsewhere / 'gc.log'}:time:filecount=3",
        f"-Djava.io.tmpdir={elsewhere / 't'}",
    )


def test_no_key_store_is_none() -> None:
    assert vmargs.read("-Djavax.net.ssl.keyStore=NONE").options == ("-Djavax.net.ssl.keyStore=NONE",)


def test_of_two_homes_java_takes_the_last() -> None:
    assert vmargs.read("-Dmodel_server_home=a -Xmx1g -Dmodel_server_home=b") == VmArguments(("-Xmx1g",), "b")


def test_a_home_of_the_user_is_absolute(elsewhere: Path) -> None:
    make_home(elsewhere / "mine")
    assert home_named("mine", "vmargs") == elsewhere / "mine"
    assert home_named(str(torchserve_home()), "vmargs") == torchserve_home()


def test_a_home_without_a_worker_is_refused() -> None:
    with pytest.raises(InputError, match=r"no worker in nowhere: .* \(model_server_home of config.properties\)"):
        home_named("nowhere", "model_server_home")


def test_a_quotation_that_does_not_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"vmargs .* cannot be read: No closing quotation"):
        vmargs.read('-Da="b')
