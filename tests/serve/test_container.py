"""What the container's recipe does, without a container engine: its steps run in a fresh environment, and the result is
served as an unknown user, without HOME, on a read-only file system."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A Python that any user may run; the one of a virtual environment may lie in somebody's home.
PYTHON = "/usr/bin/python3"
USER = 54321
READ_ONLY = """
set -e
mount --bind "$DATA" "$DATA"
for place in /tmp /var/tmp /dev/shm /; do
    mountpoint -q "$place" || mount --rbind "$place" "$place"
    mount -o remount,bind,ro "$place"
done
exec setpriv --reuid "$AS" --regid "$AS" --clear-groups --no-new-privs env -i PATH="$TARGET/bin:/usr/bin:/bin" \
    PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 JOBLIB_MULTIPROCESSING=0 \
    FASTLANE_CACHE="$TARGET/cache" TORCHINDUCTOR_CACHE_DIR="$TARGET/cache/torch" \
    fastlane serve "$DATA/index" --port "$PORT"
"""


def missing() -> str:
    """What keeps this machine from the test; empty where nothing does."""
    if not sys.platform.startswith("linux") or os.getuid() != 0:
        return "needs root on Linux, to mount"
    lacking = [name for name in ("unshare", "setpriv", "mountpoint", PYTHON) if shutil.which(name) is None]
    if lacking:
        return f"needs {lacking[0]}"
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    return "" if allowed else "may not mount"


def test_the_recipe_names_files_that_exist():
    recipe = (ROOT / "container" / "Containerfile").read_text()
    assert "container/install.sh" in recipe
    assert os.access(ROOT / "container" / "install.sh", os.X_OK)
    assert "USER 10001" in recipe


@pytest.fixture
def place():
    """A folder that any user may enter."""
    folder = Path(tempfile.gettempdir(), "fastlane-container-test")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def ask(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


@pytest.mark.slow
@pytest.mark.skipif(missing() != "", reason=missing())
def test_an_unknown_user_serves_from_a_read_only_file_system(place):
    target, data = place / "opt", place / "data"
    steps = [str(ROOT / "container" / "install.sh"), str(ROOT), str(target), "cpu,serve"]
    subprocess.run(steps, check=True, env=os.environ | {"PYTHON": PYTHON}, cwd=place)
    data.mkdir()
    corpus = data / "corpus.jsonl"
    corpus.write_text('{"_id": "cat", "text": "Cats purr."}\n{"_id": "dog", "text": "Dogs bark."}\n')
    environment = os.environ | {"FASTLANE_CACHE": str(target / "cache")}
    command = [str(target / "bin" / "fastlane"), "index", str(corpus), "--out", str(data / "index")]
    subprocess.run(command, check=True, env=environment)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(data)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"DATA": str(data), "TARGET": str(target), "AS": str(USER), "PORT": str(port)}
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY]
    process = subprocess.Popen(command, env=os.environ | told, stderr=subprocess.PIPE, cwd="/")
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < end
            try:
                ask(port, "/health/ready")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        found = json.loads(ask(port, "/v1/indexes/-/search", {"query": "what does a cat do?", "k": 1}))
        assert found["hits"][0]["id"] == "cat"
        ask(port, "/v1/indexes/-/documents", {"documents": [{"id": "owl", "text": "Owls hunt at night."}]})
        assert json.loads(ask(port, "/v1/indexes/-/documents/owl"))["text"] == "Owls hunt at night."
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status
    finally:
        process.terminate()
        process.wait(60)
