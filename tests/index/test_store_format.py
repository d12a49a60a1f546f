"""STORE_FORMAT.md is complete: this reader uses only that page, the standard library and numpy."""

import hashlib
import json
import sqlite3
import unicodedata
import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from stopped import before_merging, before_recoding
from word_model import DIM, WordModel, embed

from fastlane_rag import FastLaneIndex


def read_index(path):
    """Yield (id, text, metadata, token rows) in the order of insertion, and check everything read."""
    digits, checksum = (path / "commits").read_bytes().split()
    assert len(digits) == 20
    assert checksum == b"%08x" % zlib.crc32(digits)
    catalogue = sqlite3.connect(f"{(path / 'catalogue.sqlite3').as_uri()}?mode=ro", uri=True, isolation_level=None)
    assert catalogue.execute("PRAGMA application_id").fetchone() == (0x464C5247,)
    assert catalogue.execute("PRAGMA user_version").fetchone() == (3,)
    catalogue.execute("BEGIN")

    meta = dict(catalogue.execute("SELECT key, value FROM meta"))
    assert meta.pop("commits") >= int(digits)
    checksum = meta.pop("checksum")
    assert zlib.crc32("\n".join(f"{key}={meta[key]}" for key in sorted(meta)).encode()) == checksum
    dim = int(meta["dim"])
    assert meta["codec"] in ("fp16", "residual1", "residual2", "residual4", "residual8")

    codecs = {}
    for name, checksum, parameters in catalogue.execute("SELECT name, checksum, parameters FROM codecs"):
        assert zlib.crc32(parameters) == checksum
        codecs[name] = read_codec(name, parameters, dim)
        assert name.startswith(meta["codec"])
    maps = {}
    for codec, name, checksum, parameters in catalogue.execute("SELECT codec, name, checksum, parameters FROM maps"):
        assert zlib.crc32(parameters) == checksum
        assert codec in codecs
        maps[codec] = read_map(name, parameters, dim)
    segments = {
        number: read_segment(
            path / "segments" / f"{name}.safetensors",
            documents,
            tokens,
            size,
            header,
            dim,
            codecs.get(codec),
            maps.get(codec),
        )
        for number, name, documents, tokens, size, header, codec in catalogue.execute("SELECT * FROM segments")
    }
    pending = {}
    for n, checksum, blob in catalogue.execute("SELECT n, checksum, tokens FROM pending"):
        assert zlib.crc32(blob) == checksum
        pending[n] = np.frombuffer(blob, "<f2").reshape(-1, dim)

    places = catalogue.execute("SELECT segment, row FROM dead").fetchall()
    query = "SELECT id, segment, row, tokens, checksum, metadata, text FROM documents ORDER BY doc"
    for id_, segment, row, tokens, checksum, metadata, text in catalogue.execute(query):
        parts = [part.encode() for part in (id_, text, metadata)]
        assert zlib.crc32(b"".join(len(part).to_bytes(8, "little") + part for part in parts)) == checksum
        if segment == 0:
            rows = pending.pop(row)
        else:
            array, offsets, words = segments[segment]
            assert words(row) == counted(text)
            rows = array[offsets[row] : offsets[row + 1]]
            places.append((segment, row))
        assert len(rows) == tokens
        yield id_, text, unescaped(json.loads(metadata)), rows
    assert pending == {}
    assert sorted(places) == [
        (s, r) for s, (_, offsets, _) in sorted(segments.items()) for r in range(len(offsets) - 1)
    ]
    catalogue.close()


def read_parameters(parameters, kind):
    length = int.from_bytes(parameters[:8], "little")
    header = json.loads(parameters[8 : 8 + length])
    assert header["__metadata__"] == {kind: "1"}

    def array(key, dtype):
        begin, end = header[key]["data_offsets"]
        return np.frombuffer(parameters[8 + length + begin : 8 + length + end], dtype).reshape(header[key]["shape"])

    return array


def read_map(name, parameters, dim):
    """The map's name, and a function that gives a document's vector from its rows."""
    array = read_parameters(parameters, "fastlane-vector-map")
    sample, thresholds = array("sample", "<f2").astype(float), array("thresholds", "<f4")
    mixing, means = array("mixing", "<f4"), array("means", "<f4")
    size = mixing.shape[1] - 1
    assert name == f"vector{size}-{hashlib.sha256(parameters).hexdigest()[:16]}"
    near = np.maximum(0, sample @ sample[: len(thresholds)].T - thresholds)
    psi = np.hstack([near, sample, np.ones((len(sample), 1))]) @ mixing[:, :size]
    return name, lambda rows: ((sample @ rows.T).max(1) - means) @ psi


