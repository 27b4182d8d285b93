"""An image with PyTorch for the lab: Debian's own build for CPUs, which has gloo, made once and kept for later runs.

What the package indexes have for Linux is built for CUDA and brings several gigabytes along; Debian's is 1.2 GB with all
that it needs. Made as root with debootstrap, at the Python that `lab/python:3.11` has.

`python -m tests.cluster.torch_image` makes it, loads it into the cluster of LAB_CLUSTER, and prints its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("python3-torch",)
CONFIG = {
    "Cmd": ["python3"],
    "Env": ["HOME=/home/user", "PATH=/usr/local/bin:/usr/bin:/bin"],
    "User": "1000:1000",
    "WorkingDir": "/home/user",
}
UNUSED = ("usr/lib/libtorch-test", "usr/share/doc", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")

_RECIPE = hashlib.sha256(json.dumps([SUITE, PACKAGES, CONFIG, UNUSED]).encode()).hexdigest()[:12]
NAME = f"kube-nb-test/torch:{_RECIPE}"
"""Another recipe is another image, so that an old one is never taken for it."""

# Read when this file is imported: later the tests have a cache of their own, which does not outlive them.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kube-nb-tests"


class CannotMake(Exception):
    """This machine lacks what the image is made with."""


def archive() -> Path:
    """The image as `docker save` writes it; made where it is not there yet, which takes minutes.

    Raises:
        CannotMake: why not.
        subprocess.CalledProcessError: Debian's packages could not be had; `.stderr` tells.
    """
    path = _CACHE / f"torch-{_RECIPE}.tar"
    if path.exists():
        return path
    if os.geteuid() or not shutil.which("debootstrap"):
        raise CannotMake("its image is made as root with debootstrap")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        root = Path(folder) / "root"
        _install(root)
        made = Path(folder) / "image.tar"
        _pack(root, made)
        made.rename(path)
    return path


def load() -> str:
    """Put the image on every node of the lab; gives its name.

    Raises:
        CannotMake: there is no lab, or what `archive` raises.
    """
    command = os.environ.get("LAB_CLUSTER")
    if not command:
        raise CannotMake("no LAB_CLUSTER")
    _run(command, "load", str(archive()))
    return NAME


def _install(root: Path) -> None:
    _run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", SUITE, str(root))
    _run("chroot", str(root), "apt-get", "update")
    _run("chroot", str(root), "apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)
    _run("chroot", str(root), "apt-get", "clean")
    for unused in UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    with open(root / "etc/passwd", "a") as users:
        users.write("user:x:1000:1000::/home/user:/bin/sh\n")
    home = root / "home/user"
    home.mkdir()
    os.chown(home, 1000, 1000)


def _pack(root: Path, path: Path) -> None:
    """One layer, its configuration, and the manifest that names both."""
    layer = path.with_name("layer.tar")
    _run("tar", "--numeric-owner", "-C", str(root), "-cf", str(layer), ".")
    with open(layer, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    layers = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = {"architecture": "amd64", "os": "linux", "config": CONFIG, "rootfs": layers}
    manifest = [{"Config": "config.json", "Layers": [layer.name], "RepoTags": [f"docker.io/{NAME}"]}]
    with tarfile.open(path, "w") as image:
        for name, value in (("config.json", config), ("manifest.json", manifest)):
            text = json.dumps(value).encode()
            member = tarfile.TarInfo(name)
            member.size = len(text)
            image.addfile(member, io.BytesIO(text))
        image.add(layer, layer.name)


def _run(*words: str) -> None:
    subprocess.run(
        words, check=True, capture_output=True, text=True, env={"DEBIAN_FRONTEND": "noninteractive", **os.environ}
    )


if __name__ == "__main__":
    print(load())
