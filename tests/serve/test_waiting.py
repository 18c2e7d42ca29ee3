"""Futures that other threads finish."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from tvm_cavs.serve.waiting import Bell


def test_no_ring_is_lost_and_who_has_gone_is_left_alone():
    async def wait():
        loop, bell, n_calls = asyncio.get_running_loop(), Bell(), 0
        wake = loop.call_soon_threadsafe

        def counted(*given):
            nonlocal n_calls
            n_calls += 1
            return wake(*given)

        loop.call_soon_threadsafe = counted
        with ThreadPoolExecutor(4) as threads:
            for _ in range(50):
                futures = [loop.create_future() for _ in range(20)]
                futures[3].cancel()
                list(threads.map(bell.ring, futures))
                await asyncio.wait_for(asyncio.gather(*futures[:3], *futures[4:]), 10)
        return n_calls

    assert asyncio.run(wait()) < 500  # wakings, for a thousand rings


def test_what_is_rung_together_wakes_once():
    async def wait():
        loop, bell = asyncio.get_running_loop(), Bell()
        futures = [loop.create_future() for _ in range(9)]
        for future in futures:
            bell.ring(future)
        loop.call_soon_threadsafe = None  # it has been called
        await asyncio.wait_for(asyncio.gather(*futures), 10)

    asyncio.run(wait())
