"""The settings of an endpoint, its prices and the times of its parts, each with the source of its number.

Prices and rules are RunPod's as documented in November 2026; times are this project's measurements where there are
any. Unpublished numbers are marked "assumed": change them and run again.
"""

from __future__ import annotations

from dataclasses import dataclass

MONTH_S = 730 * 3600.0


@dataclass(frozen=True)
class EndpointSettings:
    """The settings of one endpoint and of its workers. Sizes in GB, speeds in MB/s, times in seconds, money in USD."""

    max_workers: int = 3
    """RunPod's default (docs.runpod.io/serverless/endpoints/endpoint-configurations, "Max workers")."""
    active_workers: int = 0
    """Always on, at ``active_price``; the default is 0 (same page)."""
    idle_timeout_s: float = 5.0
    """Idle time of a worker before it stops; billed. The default is 5 s (same page)."""
    scaler: str = "queue delay"
    """``queue delay`` or ``request count`` (same page, "Auto-scaling type")."""
    queue_delay_s: float = 4.0
    """A job that has waited this long starts a worker; the default (same page)."""
    request_count: int = 4
    """Workers wanted: ceil((queued + running) / this); the default (same page)."""

    price: float = 0.00031
    """A second of a flex worker: "4090 PRO", 24 GB (docs.runpod.io/serverless/pricing)."""
    active_price: float = 0.00021
    """A second of an active worker of that kind (same page)."""
    volume_gb_month: float = 0.07
    """A GB of network volume a month, below 1 TB (same page)."""
    disk_gb_month: float = 0.10
    """A GB of container disk a month, while the worker runs (same page)."""

    start_s: float = 15.0
    """From the start of a cold worker to ComfyUI's answer. ComfyUI's own 6.6 s are measured (benchmarks/cold_start.py,
    files cached); container, CUDA and custom nodes are assumed to take the rest."""
    take_s: float = 1.7
    """From the start to the first job taken, whose models then download beside ComfyUI's start (measured there).
    Equal to ``start_s``: one after the other, as workers do that wait for ComfyUI first."""
    flash_s: float = 2.0
    """Start of a worker whose state FlashBoot kept (assumed; RunPod gives no number)."""
    flash_kept_s: float = 0.0
    """Time for which a stopped worker's state, its disk included, is kept (assumed; "for some time", same page). 0:
    never, as "container disk is lost when the worker stops" (docs.runpod.io/serverless/storage/overview)."""

    download_mb_s: float = 400.0
    """Of one worker over all its connections: 16 of 27 MB/s each, which is what single streams from Civitai were
    reported to reach (github.com/Hearmeman24/CivitAI_Downloader, issue 4)."""
    disk_read_mb_s: float = 2000.0
    """From the container's disk to the GPU (assumed: one NVMe)."""
    volume_mb_s: float = 300.0
    """Reading and writing a network volume: 200 to 400 MB/s (docs.runpod.io/storage/network-volumes)."""
    read_ahead: bool = True
    """While ComfyUI starts, models on the disk are read into memory (worker/models/page_cache.py)."""
    memory_gb: float = 24.0
    """Files that the kernel still has in memory after they were read or written (assumed)."""
    memory_mb_s: float = 6000.0
    """From there to the GPU (assumed: half of what PCIe 4.0 x8 carries)."""

    volume: bool = False
    """Models lie on a network volume that all workers share; nothing is pruned there (this project's default)."""
    keep_gb: float = 0.0
    """KEEP_GB: unlisted models kept on a worker's own disk, the most recently used ones. 0: prune to the list."""
    baked: bool = False
    """All models are in the image, on each worker's disk from its start."""
    container_gb: float = 60.0
    """The container disk that is paid for: image and models. ``keep_gb`` is paid for beside it."""


@dataclass(frozen=True)
class Workload:
    """The jobs: their arrivals, their models and their times."""

    jobs_per_s: float = 0.1
    arrivals: str = "steady"
    """``steady`` (Poisson), ``bursty`` (one minute of ten times the mean rate in ten), ``daily`` (nights are quiet)."""
    jobs: int = 5000
    render_s: float = 12.0
    """Median of a picture's time on the GPU: SDXL, 30 steps (assumed)."""
    render_spread: float = 0.3
    """Sigma of the logarithm of it; 0: always the same."""
    checkpoints: int = 5
    checkpoint_gb: float = 6.5
    """An SDXL checkpoint."""
    loras: int = 20
    lora_gb: float = 0.2
    loras_per_job: int = 1
    zipf: float = 1.0
    """Popularity of the n-th model: 1 / n to this power. 0: all alike."""
