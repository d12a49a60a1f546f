"""`fastlane serve` under load and under attack: latency by number of workers, and what a killed worker loses.

python benchmarks/serve.py INDEX --queries queries.txt --clients 64 --seconds 60 \\
    --json benchmarks/results/serve.json

INDEX is a directory that `fastlane index` made; it is copied first. Queries are the demo's where no file is given.
Every client asks one search after the other over one connection, so there are as many requests under way as clients.
Times are from the first byte of a request to the last of its answer, clients and server on this machine. Processor time
is the server's alone: other work on the machine changes it less.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastlane_rag.cli.demo import LANGCHAIN_QUESTIONS, LLAMA_INDEX_QUESTIONS, MORE_QUESTIONS
from fastlane_rag.evaluation.environment import environment

BASE = "/v1/indexes/-"
START_SECONDS = 180


class Connection:
    """One connection that is kept, with little work, because clients share the processor with the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", type_: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError: the connection broke; the next call opens another one.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {type_}\r\n"
        return await self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to the bytes of a request."""
        try:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.writer.write(request)
            await self.writer.drain()
            return await self.answer()
        except (OSError, asyncio.IncompleteReadError, IndexError) as error:
            self.close()
            raise OSError(str(error)) from error

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        assert self.reader is not None
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(int(length))

    def close(self) -> None:
        """Hang up."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


@contextmanager
def server(index: Path, workers: int, log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Port and process of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "fastlane_rag",
        "serve",
        str(index),
        "--port",
        str(port),
        "--workers",
        str(workers),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stderr=output, stdout=output)
    try:
        wait_until_ready(port, process, workers)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_ready(port: int, process: subprocess.Popen[bytes], workers: int) -> None:
    """Until the server answers and each of its processes has loaded its model."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).read()
            if workers == 1 or len(listening(process.pid)) >= workers:
                time.sleep(5 if workers > 1 else 0)
                return
        time.sleep(0.5)
    raise SystemExit("the server was not ready in time")


def listening(parent: int) -> list[int]:
    """The processes of a server that answer requests: its children that have loaded much."""
    import psutil

    return [one.pid for one in psutil.Process(parent).children(recursive=True) if one.memory_info().rss > 300 << 20]


def resident(process: int) -> float:
    """MB of a server and its children."""
    import psutil

    all_of = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    return sum(one.memory_info().rss for one in all_of) / 2**20


def processor_seconds(process: int) -> float:
    """Processor time that a server and its children have taken."""
    import psutil

    times = [one.cpu_times() for one in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]]
    return float(sum(one.user + one.system for one in times))


def summary(milliseconds: list[float], errors: int, seconds: float) -> dict[str, Any]:
    """What many requests took."""
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive") if len(milliseconds) > 1 else [0.0] * 99
    return {
        "queries": len(milliseconds),
        "errors": errors,
        "queries_a_second": round(len(milliseconds) / seconds, 1),
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "p99_ms": round(cuts[98], 1),
    }


async def searching(port: int, queries: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Clients that search one after the other."""
    taken: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal errors
        connection, turn = Connection(port), number
        while time.perf_counter() < end:
            body = json.dumps({"query": queries[turn % len(queries)], "k": 10}).encode()
            start = time.perf_counter()
            try:
                status, _ = await connection.ask("POST", f"{BASE}/search", body)
            except OSError:
                status = 0
            errors += status != 200
            taken.append(1000 * (time.perf_counter() - start))
            turn += 1
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    return summary(taken, errors, time.perf_counter() - start)


async def killed(port: int, process: int, clients: int, seconds: float) -> dict[str, Any]:
    """Writers that each store one document after the other, while a worker is killed; then every acknowledged one is
    asked for."""
    acknowledged: list[str] = []
    broken = 0
    end = time.perf_counter() + seconds

    async def writer(number: int) -> None:
        nonlocal broken
        connection, turn = Connection(port), 0
        while time.perf_counter() < end:
            id_ = f"killed-{number}-{turn}"
            body = json.dumps({"documents": [{"id": id_, "text": f"document {turn} of writer {number}"}]}).encode()
            try:
                status, _ = await connection.ask("POST", f"{BASE}/documents", body)
            except OSError:
                status = 0
            if status == 200:
                acknowledged.append(id_)
            else:
                broken += 1
                await asyncio.sleep(0.1)
            turn += 1
        connection.close()

    async def killer() -> int:
        await asyncio.sleep(seconds / 3)
        victim = listening(process)[0]
        os.kill(victim, signal.SIGKILL)
        return victim

    await asyncio.gather(killer(), *map(writer, range(clients)))
    found = 0
    connection = Connection(port)
    for start in range(0, len(acknowledged), 500):
        body = json.dumps({"ids": acknowledged[start : start + 500]}).encode()
        _, answer = await connection.ask("POST", f"{BASE}/documents/get", body)
        found += json.loads(answer)["total"]
    _, answer = await connection.ask("POST", f"{BASE}/verify")
    connection.close()
    lost = len(acknowledged) - found
    problems = len(json.loads(answer)["problems"])
    return {"acknowledged": len(acknowledged), "lost": lost, "broken_requests": broken, "problems_of_verify": problems}


