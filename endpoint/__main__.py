"""The command line: ``python -m endpoint`` prints its address once it is ready; SIGTERM and Ctrl-C stop it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from endpoint.app import Endpoint
from endpoint.auth import ClientKey, KeyFileError, client_key
from endpoint.options import Options, parse_options
from endpoint.store import StoreError

log = logging.getLogger("endpoint")


def main() -> None:
    """Serve until a signal; a start that fails prints the reason and exits with 1."""
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = client_key(os.environ, options.data_dir / "api_key")
        asyncio.run(_serve(options, key))
    except (StoreError, KeyFileError, OSError) as error:
        sys.exit(f"endpoint: {error}")


async def _serve(options: Options, key: ClientKey) -> None:
    endpoint, stop = Endpoint(options, key.value), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: endpoint.hurry() if stop.is_set() else stop.set())
    try:
        await endpoint.start()
    except OSError:
        endpoint.close()
        raise
    announcement = asyncio.create_task(_announce(endpoint, options, key))
    await stop.wait()
    announcement.cancel()
    log.info("stopping; a running job has %g s to finish, a second signal ends it now", options.grace_s)
    await endpoint.stop()


async def _announce(endpoint: Endpoint, options: Options, key: ClientKey) -> None:
    await endpoint.pool.ready.wait()
    if key.is_new:
        print(f"key (shown this once, kept in {options.data_dir / 'api_key'}): {key.value}")  # noqa: T201
    print(endpoint.url, flush=True)  # noqa: T201 - scripts wait for this line


if __name__ == "__main__":
    main()
