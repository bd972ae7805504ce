"""Windows of time: what a process of clients writes for each of them."""

import asyncio
import time
from collections.abc import Callable

import msgspec


async def show_windows(window: Callable[[float], msgspec.Struct], window_seconds: float, began: float) -> None:
    """Prints the window of the seconds since `began` as a line of JSON at each of their ends, until it is canceled."""
    number = 1
    while True:
        await asyncio.sleep(max(0.0, began + number * window_seconds - time.perf_counter()))
        print(msgspec.json.encode(window(time.perf_counter() - began)).decode(), flush=True)
        number += 1