def read_codec(name, parameters, dim):
    array = read_parameters(parameters, "fastlane-residual-codec")
    centroids, steps, [bits] = array("centroids", "<f4"), array("steps", "<f4"), array("bits", "<i8")
    assert name == f"residual{bits}-{hashlib.sha256(parameters).hexdigest()[:16]}"
    assert centroids.shape[1:] == steps.shape == (dim,)
    return centroids, steps, int(bits)


def read_segment(file, documents, tokens, size, header_digest, dim, codec, vector_map):
    data = file.read_bytes()
    assert len(data) == size
    assert hashlib.sha256(data[:4096]).hexdigest() == header_digest
    assert int.from_bytes(data[:8], "little") == 4088
    header = json.loads(data[8:4096])
    metadata = header["__metadata__"]
    assert (metadata["format"], metadata["version"]) == ("fastlane-segment", "1")
    body = data[4096:]

    def array(name, dtype):
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(body[begin:end], dtype).reshape(header[name]["shape"])

    checksums = array("checksums", "<u4")
    assert f"{zlib.crc32(checksums.tobytes()):08x}" == metadata["checksums_crc32"]
    block = int(metadata["block_bytes"])
    covered = body[: header["checksums"]["data_offsets"][0]]
    assert [zlib.crc32(covered[i : i + block]) for i in range(0, len(covered), block)] == checksums.tolist()
    offsets = array("offsets", "<i8")
    rows = array("tokens", "<f2") if codec is None else decoded(array, offsets, codec)
    assert rows.shape == (tokens, dim)
    assert (len(offsets), offsets[0], offsets[-1]) == (documents + 1, 0, tokens)
    assert metadata.get("vector_map") == (vector_map and vector_map[0])
    if vector_map:
        check_vectors(rows, offsets, array("vectors", "i1"), array("vector_scales", "<f4"), vector_map[1])
    return rows, offsets, word_reader(array, documents)


def check_vectors(rows, offsets, levels, scales, vector_of):
    """Vectors are of the rows as they were before they became code, so they are like those of the code."""
    assert len(levels) == len(scales) == len(offsets) - 1
    stored = levels * scales[:, None]
    again = np.stack([vector_of(rows[begin:end]) for begin, end in pairwise(offsets)])
    assert np.corrcoef(stored.ravel(), again.ravel())[0, 1] > 0.8


def word_reader(array, documents):
    """A function that returns the counts of document r's words, and how many words it has."""
    offsets, words, lengths = array("word_offsets", "<i8"), array("words", "<u4"), array("word_lengths", "<u4")
    owners, counts = array("word_documents", "<u2"), array("word_counts", "u1")
    assert (np.diff(words.astype(np.int64)) > 0).all()
    assert (offsets[0], offsets[-1], len(lengths)) == (0, len(owners), documents)
    found = [{} for _ in range(documents)]
    for v, word in enumerate(words.tolist()):
        here = slice(offsets[v], offsets[v + 1])
        assert owners[here].tolist() == sorted(set(owners[here].tolist()))
        for owner, count in zip(owners[here].tolist(), counts[here].tolist(), strict=True):
            found[owner][word] = count
    return lambda row: (found[row], lengths[row])


def counted(text):
    """The words of a text as the page says, and their number."""
    for form in range(2):
        text = unicodedata.normalize("NFKD", text)
        text = text.casefold() if form == 0 else text
    runs, word = [], ""
    for character in [*"".join(c for c in text if unicodedata.category(c)[0] != "M").lower(), " "]:
        point = ord(character)
        alone = 0x3040 <= point <= 0x30FF or 0x3400 <= point <= 0x9FFF or 0x20000 <= point <= 0x3FFFF
        if unicodedata.category(character)[0] in "LN" and not alone:
            word += character
            continue
        runs += [word, character if alone and unicodedata.category(character)[0] in "LN" else ""]
        word = ""
    cut = [run[:7] if all(unicodedata.category(c)[0] == "L" for c in run) else run for run in runs if run]
    numbers = Counter(zlib.crc32(run.encode()) for run in cut)
    return {number: min(often, 255) for number, often in numbers.items()}, len(cut)


