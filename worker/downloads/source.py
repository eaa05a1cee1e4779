"""Where models come from: Civitai, Hugging Face and the hosts that the operator named, behind one ``Source``."""

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
from worker.sites import civitai, hugging_face
from worker.sites import direct_link as direct
from worker.sites.client import SiteClient, Sites
from worker.sites.errors import SiteError
from worker.sites.repo_list import line_error
from worker.sites.types import Download, Downloaded, ModelFile, RepoLine, Report
from worker.stop import Stop, StoppedError

LOOKUPS_AT_ONCE = 8
RESOLVERS = {"civitai": civitai.resolve, "hf": hugging_face.resolve, "http": direct.resolve}

log = logging.getLogger(__name__)


class ModelSites:
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
        """Look all lines up at once; the files in the order of the lines.

        Raises:
            WorkerError: of the lowest line that can not be looked up, with the line quoted.
            Stopped: ``stop`` was set.
        """
        return _Lookup(lines, self._new_client, self._settings.allow_pickle, stop).run() if lines else []

    def fetch(self, downloads: Sequence[Download], stop: Stop, report: Report) -> list[Downloaded]:
        """Bring every file, verified, atomically: :func:`worker.downloads.pool.download_all`."""
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


class _Lookup:
    """One round of look-ups. Lines after one that failed are not begun any more; those before it still count."""

    def __init__(
        self, lines: Sequence[RepoLine], new_client: Callable[[Sockets], SiteClient], allow_pickle: bool, stop: Stop
    ) -> None:
        self._lines, self._new_client, self._allow_pickle, self._stop = lines, new_client, allow_pickle, stop
        self._found: dict[int, ModelFile] = {}
        self._failed: dict[int, WorkerError] = {}
        self._left = list(reversed(range(len(lines))))
        self._working = min(LOOKUPS_AT_ONCE, len(lines))
        self._lock = threading.Lock()
        self._sockets = Sockets()
        self._threads = JobThreads(self._sockets)

    def run(self) -> list[ModelFile]:
        for number in range(self._working):
            self._threads.start(self._work, f"lookup-{number}")
        try:
            self._threads.wait(self._stop)
        finally:
            self._threads.dismiss()
        if self._failed:
            raise self._failed[min(self._failed)]
        return [self._found[index] for index in range(len(self._lines))]

    def _work(self) -> None:
        client = self._new_client(self._sockets)
        try:
            while (index := self._take()) is not None:
                self._look_up(index, client)
        except (StoppedError, ConnectionsClosedError):
            pass  # the waiting thread raises it
        finally:
            client.close()
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._threads.done.set()

    def _take(self) -> int | None:
        with self._lock:
            if not self._left or self._failed:  # they are taken in order, so all before a failed one are begun
                return None
            return self._left.pop()

    def _look_up(self, index: int, client: SiteClient) -> None:
        line = self._lines[index]
        try:
            self._found[index] = RESOLVERS[line.site](line, client, self._stop, self._allow_pickle)
        except (StoppedError, ConnectionsClosedError):
            raise
        except WorkerError as error:
            self._failed[index] = error
        except SiteError as refused:
            self._failed[index] = line_error(line, refused.code, refused.what, refused.hint)
        except Exception:
            log.exception("the look-up of line %d broke", line.number)
            self._failed[index] = line_error(line, Code.INTERNAL, "its look-up broke")
