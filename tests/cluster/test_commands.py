"""`fastlane cluster`, the application on Ray Serve, and the plan."""

import json
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlane_rag.cli import main


def run(*arguments):
    result = CliRunner().invoke(main, ["cluster", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, ["cluster", "status", "somewhere"])
    assert result.exit_code == 1
    assert "fastlane-rag[ray]" in result.output


def test_the_plan_names_its_assumptions_and_grows_with_the_passages():
    from fastlane_rag.cluster.planning import Assumptions, plan

    small, large = plan(10_000_000, Assumptions()), plan(1_000_000_000, Assumptions())
    assert large.nodes > small.nodes
    assert large.bytes == 100 * small.bytes
    said = run("plan")
    for words in ("1,000,000,000 passages", "machines", "Assumptions", "Where it breaks", "growth.json"):
        assert words in said


@pytest.mark.slow
def test_up_index_search_status_and_http(nodes, model, passages, tmp_path):
    import httpx
    import ray
    from ray import serve

    from fastlane_rag.cluster import ClusterIndex
    from fastlane_rag.cluster.serving import deploy

    corpus = Path(tmp_path, "some.jsonl")
    corpus.write_text("".join(json.dumps({"_id": one["id"], "text": one["text"]}) + "\n" for one in passages[:40]))
    directory = tmp_path / "c"
    assert "writer" in run("up", directory, "--shards", 1, "--cpus", 0.1)
    assert "40 of them new" in run("index", directory, corpus, "--cpus", 0.5)
    run("up", directory, "--shards", 2)
    found = json.loads(run("search", directory, "two dictionaries", "-k", 3, "--json"))
    assert len(found["hits"]) == 3
    assert "away" not in run("status", directory)
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"""
proxy_location: HeadOnly
http_options: {{host: 127.0.0.1, port: 18437}}
applications:
- name: fastlane
  import_path: fastlane_rag.cluster.serving:application
  args:
    indexes: {{peps: {directory}}}
  deployments:
  - name: http
    autoscaling_config: {{min_replicas: 1, max_replicas: 2}}
    ray_actor_options: {{num_cpus: 0.2}}
"""
    )
    deploy(config)
    with httpx.Client(base_url="http://127.0.0.1:18437", timeout=60) as client:
        asked = client.post("/v1/indexes/peps/search", json={"query": "two dictionaries", "k": 3})
        if asked.status_code == 503:  # the first answer may take a busy machine longer than a request may last
            time.sleep(30)
            asked = client.post("/v1/indexes/peps/search", json={"query": "two dictionaries", "k": 3})
        assert asked.status_code == 200, asked.text
        assert [hit["id"] for hit in asked.json()["hits"]] == [hit["id"] for hit in found["hits"]]
        added = client.post("/v1/indexes/peps/documents", json={"documents": [{"id": "x", "text": "A new passage."}]})
        assert added.json()["ids"] == ["x"]
    serve.shutdown()
    with ClusterIndex.open(directory) as index:
        assert "x" in index
        index.stop()
    assert ray.is_initialized()
