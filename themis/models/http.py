"""HTTP as calls to models need it: one session per process and event loop, deadlines, retries.

aiohttp is used without a layer of its own above it, because CPU per call is what bounds a run with many
requests in progress. It is imported when the first session opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
import weakref
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from themis.errors import ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import aiohttp

T = TypeVar("T")
Sessions: TypeAlias = "dict[tuple[int, asyncio.AbstractEventLoop], aiohttp.ClientSession]"

CONNECT_TIMEOUT = 10.0
"""Seconds to resolve a name and open a connection."""
FIRST_DELAY = 0.5
"""Seconds before the second attempt, on average three quarters of it; each further one doubles."""
MAX_DELAY = 30.0
"""Longest wait in seconds where the server names none."""
MAX_RETRY_AFTER = 60.0
"""Longest wait in seconds that a Retry-After gets: one that asks for an hour is asked again after this."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What a server answered. The body is complete: a truncated one never becomes a reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransientError(Exception):
    """An attempt failed in a way that the next may not. `retry_after`: seconds that the server asked for."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class HttpClient:
    """Posts to one base URL, with deadlines and retries.

    It pickles without what it has open. Each event loop of each process gets a session at its first request,
    with as many connections as there are requests in progress. What was never closed is closed when the
    client is collected, or at interpreter exit, so that no "Unclosed client session" is ever logged.

    Args:
        base_url: What every path is appended to.
        timeout: Seconds for one attempt, from opening a connection to the last byte.
        max_retries: How many times a request is sent again at most.
    """

    def __init__(self, base_url: str, *, timeout: float = 600.0, max_retries: int = 5) -> None:
        self.base_url = base_url
        self.timeout = timeout
        self.max_retries = max_retries
        self._start()

    def _start(self) -> None:
        self._sessions: Sessions = {}
        weakref.finalize(self, _close_all, self._sessions)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_sessions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    async def post(
        self, path: str, headers: Mapping[str, str], data: bytes, read: Callable[[Reply], T]
    ) -> tuple[T, int]:
        """What `read` makes of the reply, and how many times the request was sent.

        Args:
            path: Appended to the base URL.
            headers: Sent as they are.
            data: The body.
            read: Raises TransientError for a reply after which the request is to be sent again.

        Raises:
            ModelError: `read` raised it; its `attempts` is set here.
            ModelUnavailableError: Every attempt failed.
        """
        for attempt in itertools.count(1):
            try:
                return read(await self._send(path, headers, data)), attempt
            except ModelError as error:
                error.attempts = attempt
                raise
            except TransientError as error:
                if attempt > self.max_retries:
                    times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    raise ModelUnavailableError(f"no answer after {times}; the last: {error}", attempt) from error
                delay = retry_delay(attempt, error.retry_after)
                logger.info("attempt %d failed, the next in %.1f s: %s", attempt, delay, error)
            await asyncio.sleep(delay)
        raise AssertionError("itertools.count ends")  # pragma: no cover - for the type checker

    async def _send(self, path: str, headers: Mapping[str, str], data: bytes) -> Reply:
        import aiohttp

        url = self.base_url + path
        try:
            # A redirect of a POST would become a GET, or carry the key elsewhere: it is reported, not followed.
            async with self._session().post(url, data=data, headers=headers, allow_redirects=False) as response:
                return Reply(response.status, response.headers, await response.read())
        except aiohttp.ClientConnectorCertificateError as error:
            raise ModelUnavailableError(f"{url} has a certificate that is not trusted: {error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise TransientError(f"{url}: no connection within {min(CONNECT_TIMEOUT, self.timeout):g} s") from error
        except TimeoutError as error:
            raise TransientError(f"{url}: no answer within {self.timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(f"{url}: {error or type(error).__name__}") from error

    def _session(self) -> aiohttp.ClientSession:
        key = (os.getpid(), asyncio.get_running_loop())
        session = self._sessions.get(key)
        return session if session is not None and not session.closed else self._open(key)

    def _open(self, key: tuple[int, asyncio.AbstractEventLoop]) -> aiohttp.ClientSession:
        import aiohttp
        from yarl import URL

        _close_all(self._sessions, only_dead=True)
        proxy = proxy_for(self.base_url)
        url = URL(proxy) if proxy else None
        session = self._sessions[key] = aiohttp.ClientSession(
            connector=_connector(),
            timeout=aiohttp.ClientTimeout(total=self.timeout, connect=min(CONNECT_TIMEOUT, self.timeout)),
            cookie_jar=aiohttp.DummyCookieJar(),
            # trust_env would read the environment and ~/.netrc again for every request.
            proxy=url.with_user(None) if url else None,
            proxy_auth=aiohttp.BasicAuth.from_url(url) if url else None,
        )
        return session

    async def check(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the deadline is the point
        """Connect to the server and hang up, within `timeout` seconds; nothing where a proxy stands between.

        Raises:
            ModelUnavailableError: The server cannot be reached.
        """
        if proxy_for(self.base_url):
            return
        parts = urlsplit(self.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, port), timeout)
        except OSError as error:  # TimeoutError is one
            reason = str(error) or f"no connection within {timeout:g} s"
            raise ModelUnavailableError(
                f"{self.base_url} cannot be reached: {reason}; check base_url, and that the server runs",
                attempts=0,
            ) from error
        writer.close()
        with contextlib.suppress(OSError):  # it answered; how it hangs up does not matter
            await writer.wait_closed()

    async def close(self) -> None:
        """Close the session of the running event loop."""
        session = self._sessions.pop((os.getpid(), asyncio.get_running_loop()), None)
        if session is not None:
            await session.close()


def retry_delay(attempt: int, retry_after: float | None = None) -> float:
    """Seconds to wait after the given attempt (from 1).

    What the server asked for, at most MAX_RETRY_AFTER, and up to a quarter or a second more, so that many
    clients do not come back at once; without it, half to all of an exponentially growing delay.
    """
    if retry_after is not None and retry_after > 0:
        wait = min(retry_after, MAX_RETRY_AFTER)
        return wait + random.uniform(0, min(1.0, wait / 4))
    grown: float = min(MAX_DELAY, FIRST_DELAY * 2 ** (attempt - 1))
    return grown * random.uniform(0.5, 1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by `retry-after-ms`, else Retry-After: seconds or an HTTP date."""
    with contextlib.suppress(KeyError, ValueError):
        return float(headers["retry-after-ms"]) / 1000
    value = headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return float(value)
    with contextlib.suppress(ValueError):
        return parsedate_to_datetime(value).timestamp() - time.time()
    return None


