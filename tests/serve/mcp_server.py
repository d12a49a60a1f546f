"""A server on standard input and output over a small index of a stand-in encoder, for `test_mcp.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.serve.mcp import create_server

with FastLaneIndex.open(sys.argv[1], model=WordModel(), read_only=True) as index:
    create_server({"animals": index}).run()
