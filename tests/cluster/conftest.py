"""Fixtures of the cluster's tests: a real Ray cluster of several nodes on this machine."""

import os
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'fastlane-rag[ray]'")

os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Actors unpickle the queries of the stand-in encoder.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1] / "index"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
# Ray lets other work of the machine go first, which may be all there is.
os.environ.setdefault("RAY_worker_niceness", "0")
# A dead node is noticed within seconds.
os.environ.setdefault("RAY_health_check_period_ms", "500")
os.environ.setdefault("RAY_health_check_failure_threshold", "3")

import ray
from ray.cluster_utils import Cluster

MEMORY = 80 << 20
CPUS = 0.1
"""Of a node, for each actor: nodes here are processes of one machine."""


@pytest.fixture(scope="session")
def nodes():
    """A cluster of a head without processors and three nodes; a test that kills one adds another."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    for _ in range(3):
        cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
    ray.init(address=cluster.address, namespace="fastlane", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
