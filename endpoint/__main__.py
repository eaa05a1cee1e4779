"""The command line: ``python -m endpoint`` prints its address once it takes jobs, ends well on SIGTERM and Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from endpoint.app import Endpoint
from endpoint.auth import Key, KeyFileError, client_key
from endpoint.options import Options, parse_options
from endpoint.store import StoreError

log = logging.getLogger("endpoint")


def main() -> None:
    """Serve until a signal; a start that fails says why and exits 1."""
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file = options.data_dir / "api_key"
        key = client_key(os.environ, key_file)
        asyncio.run(_serve(options, key))
    except (StoreError, KeyFileError) as error:
        sys.exit(f"endpoint: {error}")
    except OSError as error:
        sys.exit(f"endpoint: {error}")


async def _serve(options: Options, key: Key) -> None:
    endpoint = Endpoint(options, key.value)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: endpoint.hurry() if stop.is_set() else stop.set())
    try:
        await endpoint.start()
    except OSError:
        endpoint.close()
        raise
    said = asyncio.create_task(_say_when_ready(endpoint, options, key))
    await stop.wait()
    said.cancel()
    log.info("stopping; a running job has %g s to finish, a second signal ends it now", options.grace_s)
    await endpoint.stop()


async def _say_when_ready(endpoint: Endpoint, options: Options, key: Key) -> None:
    await endpoint.takes_jobs()
    if key.is_new:
        print(f"key (shown this once, kept in {options.data_dir / 'api_key'}): {key.value}")  # noqa: T201
    print(endpoint.url, flush=True)  # noqa: T201 - what whoever started it waits for


if __name__ == "__main__":
    main()
