# SPDX-License-Identifier: Apache-2.0
"""numba's compiler for the per-pixel loops, with a cache on disk where there is room for one.

Compiled code is kept beside the source, else under the user's cache, else in ``NUMBA_CACHE_DIR``. A read-only
system without a writable home has none of them, and a disk can fill up: then every start compiles anew.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba

log = logging.getLogger(__name__)

ADVICE = "every start takes seconds longer; set NUMBA_CACHE_DIR to a folder that can be written"


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: ``numba.njit`` of these options, cached where that is possible."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        try:
            dispatcher.enable_caching()
        except RuntimeError as error:  # numba found no folder
            _say(str(error))
        else:
            _survive_full_disk(dispatcher._cache)
        return dispatcher

    return compiled


def cache_problem() -> str:
    """Why compiled code cannot be kept; empty where it can."""
    try:
        numba.njit(_nothing).enable_caching()
    except RuntimeError as error:
        return str(error)
    return ""


def _nothing() -> None: ...


def _survive_full_disk(cache: Any) -> None:
    """What cannot be written is compiled and used all the same: numba passes the error on to the caller."""
    save = cache.save_overload

    @functools.wraps(save)
    def save_or_say(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            _say(str(error))

    cache.save_overload = save_or_say


@functools.cache
def _say_once() -> Callable[[str], None]:
    return lambda why: log.warning("compiled code cannot be kept (%s): %s", why, ADVICE)


def _say(why: str) -> None:
    if _say_once.cache_info().currsize == 0:
        _say_once()(why)
