"""The worker's source of models: Civitai, Hugging Face and the hosts that the operator named."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from worker.downloads.pool import download_all
from worker.downloads.threads import JobThreads
from worker.errors import Code, WorkerError
from worker.net.connections import ConnectionsClosedError, Sockets
from worker.net.retry import Retry
from worker.settings import NETWORK_VOLUME, Settings
from worker.sites import civitai, direct_link, hugging_face
from worker.sites.client import SiteClient, Sites
from worker.sites.errors import SiteError
from worker.sites.repo_list import line_error
from worker.sites.types import Download, Downloaded, ModelFile, RepoLine, Report
from worker.stop import Stop, StoppedError

LOOKUPS_AT_ONCE = 8
RESOLVERS = {"civitai": civitai.resolve, "hf": hugging_face.resolve, "http": direct_link.resolve}

log = logging.getLogger(__name__)


class WebModelSource:
    """The :class:`worker.sites.types.ModelSource` of a worker.

    Args:
        settings: addresses, tokens, ALLOW_PICKLE, DOWNLOAD_CONNECTIONS and MODELS_DIR.
        retry: how often and how long to try.
        network_volume: models lie on one, so files are fsynced and not preallocated; by MODELS_DIR when None.
    """

    def __init__(self, settings: Settings, *, retry: Retry | None = None, network_volume: bool | None = None) -> None:
        self._settings = settings
        self._sites = Sites.from_settings(settings)
        self._retry = retry or Retry()
        if network_volume is None:
            network_volume = settings.models_dir.resolve().is_relative_to(NETWORK_VOLUME)
        self._network_volume = network_volume

    def resolve(self, lines: Sequence[RepoLine], stop: Stop) -> list[ModelFile]:
        """Look all lines up at once. Return the files in the order of the lines.

        Raises:
            WorkerError: of the lowest line that could not be looked up, with the line quoted.
            StoppedError: ``stop`` was set.
        """
        return _LookupBatch(lines, self._new_client, self._settings.allow_pickle, stop).run() if lines else []

    def fetch(self, downloads: Sequence[Download], stop: Stop, report: Report) -> list[Downloaded]:
        """Download every file, verified, atomically: :func:`worker.downloads.pool.download_all`."""
        return download_all(
            downloads,
            self._new_client,
            stop,
            report,
            connections=self._settings.download_connections,
            retry=self._retry,
            network_volume=self._network_volume,
        )

    def _new_client(self, sockets: Sockets) -> SiteClient:
        return SiteClient(self._sites, self._retry, sockets)


class _LookupBatch:
    """The look-ups of one job's lines. After a failure no further line is begun; those before it still count."""

    def __init__(
        self, lines: Sequence[RepoLine], new_client: Callable[[Sockets], SiteClient], allow_pickle: bool, stop: Stop
    ) -> None:
        self._lines, self._new_client, self._allow_pickle, self._stop = lines, new_client, allow_pickle, stop
        self._files: dict[int, ModelFile] = {}
        self._errors: dict[int, WorkerError] = {}
        self._pending = list(reversed(range(len(lines))))
        self._running = min(LOOKUPS_AT_ONCE, len(lines))
        self._lock = threading.Lock()
        self._sockets = Sockets()
        self._threads = JobThreads(self._sockets)

    def run(self) -> list[ModelFile]:
        for number in range(self._running):
            self._threads.start(self._work, f"lookup-{number}")
        try:
            self._threads.wait(self._stop)
        finally:
            self._threads.close()
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._files[index] for index in range(len(self._lines))]

    def _work(self) -> None:
        client = self._new_client(self._sockets)
        try:
            while (index := self._next()) is not None:
                self._look_up(index, client)
        except (StoppedError, ConnectionsClosedError):
            pass  # run() raises it, in the job's own thread
        finally:
            client.close()
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._threads.done.set()

    def _next(self) -> int | None:
        with self._lock:
            if not self._pending or self._errors:  # lines are begun in order, so all before a failed one are begun
                return None
            return self._pending.pop()

    def _look_up(self, index: int, client: SiteClient) -> None:
        line = self._lines[index]
        try:
            self._files[index] = RESOLVERS[line.site](line, client, self._stop, self._allow_pickle)
        except (StoppedError, ConnectionsClosedError):
            raise
        except WorkerError as error:
            self._errors[index] = error
        except SiteError as error:
            self._errors[index] = line_error(line, error.code, error.what, error.hint)
        except Exception:
            log.exception("the look-up of line %d broke", line.number)
            self._errors[index] = line_error(line, Code.INTERNAL, "its look-up broke")
