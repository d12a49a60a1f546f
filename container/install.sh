#!/bin/sh
# Installs the server into an environment of its own, with the model unpacked and everything compiled, so that it runs
# as any user on a read-only file system. The Containerfile runs this, and so does tests/serve/test_container.py.
#
#   container/install.sh SOURCE TARGET EXTRAS [pip's options for torch]
set -eu
source=$1 target=$2 extras=$3
shift 3

python=${PYTHON:-python3}
test -x "$target/bin/python" || "$python" -m venv "$target"
pip="$target/bin/python -m pip --disable-pip-version-check install --quiet --no-cache-dir"
$pip --upgrade "pip>=25.3"
$pip -c "$source/constraints.txt" "$@" torch
$pip -c "$source/constraints.txt" --build-constraint "$source/constraints.txt" "$source[$extras]"

# The first use of the model unpacks it, and writes what its backend needs: done here, because nothing can be written later.
# torch wants a folder to be there, or else one that it can write.
mkdir -p "$target/cache/torch"
HF_HUB_OFFLINE=1 FASTLANE_CACHE="$target/cache" "$target/bin/python" - <<'END'
from fastlane_rag import FastLaneIndex

with FastLaneIndex.create() as index:
    index.add(["Cats purr.", "Dogs bark."], ["cat", "dog"])
    assert index.search("what does a cat do?", k=1)[0].id == "cat"
END
chmod -R a+rX "$target"
