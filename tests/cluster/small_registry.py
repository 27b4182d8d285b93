"""A container registry of a few lines, run as a pod: the answers of real ones, each under a repository's name.

`missing/…` does not exist, `secret/…` wants the password, `denied/…` is nobody's, all else is an image without anything
in it. Run as `python3 - PORT` on a node's own network: a container runtime asks 127.0.0.1 without TLS.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "lab", "lab-password"
TAR = bytes(1024)
LAYER = gzip.compress(TAR, mtime=0)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(TAR)]}}
).encode()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(LAYER),
                "size": len(LAYER),
            }
        ],
    }
).encode()
BLOBS = {digest(CONFIG): CONFIG, digest(LAYER): LAYER}
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        repository = self.path.removeprefix("/v2/").partition("/")[0]
        if repository == "secret" and self.headers.get("Authorization") != LOGIN:
            self.answer(401, problem("UNAUTHORIZED"), {"WWW-Authenticate": 'Basic realm="small"'})
        elif repository == "denied":
            self.answer(403, problem("DENIED"))
        elif repository == "missing":
            self.answer(404, problem("MANIFEST_UNKNOWN"))
        elif "/manifests/" in self.path:
            self.answer(200, MANIFEST, {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": digest(MANIFEST)})
        else:
            self.answer(200, BLOBS.get(self.path.rpartition("/")[2], b"{}"))

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def problem(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Registry).serve_forever()
