"""Runs in a pod, in the engine's own image: fills TARGET with the model, then writes MARKER.

Pods of one node that share a directory take turns; what a pull that ended left is gone on with.
"""

import fcntl
import os
import pathlib
import sys

marker = pathlib.Path(os.environ["MARKER"])
marker.parent.mkdir(parents=True, exist_ok=True)
with open(f"{marker}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if marker.exists():
        sys.exit(0)
    from huggingface_hub import snapshot_download

    repo, revision = os.environ["REPO"], os.environ["REVISION"]
    sys.stderr.write(f"pulls {repo} at {revision}\n")
    snapshot_download(repo, revision=revision, local_dir=os.environ["TARGET"])
    marker.touch()
    sys.stderr.write("the model is whole\n")
