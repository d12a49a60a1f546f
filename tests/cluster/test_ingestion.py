"""Files are read and encoded by workers, and an ingestion goes on where it stopped."""

import gzip
import json

import pytest

from fastlane_rag.errors import DataError

pytestmark = pytest.mark.slow


def test_files_of_each_kind_are_ingested_and_not_twice(nodes, model, passages, tmp_path):
    import pyarrow
    import pyarrow.parquet

    from fastlane_rag.cluster import ClusterIndex
    from fastlane_rag.cluster.ingestion import ingest_files

    some = passages[:90]
    rows = [{"_id": one["id"], "text": one["text"], "title": one["title"]} for one in some]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:30]), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[30:60])
    (tmp_path / "c.txt").write_text(rows[60]["text"])
    paths = [str(tmp_path / name) for name in ("a.parquet", "*.jsonl.gz", "c.txt")]
    with ClusterIndex.create(tmp_path / "c", 2, cpus=0.1, codec="fp16") as index:
        done = ingest_files(index, paths, cpus=0.5)
        assert (done.documents, done.added, len(index)) == (61, 61, 61)
        assert index.get([rows[0]["_id"]])[0].metadata == {"title": rows[0]["title"]}
        assert index.get([str(tmp_path / "c.txt")])[0].text == rows[60]["text"]
        best = index.search("How do I combine two dictionaries with an operator?", k=3)
        assert len(best) == 3
        assert ingest_files(index, paths, cpus=0.5).documents == 0
        (tmp_path / "c" / "ingested.json").unlink()  # as if it had stopped before the files were noted
        again = ingest_files(index, paths, cpus=0.5)
        assert (again.documents, again.unchanged, len(index)) == (61, 61, 61)
        (tmp_path / "bad.jsonl").write_text('{"_id": "x"}\n')
        with pytest.raises(DataError, match=r"bad\.jsonl, line 1"):
            ingest_files(index, [str(tmp_path / "bad.jsonl")], cpus=0.5)
        with pytest.raises(DataError, match="matches no file"):
            ingest_files(index, [str(tmp_path / "*.pdf")], cpus=0.5)
        index.stop()
