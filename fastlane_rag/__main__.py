"""`python -m fastlane_rag` is `fastlane`."""

from fastlane_rag.cli import main

main(prog_name="fastlane")
