"""Runs calls in threads, as `threading` itself tells nobody what they raise."""

from __future__ import annotations

import threading
from collections.abc import Callable


def run_together(*calls: Callable[[], None]) -> None:
    """Run each call in a thread of its own; raise the first error of any of them."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
