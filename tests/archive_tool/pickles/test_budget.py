"""What is refused costs nothing, and what was taken is gone for all the files of an archive."""

from archive_tool.pickles import budget


def test_what_is_unpacked(monkeypatch):
    monkeypatch.setattr(budget, "MAX_UNPACKED", 100)
    shared = budget.Budget()
    assert shared.unpack(60)
    assert not shared.unpack(41)
    assert shared.unpack(40)
    assert not shared.unpack(1)
    assert budget.Budget(packed=1000).unpack(20_000)  # a large archive may hold large ones


def test_headers(monkeypatch):
    monkeypatch.setattr(budget, "MAX_HEADERS", 3)
    shared = budget.Budget()
    assert shared.read_headers(3)
    assert not shared.read_headers(1)
    assert not shared.read_headers(0)  # once there were too many, there are too many
