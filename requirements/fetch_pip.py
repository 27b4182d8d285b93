"""Installs the locked pip into this interpreter where ensurepip is missing (Debian's python3 without python3-venv).

Standard library only. The wheel's digest must stand in the lock; the index is PIP_INDEX_URL, else PyPI.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import Request, urlopen


def main(lock: Path) -> int:
    stanza = re.search(r"^pip==(?:.*\\\n)+.*", lock.read_text(), re.MULTILINE)
    digests = set(re.findall(r"sha256:([0-9a-f]{64})", stanza[0])) if stanza else set()
    index = os.environ.get("PIP_INDEX_URL")
    if not index:
        return fail("this Python has no ensurepip, and PIP_INDEX_URL names no index to take pip from")
    page = index.rstrip("/") + "/pip/"
    with urlopen(Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})) as answer:
        files = json.load(answer)["files"]
    for file in files:
        if file["filename"].endswith(".whl") and file["hashes"].get("sha256") in digests:
            break
    else:
        return fail(f"{page} serves no pip whose digest stands in {lock}")
    with urlopen(urljoin(page, file["url"])) as answer:
        wheel = answer.read()
    if hashlib.sha256(wheel).hexdigest() not in digests:
        return fail(f"{file['filename']} is not what {lock} says")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, file["filename"])
        path.write_bytes(wheel)
        install = [sys.executable, f"{path}/pip", "install", "-q", "--no-index", "--no-deps", str(path)]
        return subprocess.run(install, check=False).returncode


def fail(why: str) -> int:
    print(f"{why}; install Debian's python3-venv, or ensurepip for {sys.executable}, and try again", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("dev.txt")))
