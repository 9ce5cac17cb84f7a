from __future__ import annotations

from serving.client.models import ModelSummary, ModelVersion, TrafficShare, WorkerInfo

# As TorchServe 0.12 describes a model.
ROW = {
    "modelName": "mnist",
    "modelVersion": "1.0",
    "modelUrl": "mnist.mar",
    "runtime": "python",
    "minWorkers": 1,
    "maxWorkers": 2,
    "batchSize": 4,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "somethingNew": {"a": 1},
    "workers": [
        {"id": "9000", "status": "READY", "memoryUsage": 5, "pid": 12, "gpu": False},
        {"id": "9001", "status": "UNLOADING", "memoryUsage": 0, "pid": -1, "gpu": False},
    ],
}


def test_a_description_is_read() -> None:
    found = ModelVersion.from_dict(ROW, default=True)
    assert (found.name, found.version, found.batch_size, found.default) == ("mnist", "1.0", 4, True)
    assert found.workers[0] == WorkerInfo("9000", "READY", 12, 5, False)
    assert found.ready_workers == 1


def test_what_is_missing_has_a_default() -> None:
    found = ModelVersion.from_dict({"modelName": "m", "workers": None})
    assert found.workers == ()
    assert found.ready_workers == 0
    assert ModelSummary.from_dict({"modelName": "m"}).url == ""


def test_shares_are_read() -> None:
    told = {"percent": 5, "shadow": False, "stickyHeaders": ["x-user", "x-session"]}
    share = TrafficShare(5, shadow=False, sticky_headers=("x-user", "x-session"))
    assert ModelVersion.from_dict(ROW | {"traffic": told}).traffic == share
    assert ModelVersion.from_dict(ROW).traffic is None
    assert ModelSummary.from_dict({"modelName": "m", "traffic": {"2.0": told}}).traffic == {"2.0": share}
    assert f"{share}" == "5 % by x-user, x-session"
    assert f"{TrafficShare(100, shadow=True, sticky_headers=())}" == "100 % as copies"
