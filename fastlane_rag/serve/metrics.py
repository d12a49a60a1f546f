"""What Prometheus reads. With several processes each one's counts are added up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["CONTENT_TYPE_LATEST", "FOLDER", "Metrics"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder where several processes put their counts."""

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        request = ("method", "route", "status")
        self._requests = Counter("fastlane_requests", "Requests answered.", request, registry=registry)
        self._seconds = Histogram(
            "fastlane_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("method", "route"),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "fastlane_search_stage_seconds",
            "The stages of a search.",
            ("index", "stage"),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._busy = Gauge(
            "fastlane_requests_in_progress", "Requests at work.", registry=registry, multiprocess_mode="livesum"
        )
        self._documents = Gauge(
            "fastlane_documents", "Documents stored.", ("index",), registry=registry, multiprocess_mode="mostrecent"
        )

    def began(self) -> None:
        """A request came."""
        self._busy.inc()

    def ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._busy.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def searched(self, index: str, milliseconds: Mapping[str, float]) -> None:
        """A query was answered."""
        for stage, taken in milliseconds.items():
            self._stages.labels(index, stage).observe(taken / 1000)

    def text(self, documents: Mapping[str, int]) -> bytes:
        """Everything, in the format of Prometheus.

        Args:
            documents: how many each index holds now.
        """
        for index, count in documents.items():
            self._documents.labels(index).set(count)
        if FOLDER not in os.environ:
            return generate_latest(self._registry)
        _bury(Path(os.environ[FOLDER]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _bury(folder: Path) -> None:
    """Take killed processes out of what counts the living."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
