"""The shards of a cluster as a caller sees them: their actors, and who answers where one does not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fastlane_rag.cluster.manifest import Manifest
from fastlane_rag.cluster.shard import READS, OutdatedError, Shard
from fastlane_rag.errors import FastLaneError, ShardUnavailableError

__all__ = ["NAMESPACE", "Shards", "present"]

NAMESPACE = "fastlane"
_AGAIN = -1  # Ray's word for: as often as it takes
# A copy that says nothing for so long may be on a machine that is gone: the next copy is asked.
_PATIENCE_SECONDS = 10.0

T = TypeVar("T")
Answers = dict[int, Any]
"""What each shard answers, by its number; a ShardUnavailableError of a shard that does not."""


def present(answers: Answers) -> dict[int, Any]:
    """The answers of the shards that gave one."""
    return {shard: one for shard, one in answers.items() if not isinstance(one, ShardUnavailableError)}


class Shards:
    """The actors of a cluster's shards.

    Copy 0 of a shard writes, the others only read. They are detached actors: they outlive who starts them, and all
    who open the cluster share them. Ray starts them again where they die, on another machine where it must.

    Args:
        cluster: the cluster's directory.
        read_seconds: how long a shard may take to answer a read.
        write_seconds: how long it may take to write.
    """

    def __init__(self, cluster: Path, read_seconds: float, write_seconds: float) -> None:
        self.cluster = cluster
        self.manifest = Manifest.read(cluster)
        self._read_seconds, self._write_seconds = read_seconds, write_seconds
        self._copies: dict[int, list[ActorHandle[Shard]]] = {}

    async def start(self, seconds: float, *, make: Iterable[int] = ()) -> Answers:
        """Start the actors that do not run, and wait until every shard has its index open.

        Args:
            seconds: to wait.
            make: shards whose empty index is made first.
        """
        await self._each(make, lambda shard: self._waited(shard, self.copies(shard)[:1], seconds, "write", "make"))
        every = range(self.manifest.all_shards)
        return await self._each(every, lambda shard: self._waited(shard, self.copies(shard), seconds, "read", "ready"))

    def copies(self, shard: int) -> list[ActorHandle[Shard]]:
        """The actors of a shard, the one that writes first."""
        found = self._copies.get(shard)
        if found is None:
            found = self._copies[shard] = self._started(shard)
        return found

    def _started(self, shard: int) -> list[ActorHandle[Shard]]:
        if not ray.is_initialized():
            ray.init(namespace=NAMESPACE, log_to_driver=False)
        manifest, name = self.manifest, f"fastlane-{self.manifest.id}-{shard}"
        # A shard on the disk of one machine stays there: that machine offers this resource.
        pinned = {} if manifest.local is None else {f"fastlane-shard-{shard}": 0.001}
        bundle = {"CPU": manifest.cpus, **pinned}
        # Ray warns that actors end with their group, which is what `stop` is for.
        logging.getLogger("ray.actor").setLevel(logging.ERROR)
        try:
            group = get_placement_group(name)
        except ValueError:
            group = placement_group([bundle] * (1 + manifest.replicas), "SPREAD", name=name, lifetime="detached")
        actor = cast(Any, ray.remote)(concurrency_groups={"read": READS, "write": 1})(Shard)
        return [
            actor.options(
                name=f"{name}-{copy}",
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=_AGAIN,
                num_cpus=manifest.cpus,
                resources=pinned,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=copy),
            ).remote(str(self.cluster), shard, copy > 0)
            for copy in range(1 + manifest.replicas)
        ]

    async def ask(self, name: str, *given: Any, **options: Any) -> Answers:
        """Have every shard read, all at once; a new shard after the others.

        A document that moves is in the new shard before it leaves its old one, so who asks in this order finds it.
        """

        async def asked() -> Answers:
            every = range(self.manifest.shards)
            found = await self._each(every, lambda shard: self._read(shard, name, given, options))
            if self.manifest.growing:
                last = self.manifest.shards
                found |= await self._each([last], lambda shard: self._read(shard, name, given, options))
            return found

        return await self.current(asked)

    async def ask_some(self, name: str, given: Mapping[int, tuple[Any, ...]]) -> Answers:
        """Have some shards read, each with its own arguments, all at once."""
        return await self._each(given, lambda shard: self._read(shard, name, given[shard], {}))

    async def tell(self, name: str, given: Mapping[int, tuple[Any, ...]], **options: Any) -> dict[int, Any]:
        """Have some shards write, each with its own arguments, all at once.

        Raises:
            ShardUnavailableError: a shard cannot be reached; the others have written.
        """
        found = await self._each(given, lambda shard: self._write(shard, name, given[shard], options))
        for one in found.values():
            if isinstance(one, ShardUnavailableError):
                raise one
        return found

    async def inform(self) -> None:
        """Have every actor read the manifest.

        Raises:
            ShardUnavailableError: one does not answer.
        """
        await asyncio.gather(
            *(
                self._waited(shard, [copy], self._read_seconds, "read", "ready")
                for shard in range(self.manifest.all_shards)
                for copy in self.copies(shard)
            )
        )

    async def status(self, seconds: float) -> dict[int, list[str]]:
        """Where each copy of each shard runs, or why it does not answer within some seconds."""

        async def place(copy: ActorHandle[Shard]) -> str:
            try:
                return str(await asyncio.wait_for(_answer(copy.read.remote(self.manifest.epoch, "place")), seconds))
            except TimeoutError:
                return f"no answer within {seconds:g} s"
            except (RayError, FastLaneError) as error:
                return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

        self.manifest = Manifest.read(self.cluster)
        shards = range(self.manifest.all_shards)
        found = [await asyncio.gather(*map(place, self.copies(shard))) for shard in shards]
        return dict(zip(shards, found, strict=True))

    async def current(self, doing: Callable[[], Awaitable[T]]) -> T:
        """What a function returns; again with a new manifest where it has changed."""
        while True:
            try:
                return await doing()
            except OutdatedError:
                self.manifest = Manifest.read(self.cluster)

    async def _each(self, shards: Iterable[int], ask: Callable[[int], Awaitable[Any]]) -> Answers:
        """What each shard answers. Every error but that a shard is away is raised, once all are done."""
        numbers = list(shards)
        found = await asyncio.gather(*map(ask, numbers), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, ShardUnavailableError):
                raise one
        return dict(zip(numbers, found, strict=True))

    async def _read(self, shard: int, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Ask the copies in turn; where all are away, wait for the first that Ray brings back."""
        writer, *replicas = self.copies(shard)
        random.shuffle(replicas)
        loop, copies = asyncio.get_running_loop(), [*replicas, writer]
        end = loop.time() + self._read_seconds
        for copy in copies[: len(replicas)]:
            with suppress(RayError, TimeoutError, ShardUnavailableError):
                call: Any = copy.read.remote(self.manifest.epoch, name, *given, **options)
                return await asyncio.wait_for(_answer(call), min(self._read_seconds, _PATIENCE_SECONDS))
        left = max(1.0, end - loop.time())
        return await self._waited(shard, copies[::-1], left, "read", name, *given, **options)

    async def _write(self, shard: int, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return await self._waited(shard, self.copies(shard)[:1], self._write_seconds, "write", name, *given, **options)

    async def _waited(
        self,
        shard: int,
        copies: list[ActorHandle[Shard]],
        seconds: float,
        way: str,
        name: str,
        *given: Any,
        **options: Any,
    ) -> Any:
        """The first answer of some copies, which Ray may have to start first.

        Raises:
            ShardUnavailableError: there is none in time.
        """
        calls = [
            asyncio.ensure_future(
                _answer(
                    getattr(copy, way)
                    .options(max_task_retries=_AGAIN)
                    .remote(self.manifest.epoch, name, *given, **options)
                )
            )
            for copy in copies
        ]
        reason: object = f"no answer within {seconds:g} s"
        try:
            async with asyncio.timeout(seconds):
                for call in asyncio.as_completed(calls):
                    try:
                        return await call
                    except (RayError, ShardUnavailableError) as error:
                        reason = " ".join(str(error).split())
        except TimeoutError:
            pass
        finally:
            for one in calls:
                one.cancel()
        again = "Repeat the write: what is stored is not doubled." if way == "write" else "Ray starts it again."
        raise ShardUnavailableError(
            f"shard {shard} of {self.cluster} is away ({self.manifest.directory(self.cluster, shard)}, "
            f"{len(copies)} of its actors asked): {reason}. {again} fastlane cluster status shows the shards"
        )

    async def stop(self) -> None:
        """Close the shards' indexes and end their actors."""
        for shard in range(self.manifest.all_shards):
            copies = self.copies(shard)
            for copy in copies:
                with suppress(RayError, TimeoutError, FastLaneError):
                    await asyncio.wait_for(_answer(copy.write.remote(self.manifest.epoch, "close")), _PATIENCE_SECONDS)
                ray.kill(copy)
            with suppress(ValueError):
                remove_placement_group(get_placement_group(f"fastlane-{self.manifest.id}-{shard}"))
        self._copies.clear()


async def _answer(call: Any) -> Any:
    """The answer of an actor; what it raised is raised as it was there."""
    try:
        return await call
    except RayTaskError as error:
        if isinstance(error.cause, FastLaneError):
            raise error.cause from None
        raise FastLaneError(f"a shard failed: {' '.join(str(error.cause).split())}") from error