async def abused(port: int, process: int, queries: list[str], idle: int) -> dict[str, Any]:
    """Bodies that are too long, broken or slow, and connections that only wait; searches must go on meanwhile."""
    found: dict[str, Any] = {}
    before = resident(process)
    huge = Connection(port)
    head = f"POST {BASE}/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    found["body_of_1_GiB"] = (await huge.send(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode()))[0]
    huge.close()
    found["chunked_body_of_64_MiB"] = await chunked(port, head)
    found["broken_lines"] = (await Connection(port).ask("POST", f"{BASE}/documents/ingest", b'{"_id": "x", "te'))[0]
    _, cut = await asyncio.open_connection("127.0.0.1", port)
    ingest = head.replace("/search", "/documents/ingest")
    cut.write(f"{ingest}Content-Length: 1000\r\n\r\n{{".encode())
    await cut.drain()
    cut.close()
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
    for _, writer in slow:
        writer.write(f"{head}Content-Length: 100\r\n\r\n".encode())
    waiting: list[asyncio.StreamWriter] = []
    with suppress(OSError):
        for _ in range(idle):
            waiting.append((await asyncio.open_connection("127.0.0.1", port))[1])

    async def dribble() -> None:
        for _ in range(5):
            for _, writer in slow:
                writer.write(b" ")
            await asyncio.sleep(1)

    _, meanwhile = await asyncio.gather(dribble(), searching(port, queries, 4, 5))
    found["with_slow_and_idle_connections"] = meanwhile | {"slow": len(slow), "idle": len(waiting)}
    for one in [*waiting, *(writer for _, writer in slow)]:
        one.close()
    await asyncio.sleep(1)
    found["afterwards"] = await searching(port, queries, 4, 3)
    found["more_MB"] = round(resident(process) - before, 1)
    return found


async def chunked(port: int, head: str) -> int:
    """The answer to 64 MiB without a length; the server need not read them all."""
    connection = Connection(port)
    connection.reader, connection.writer = await asyncio.open_connection("127.0.0.1", port)
    connection.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    part = b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20))
    answer = asyncio.create_task(connection.answer())  # it comes long before the end of the body
    try:
        for _ in range(64):
            if answer.done():
                break
            connection.writer.write(part)
            await connection.writer.drain()
            await asyncio.sleep(0)
        return (await answer)[0]
    except (OSError, asyncio.IncompleteReadError):
        return answer.result()[0] if answer.done() and answer.exception() is None else 0
    finally:
        connection.close()


def many_files() -> None:
    """Allow as many connections as the system lets this process have."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Measure, and print the results as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, help="a file, one a line")
    parser.add_argument("--clients", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--idle", type=int, default=10_000, help="connections that only wait")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    asked = arguments.queries.read_text().splitlines() if arguments.queries else []
    queries = asked or [*LANGCHAIN_QUESTIONS, *LLAMA_INDEX_QUESTIONS, *MORE_QUESTIONS]
    many_files()
    results: dict[str, Any] = {"load": []}
    with tempfile.TemporaryDirectory(prefix="fastlane-serve-") as folder:
        index, log = Path(folder, "index"), Path(folder, "log")
        shutil.copytree(arguments.index, index)
        for workers in arguments.workers:
            with server(index, workers, log) as (port, process):
                asyncio.run(searching(port, queries, 2 * workers, 3))
                for clients in arguments.clients:
                    before = processor_seconds(process.pid)
                    found = asyncio.run(searching(port, queries, clients, arguments.seconds))
                    spent = 1000 * (processor_seconds(process.pid) - before) / max(found["queries"], 1)
                    found = {"workers": workers, "clients": clients} | found
                    found |= {"processor_ms_a_query": round(spent, 2), "MB": round(resident(process.pid))}
                    results["load"].append(found)
                    print(found, flush=True)
        with server(index, 2, log) as (port, process):
            results["killed"] = asyncio.run(killed(port, process.pid, 8, arguments.seconds))
            print(results["killed"], flush=True)
        with server(index, 1, log) as (port, process):
            results["abused"] = asyncio.run(abused(port, process.pid, queries, arguments.idle))
            print(results["abused"], flush=True)
    results |= {"seconds": arguments.seconds, "measured_in": asdict(environment()), "index": arguments.index.name}
    results["command"] = " ".join(["serve.py", *sys.argv[1:]])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
