"""What Ray Serve is told of a version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.frontend.engine import Registration
from serving.frontend.errors import BadRequestError, ModelError
from serving.frontend.ray import nodes
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.specs import MOST_REPLICAS, Resources, Spec, understood

from .conftest import Store


def spec_of(store: Store, model_config: str = "", info: ServerInfo | None = None, **options: Any) -> Spec:
    properties = options.pop("properties", {})
    wanted = options.pop("wanted", Registration("echo.mar"))
    archive = nodes.look(store.build(model_config=model_config, **options))
    settings = store.settings(**properties)
    info = info or ServerInfo()
    return understood(archive, wanted, info.resources, info.signature_key, settings, _nobody, at_startup=True)


def _nobody(sha256: str, place: int, most: int) -> bytes:
    raise AssertionError("the archive is here")


def test_a_version_says_what_it_needs(store: Store) -> None:
    spec = spec_of(store)
    assert (spec.name, spec.version, spec.application) == ("echo", "1.0", "echo--1.0")
    assert (spec.least, spec.most, spec.cpus, spec.gpus) == (1, 1, 1.0, 0.0)
    assert spec.settings["minWorkers"] == 1
    assert spec.queue_size == 100
    assert spec.at_startup
    assert not spec.retry  # a handler that is not the SDK's


def test_the_archives_own_configuration_holds(store: Store) -> None:
    config = "minWorkers: 2\nmaxWorkers: 5\nbatchSize: 8\ndeviceType: gpu\nbackend:\n  retry: true\n"
    spec = spec_of(store, config, ServerInfo(resources=Resources(0.5)))
    assert (spec.least, spec.most, spec.cpus, spec.gpus, spec.target, spec.retry) == (2, 5, 0.5, 1.0, 16.0, True)
    assert spec.scaled(3, 4).settings["maxWorkers"] == 4


@pytest.mark.parametrize(
    ("config", "number", "given", "gpus"),
    [
        ("", "1", None, 1.0),
        ("", "0", None, 0.0),
        ("", "", None, 0.0),
        ("deviceType: cpu\n", "2", None, 0.0),
        ("deviceType: gpu\n", "0", None, 0.0),
        ("deviceType: gpu\n", "", 0.5, 0.5),
        ("deviceType: gpu\nparallelType: pp\nparallelLevel: 4\n", "", None, 4.0),
    ],
)
def test_gpus_of_a_replica(store: Store, config: str, number: str, given: float | None, gpus: float) -> None:
    properties = {"number_of_gpu": number} if number else {}
    info = ServerInfo(resources=Resources(gpus=given))
    assert spec_of(store, config, info, properties=properties).gpus == gpus


def test_what_needs_to_know_of_all_replicas_is_refused(store: Store) -> None:
    with pytest.raises(ModelError, match="sequenceBatching"):
        spec_of(
            store, "sequenceBatching: true\nsequenceMaxIdleMSec: 1000\nmaxNumSequence: 2\nmaxSequenceJobQueueSize: 2\n"
        )
    with pytest.raises(ModelError, match="useJobTicket"):
        spec_of(store, "useJobTicket: true\n")


def test_a_version_has_one_replica_at_least(store: Store) -> None:
    spec = spec_of(store, wanted=Registration("echo.mar", initial_workers=0))
    assert spec.least == 1
    for least, told in ((0, "one worker at least"), (MOST_REPLICAS + 1, "more than")):
        with pytest.raises(BadRequestError, match=told):
            spec.scaled(least, least)


def test_a_name_that_no_route_can_have_is_refused(store: Store) -> None:
    with pytest.raises(ModelError, match="model_name gives a model another name"):
        spec_of(store, wanted=Registration("echo.mar", "two words"))


def test_requirements_become_an_environment_only_where_they_are_installed(store: Store) -> None:
    (store.root / "requirements.txt").write_text("# what it needs\nlionel>=1.0  # the first\n\ntiger\n")
    options = {"requirements_file": str(store.root / "requirements.txt")}
    assert spec_of(store, **options).requirements == ()
    on = {"install_py_dep_per_model": "true"}
    assert spec_of(store, properties=on, **options).requirements == ("lionel>=1.0", "tiger")


def test_replicas_stay_where_only_their_number_changes(store: Store) -> None:
    spec = spec_of(store)
    server = ServerInfo()
    code = spec.code(server.digest)
    assert spec.scaled(3, 7).code(server.digest) == code
    more = ServerInfo(properties={"default_workers_per_model": "3"})
    wanted = replace(spec.registration, initial_workers=3)
    assert replace(spec, registration=wanted).code(more.digest) == code
    assert more.of_front != server.of_front
    assert replace(spec, archive=replace(spec.archive, path="/elsewhere")).code(server.digest) == code
    assert replace(spec, cpus=2.0).code(server.digest) != code
    assert replace(spec, archive=replace(spec.archive, sha256="0")).code(server.digest) != code
    assert spec.code(ServerInfo(keys={"inference": "another"}).digest) != code
