"""An admission webhook of a few lines, run as a pod: it denies whatever it is asked about, with a sentence.

Run as `python3 - CERTIFICATE KEY SENTENCE`.
"""

from __future__ import annotations

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        denial = {"uid": review["request"]["uid"], "allowed": False, "status": {"message": sys.argv[3]}}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": denial}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", 8443), Webhook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