def proxy_for(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or the system's settings) name for a URL."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _connector() -> aiohttp.TCPConnector:
    """A connector with any number of connections, which a forked child leaves alone."""
    import aiohttp

    opened_by = os.getpid()

    class Connector(aiohttp.TCPConnector):
        # A child shares its parent's sockets and selector: closing them there would break them here.
        def __del__(self, *args: Any) -> None:
            if os.getpid() == opened_by:
                super().__del__(*args)

    return Connector(limit=0)


def _close_all(sessions: Sessions, *, only_dead: bool = False) -> None:
    """Close sessions from wherever the garbage collector, or the interpreter's exit, calls."""
    for pid, loop in list(sessions):
        if pid != os.getpid():
            sessions.pop((pid, loop)).detach()
        elif loop.is_closed() or not only_dead:
            _close_from_outside(sessions.pop((pid, loop)), loop)


def _close_from_outside(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    here = asyncio._get_running_loop()  # noqa: SLF001 - get_running_loop() raises instead of answering None
    if loop.is_closed():  # nothing is left to wait for: the coroutine ends at its first step
        with contextlib.suppress(StopIteration):
            session.close().send(None)
    elif loop is here:
        _closing.add(task := loop.create_task(session.close()))
        task.add_done_callback(_closing.discard)
    elif loop.is_running():
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(session.close(), loop).result(timeout=1.0)
    elif here is None:
        loop.run_until_complete(session.close())


_closing: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to its tasks
