"""Fixtures of the cluster's tests: a real Ray cluster of several nodes on this machine."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

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

MEMORY = 80 << 20


def pytest_collection_modifyitems(items):
    """Skip the tests of this folder where ray is not installed."""
    if find_spec("ray") is None:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason="ray is not installed: pip install 'fastlane-rag[ray]'"))


@pytest.fixture(scope="session")
def nodes():
    """A cluster of a head without processors and three nodes; a test that kills one adds another."""
    import ray
    from ray.cluster_utils import Cluster

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
