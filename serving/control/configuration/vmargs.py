"""The ``vmargs`` of a config.properties: written for the folder that the user types in, used in another one."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from archive_tool.errors import InputError
from serving.control.configuration.java import WORKER_SCRIPT, log_config, worker_home

# As the repository's config.properties names our files for the stock command; both travel with the package, so they
# are found wherever that file was copied to.
STOCK_LOG_CONFIG = "serving/control/log4j2.xml"
STOCK_HOME = "serving/worker/home"

_HOME_OPTION = "-Dmodel_server_home="
# Options whose value, behind the prefix, is the path of a file that Java reads, up to what the option says of it.
# Without it Java goes on in silence, or fails with only a stack trace.
_READ = re.compile(
    r"(?P<option>-Djavax\.net\.ssl\.(?:keyStore|trustStore)=|-Djava\.security\.(?:policy|properties)=+"
    r"|-Djava\.util\.logging\.config\.file=|-javaagent:|-agentpath:|-XX:(?:Flags|SharedArchiveFile|VMOptionsFile)="
    r"|@)(?P<path>[^=]+)(?P<rest>(?:=.*)?)"
)
# The same of files and folders that Java writes.
_WRITTEN = re.compile(
    r"(?P<option>-Djava\.io\.tmpdir=|-DLOG_LOCATION=|-DMETRICS_LOCATION=|-Xloggc:|-XX:(?:HeapDumpPath|ErrorFile"
    r"|LogFile|ArchiveClassesAtExit)=|-Xlog:[^:]*:file=)(?P<path>[^:]+)(?P<rest>.*)"
)


@dataclass(frozen=True)
class VmArguments:
    """What ``vmargs`` asks for.

    Attributes:
        options: for the Java command line, without the home.
        home: the ``model_server_home`` as it is written there; None if it is not.
    """

    options: tuple[str, ...] = ()
    home: str | None = None


def read(text: str) -> VmArguments:
    """Split ``vmargs`` and make its paths absolute: they begin in the folder in which the command is run.

    Raises:
        InputError: a quotation mark is not closed, or a file that Java is to read is missing.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"vmargs of config.properties cannot be read: {error}") from error
    homes = [word.removeprefix(_HOME_OPTION) for word in words if word.startswith(_HOME_OPTION)]
    options = tuple(_absolute(word) for word in words if not word.startswith(_HOME_OPTION))
    # If an option is given twice, Java takes the last.
    return VmArguments(options, homes[-1] if homes else None)


def home_named(text: str, origin: str) -> Path:
    """Return the ``model_server_home`` that a configuration names, absolute.

    Args:
        text: path, relative to the folder that the server is started in.
        origin: which setting names it.

    Raises:
        InputError: there is no worker.
        StartError: it names ours, and that is not installed.
    """
    if text == STOCK_HOME:
        return worker_home()
    home = Path(text).resolve()
    if not (home / WORKER_SCRIPT).is_file():
        raise InputError(
            f"no worker in {text}: it has no {WORKER_SCRIPT} ({origin} of config.properties)",
            hint="correct the path, or remove it to use torchmar's worker",
        )
    return home


def _absolute(option: str) -> str:
    key, _, value = option.partition("=")
    if key in ("-Dlog4j.configurationFile", "-Dlog4j2.configurationFile"):
        return option if ":" in value else _with_absolute_log_config(key, value)
    found = _READ.fullmatch(option)
    if found and found["path"] != "NONE" and not Path(found["path"]).is_file():  # a key store may be NONE
        raise InputError(
            f"no such file: {found['path']} ({option} in vmargs of config.properties)",
            hint="correct the path; a relative one begins in the folder in which the command is run",
        )
    found = found or _WRITTEN.fullmatch(option)
    if found is None or found["path"] == "NONE":
        return option
    return f"{found['option']}{Path(found['path']).absolute()}{found['rest']}"


def _with_absolute_log_config(key: str, value: str) -> str:
    if Path(value).is_file():
        return f"{key}={Path(value).resolve().as_uri()}"
    if value == STOCK_LOG_CONFIG:
        return f"{key}={log_config().as_uri()}"
    # The frontend would silently log nothing.
    raise InputError(
        f"no such log configuration: {value} (vmargs of config.properties)",
        hint="correct the path, or remove the line to use torchmar's own",
    )