def decoded(array, offsets, codec):
    centroids, steps, bits = codec
    residuals, ids, scales = array("residuals", "u1"), array("centroids", "<u2"), array("scales", "u1")
    width, dim = residuals.shape[1], len(steps)
    levels = np.empty((len(ids), dim))
    for j in range(dim):
        levels[:, j] = residuals[:, j % width] >> (j // width * bits) & (2**bits - 1)
    lists, postings = array("posting_offsets", "<i8"), array("postings", "<u2")
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    for c in range(len(centroids)):
        assert postings[lists[c] : lists[c + 1]].tolist() == np.unique(owners[ids == c]).tolist()
    return (scales[:, None] + 128.0) / 256 * (centroids[ids] + steps * (levels - (2**bits - 1) / 2))


def unescaped(value):
    if isinstance(value, str):
        return value.replace("\ufdd00", "\0").replace("\ufdd01", "\ufdd0")
    if isinstance(value, dict):
        return {unescaped(key): unescaped(item) for key, item in value.items()}
    return [unescaped(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def path(tmp_path, monkeypatch):
    from fastlane_rag.upkeep import write

    monkeypatch.setattr(write, "SMALL_BYTES", 40_000)
    return tmp_path / "index"


def test_an_index_is_read_by_the_page_alone(path, passages):
    """Segments with dead rows, replaced and pending documents, odd metadata; open, closed and compacted."""
    texts = {passage["id"]: passage["text"] for passage in passages[:90]}
    texts[passages[7]["id"]] = (
        "Stra\u00dfe \u0130zmir na\u00efvet\u00e9 \u2163 x\u00b2 snake_case PEP-0484b "
        "\u6771\u4eac\u30bf\u30ef\u30fc \u0939\u093f\u0928\u094d\u0926\u0940 " + "again " * 300
    )
    metadatas = {id_: {"title": "x", "n": i, "nul\0": ["\0", "\ufdd0", None, 1.5]} for i, id_ in enumerate(texts)}
    first, last = list(texts)[:45], list(texts)[45:]
    with FastLaneIndex.create(path, model=WordModel(), filter_keys=["n"]) as index:
        for some in (first, last):
            index.add([texts[i] for i in some], ids=some, metadatas=[metadatas[i] for i in some])
        index.delete([last[3], first[5]])
        texts[last[0]] = "replaced and waiting"
        index.add([texts[last[0]]], ids=[last[0]], metadatas=[metadatas[last[0]]])
        assert index.stats().segments == 2
        assert index.stats().pending == 1
        for gone in (last[3], first[5]):
            del texts[gone]

        def check():
            found = list(read_index(path))
            assert [(id_, text, metadata) for id_, text, metadata, _ in found] == [
                (id_, texts[id_], metadatas[id_]) for id_ in texts
            ]
            for _, text, _, rows in found:
                assert np.array_equal(rows, embed(text).astype(np.float16))

        check()
        index.compact()
        check()
    check()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_an_index_in_code_is_read_by_the_page_alone(path, passages, monkeypatch, bits):
    """Segments in code of two codecs, one in half precision beside them, pending documents."""
    from fastlane_rag.upkeep import recode

    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1000)
    monkeypatch.setattr(recode, "GROWTH", 2)
    texts = [passage["text"] for passage in passages[:120]]
    with FastLaneIndex.create(path, model=WordModel(), codec=f"residual{bits}") as index:
        index.add(texts[:20])
        before_recoding(monkeypatch)
        index.add(texts[20:90])
        before_merging(monkeypatch)
        index.add(texts[90:119])
        index.add(texts[119:])
        with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
            codecs = [codec for (codec,) in catalogue.execute("SELECT codec FROM segments")]
        assert len(set(codecs)) == 3
        assert codecs[-1] == "fp16"
        found = list(read_index(path))
    assert [text for _, text, _, _ in found] == texts
    most = {1: 0.35, 2: 0.15, 4: 0.02, 8: 0.002}[bits]
    assert np.mean([np.square(rows - embed(text)).sum(1).mean() for _, text, _, rows in found]) < most


def test_segments_open_with_the_safetensors_library(path, passages):
    from safetensors.numpy import load_file

    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add([passage["text"] for passage in passages[:50]])
    [file] = (path / "segments").iterdir()
    arrays = load_file(file)
    words = {"word_offsets", "words", "word_lengths", "word_documents", "word_counts"}
    assert set(arrays) == {"tokens", "offsets", "checksums"} | words
    assert arrays["tokens"].shape == (arrays["offsets"][-1], DIM)
    assert np.array_equal(arrays["tokens"][: arrays["offsets"][1]], embed(passages[0]["text"]).astype(np.float16))
