"""`fastlane serve` as a command: what it refuses, its processes, and its end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastlane_rag import FastLaneIndex, RemoteIndex
from fastlane_rag.cli import main
from fastlane_rag.errors import RemoteError
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.settings import ServeSettings


@pytest.fixture
def told(monkeypatch):
    """What a server would be told; none is started."""
    import fastlane_rag.serve.run as module

    calls = []
    monkeypatch.setattr(module, "run", lambda *arguments: calls.append(arguments))
    return calls


def test_a_server_that_others_reach_needs_keys(told, index, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("app read reader-key-0123456789\n")
    directory = str(index.path)
    refused = CliRunner().invoke(main, ["serve", directory, "--host", "0.0.0.0"])
    assert refused.exit_code == 1
    assert "give --keys FILE" in refused.output
    assert told == []
    for options, hosts, holders in (
        ([], ("localhost", "127.0.0.1", "[::1]"), 0),
        (["--host", "0.0.0.0", "--keys", str(keys)], ("*",), 1),
        (["--host", "0.0.0.0", "--no-keys"], ("*",), 0),
        (["--host", "::1", "--allowed-host", "docs.example"], ("docs.example",), 0),
    ):
        done = CliRunner().invoke(main, ["serve", f"docs={directory}", *options], catch_exceptions=False)
        assert done.exit_code == 0
        settings, *_ = told.pop()
        assert (settings.hosts, len(settings.keys)) == (hosts, holders)
        assert settings.indexes == {"docs": index.path}


def test_a_missing_index_is_told_before_anything_starts(told, tmp_path):
    refused = CliRunner().invoke(main, ["serve", str(tmp_path / "none")])
    assert refused.exit_code == 1
    assert "none" in refused.output
    assert told == []


def test_what_is_told_reaches_other_processes(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("app read reader-key-0123456789\n")
    from fastlane_rag.serve.keys import read_keys

    settings = ServeSettings(indexes={"a": tmp_path}, keys=read_keys(keys), hosts=("x",), threads=3)
    assert "reader-key" not in settings.model_dump_json()
    assert ServeSettings.model_validate_json(settings.model_dump_json()) == settings


def test_requests_under_way_are_answered_before_the_end(running, index, monkeypatch):
    started, go_on, search = threading.Event(), threading.Event(), type(index).search_batch_detailed

    def waiting(self, *arguments, **options):
        started.set()
        go_on.wait(10)
        return search(self, *arguments, **options)

    monkeypatch.setattr(type(index), "search_batch_detailed", waiting)
    server = running(create_app(ServeSettings(), {"animals": index}))
    found = []
    remote = RemoteIndex(server.url, retries=0)
    asking = threading.Thread(target=lambda: found.append(remote.search("cats", 1)))
    asking.start()
    started.wait(10)
    server._server.should_exit = True
    time.sleep(0.3)  # it takes no more connections now
    with pytest.raises(RemoteError, match="cannot reach"):
        RemoteIndex(server.url, retries=0).search("cats")
    go_on.set()
    asking.join(10)
    assert found[0][0].id == "cat"


def processes_of(parent):
    """The children that answer requests; Python has a helper besides."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_several_processes_serve_one_index_and_outlive_one_another(model, tmp_path):
    with FastLaneIndex.create(tmp_path / "docs", model=model) as index:
        index.add(["Cats purr.", "Dogs bark."], ["cat", "dog"])
    with (tmp_path / "log").open("w") as log:
        command = [
            sys.executable,
            "-m",
            "fastlane_rag",
            "serve",
            str(tmp_path / "docs"),
            "--port",
            "0",
            "--workers",
            "2",
        ]
        process = subprocess.Popen(command, stderr=log)
    try:
        url = address(tmp_path / "log", process)
        remote = RemoteIndex(url, retries=8)
        wait_for(lambda: len(remote) == 2)
        acknowledged = []
        for number in range(40):
            if number == 10:
                os.kill(processes_of(process.pid)[0], signal.SIGKILL)
            acknowledged += remote.add([f"Document {number}."])
        assert len(remote.get(acknowledged)) == 40
        wait_for(lambda: len(processes_of(process.pid)) == 2)
        seen = {hit.id for _ in range(10) for hit in remote.search("Document 39.", 3)}
        assert acknowledged[-1] in seen
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
        counted = re.findall(
            r'fastlane_requests_total{.*route="/v1/indexes/{index}/documents".*status="200"} (\S+)', text
        )
        assert sum(map(float, counted)) == 40  # of all processes, the killed one included
        assert remote.verify() == []
    finally:
        process.terminate()
        assert process.wait(60) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(json.loads(line)["process"] for line in lines if line.startswith("{"))


def address(log, process):
    """Where a server listens, which its log says."""
    wait_for(lambda: "running on" in log.read_text() or process.poll() is not None)
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    assert found, log.read_text()
    return found[0]


def wait_for(done, seconds=180):
    end = time.monotonic() + seconds
    while True:
        try:
            if done():
                return
        except (RemoteError, urllib.error.URLError):
            pass
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
