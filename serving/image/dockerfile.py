"""The Dockerfile of an image: all words in it are ours, or checked; those of archives never get into it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, Literal

from archive_tool.errors import InputError
from archive_tool.version import __version__
from serving.image.layout import IMAGE, IMAGE_CONFIG, TRUSTED_VARIABLE

Platform = Literal["plain", "sagemaker", "kserve"]
Device = Literal["cpu", "cuda"]

#: The first words of every Dockerfile of ours: what begins so may be replaced.
MARK: Final = "# Written by torchmar image"
#: Of files of the context that are named in it.
CONSTRAINTS: Final = "constraints.txt"
REQUIREMENTS: Final = "requirements"
BILL: Final = "/opt/torchmar/bill-of-materials.json"
#: A user of the image's own, by its number: Kubernetes can tell by that alone that it is not root.
USER: Final = 10001
#: Packages that the base of both, torch's own index for processors, has.
_TORCH: Final = ("torch", "torchvision")
_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
_IMAGE: Final = re.compile(r"[a-z0-9][\w.:/@-]{0,254}", re.IGNORECASE | re.ASCII)
# SageMaker tells by these what it may ask.
_LABELS: Final = {
    "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
    "com.amazonaws.sagemaker.capabilities.multi-models": "true",
}
_ENVIRONMENT: Final = {
    "HOME": "/tmp",  # noqa: S108 (the one folder of a container that can be written to)
    "TMPDIR": "/tmp",  # noqa: S108
    "TORCHMAR_STATE_HOME": "/tmp/torchmar",  # noqa: S108
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Wanted:
    """What an image is to be.

    Attributes:
        platform: SageMaker's and KServe's images trust their network.
        device: which torch.
        base: image with Python; None for the slim one of the Python that runs.
        wheel: file name of torchmar's wheel.
        requirements: file names, one for each archive that has some.
        archives: whether there are any.
        config: whether there is a config.properties.
        pinned: versions of torch and torchvision.
    """

    platform: Platform
    device: Device
    base: str | None
    wheel: str
    requirements: Sequence[str]
    archives: bool
    config: bool
    pinned: dict[str, str] = field(default_factory=lambda: {name: _public(version(name)) for name in _TORCH})

    def __post_init__(self) -> None:
        if self.base is not None:
            check_image(self.base)


def check_image(name: str) -> None:
    """Make sure that an image can have a name.

    Raises:
        InputError: none can.
    """
    if not _IMAGE.fullmatch(name):
        raise InputError(f"not the name of an image: {name!r}", hint="write NAME:TAG, such as python:3.12-slim")


def constraints(wanted: Wanted) -> str:
    """Return pip's constraints: what an archive wants installed must not change torch."""
    return "".join(f"{name}=={number}\n" for name, number in wanted.pinned.items())


def dockerfile(wanted: Wanted) -> str:
    """Return the text: what changes least comes first, for the builder keeps it."""
    return "\n".join([*_installing(wanted), "", *_holding(wanted), "", *_running(wanted), ""])


def _installing(wanted: Wanted) -> Iterator[str]:
    yield f"{MARK} {__version__}; write it again with the same command rather than change it."
    yield f"FROM {wanted.base or 'python:{}.{}-slim'.format(*sys.version_info)}"
    yield "ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore"
    yield f"RUN useradd --uid {USER} --no-create-home --home-dir /tmp --shell /usr/sbin/nologin torchmar"
    # For mirrors: docker build --build-arg PIP_INDEX_URL=...
    yield "ARG PIP_INDEX_URL"
    if wanted.device == "cpu":
        yield f"ARG TORCH_INDEX_URL={_CPU_INDEX}"
    index = "--index-url ${TORCH_INDEX_URL} " if wanted.device == "cpu" else ""
    packages = " ".join(f"{name}=={number}" for name, number in wanted.pinned.items())
    yield f"RUN pip install {index}{packages}"
    yield f"COPY {CONSTRAINTS} {wanted.wheel} /opt/torchmar/"
    pip = f"RUN pip install --constraint /opt/torchmar/{CONSTRAINTS}"
    yield f"{pip} /opt/torchmar/{wanted.wheel}"
    if wanted.requirements:
        yield f"COPY {REQUIREMENTS} /opt/torchmar/{REQUIREMENTS}"
        yield f"{pip} " + " ".join(f"-r /opt/torchmar/{REQUIREMENTS}/{name}" for name in wanted.requirements)


def _holding(wanted: Wanted) -> Iterator[str]:
    if wanted.archives:
        yield f"COPY {IMAGE.name} /{IMAGE}"
    if wanted.config:
        yield f"COPY {IMAGE_CONFIG.name} /{IMAGE_CONFIG}"
    yield f"RUN python -m serving.image.bill {f'/{IMAGE} ' if wanted.archives else ''}> {BILL}"


def _running(wanted: Wanted) -> Iterator[str]:
    yield f'LABEL org.opencontainers.image.title="torchmar" org.opencontainers.image.version="{__version__}"'
    if wanted.platform == "sagemaker":
        yield "LABEL " + " ".join(f"{name}={value}" for name, value in _LABELS.items())
    environment = dict(_ENVIRONMENT)
    if wanted.platform != "plain":
        environment[TRUSTED_VARIABLE] = "1"
    yield "ENV " + " ".join(f"{name}={value}" for name, value in environment.items())
    yield "WORKDIR /srv"
    yield f"USER {USER}"
    yield 'VOLUME ["/tmp"]'
    yield "EXPOSE 8080"
    yield "STOPSIGNAL SIGTERM"
    yield (
        'HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["torchmar", "serve", "--check"]'
    )
    yield 'ENTRYPOINT ["torchmar", "serve"]'


def _public(number: str) -> str:
    """Return a version without the part that only its index knows, such as ``+cpu``."""
    return number.partition("+")[0]
