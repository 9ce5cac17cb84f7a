"""Who may change a model, and when."""

from __future__ import annotations

import asyncio

from serving.frontend.versions.changing import Changing


def test_changes_of_one_model_follow_each_other_and_those_of_others_do_not_wait() -> None:
    async def go() -> list[str]:
        changing, told = Changing(), list[str]()
        come = asyncio.Event()

        async def change(name: str, number: int, until: asyncio.Event | None = None) -> None:
            async with changing.alone(name):
                told.append(f"{name}{number} begins")
                if until is not None:
                    await until.wait()
                told.append(f"{name}{number} ends")

        tasks = [asyncio.ensure_future(change("a", 1, come)), asyncio.ensure_future(change("a", 2))]
        await asyncio.sleep(0)
        await change("b", 1)
        assert "a" in changing
        assert "b" not in changing
        come.set()
        await asyncio.gather(*tasks)
        assert "a" not in changing
        return told

    assert asyncio.run(go()) == ["a1 begins", "b1 begins", "b1 ends", "a1 ends", "a2 begins", "a2 ends"]


def test_one_that_fails_or_is_given_up_holds_up_nobody() -> None:
    async def go() -> None:
        changing, come = Changing(), asyncio.Event()

        async def hold() -> None:
            async with changing.alone("a"):
                await come.wait()
                raise ValueError

        first, second = asyncio.ensure_future(hold()), asyncio.ensure_future(hold())
        await asyncio.sleep(0)
        second.cancel()
        come.set()
        await asyncio.gather(first, second, return_exceptions=True)
        async with changing.alone("a"):
            pass
        assert "a" not in changing

    asyncio.run(go())
