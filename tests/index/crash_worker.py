"""Writes to an index until it is killed: the victim of the crash tests, run as a script.

Reads lines "path seed step" and forks a child for each, which carries out step, step + 1, ... and says so.
What a step does follows from the seed alone, so the test knows which contents to expect.
"""

import os
import random
import sys
from pathlib import Path

Contents = dict[str, tuple[str, dict]]


def operation(seed: int, step: int, contents: Contents) -> tuple[str, object]:
    """The step's operation, given what the index contains before it."""
    chance = random.Random(seed * 1_000_003 + step)
    kind = chance.choices(["add", "bulk", "delete", "sweep", "update", "compact"], [6, 3, 3, 1, 2, 2])[0]
    if kind in ("add", "bulk"):
        names = [f"d{chance.randrange(60)}" for _ in range(chance.randint(1, 4) if kind == "add" else 25)]
        texts = [" ".join(f"w{chance.randrange(30)}" for _ in range(chance.randint(1, 8))) for _ in names]
        return "add", [(name, text, {"step": step, "odd": step % 2}) for name, text in zip(names, texts, strict=True)]
    if kind == "delete":
        return "delete", chance.sample(sorted(contents), min(len(contents), chance.randint(1, 9)))
    if kind == "sweep":
        return "sweep", {"step": {"$lt": step - 12}}
    if kind == "update":
        return "update", [(name, {"updated": step}) for name in chance.sample(sorted(contents), len(contents) // 5)]
    return "compact", step % 2 == 0


def expected(contents: Contents, kind: str, argument) -> Contents:
    """What the index contains after an operation."""
    after = dict(contents)
    if kind == "add":
        for name, text, metadata in argument:
            after[name] = (text, metadata)
    elif kind == "delete":
        for name in argument:
            after.pop(name, None)
    elif kind == "sweep":
        after = {n: v for n, v in contents.items() if v[1].get("step", 10**9) >= argument["step"]["$lt"]}
    elif kind == "update":
        for name, metadata in argument:
            after[name] = (after[name][0], metadata)
    return after


def carry_out(index, kind: str, argument) -> None:
    if kind == "add":
        index.add([t for _, t, _ in argument], ids=[n for n, _, _ in argument], metadatas=[m for _, _, m in argument])
    elif kind == "delete":
        index.delete(argument)
    elif kind == "sweep":
        index.delete(filter=argument)
    elif kind == "update":
        index.update_metadata([n for n, _ in argument], [m for _, m in argument])
    else:
        index.compact(retrain=argument)


def read_contents(index) -> Contents:
    return {document.id: (document.text, document.metadata) for document in index.get(index.ids())}


def run(path: str, seed: int, step: int) -> None:
    index = FastLaneIndex.open(path, model=WordModel())
    contents = read_contents(index)
    while True:
        kind, argument = operation(seed, step, contents)
        os.write(1, f"begin {step}\n".encode())
        carry_out(index, kind, argument)
        os.write(1, f"end {step}\n".encode())
        contents = expected(contents, kind, argument)
        step += 1


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]
    from word_model import WordModel

    from fastlane_rag import FastLaneIndex
    from fastlane_rag.upkeep import merge, recode, worker, write

    # A few documents must do to fill the pending rows, make segments, merge them, and train codecs.
    write.SMALL_BYTES, merge.PENDING_BYTES, merge.FAN = 600, 2000, 3
    recode.TRAIN_TOKENS, recode.GROWTH = 60, 1.5
    worker.FOREGROUND_BYTES = 1000  # kills hit steps in the background as well
    # Import before forking, so that kills hit writes and not imports.
    with FastLaneIndex.create(model=WordModel(), codec="residual8") as warm:
        warm.add([f"w{i} w{i % 7}" for i in range(200)])
        warm.search("w1 w2")
    for line in sys.stdin:
        folder, seed_text, step_text = line.rsplit(" ", 2)
        child = os.fork()
        if child == 0:
            try:
                run(folder, int(seed_text), int(step_text))
            except BaseException as error:
                os.write(1, f"failed {error!r}\n".encode())
            os._exit(1)
        os.write(1, f"child {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"gone\n")
