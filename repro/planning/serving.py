"""The status of a study as a live page, for browsers of this machine alone."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from repro.errors import UserError
from repro.planning.status import Watch

LOOPBACK = "127.0.0.1"


def server(watch: Watch, port: int) -> ThreadingHTTPServer:
    """A server on this port (0: any that is free) that has yet to be started. It answers ``GET /`` with the
    page and ``GET /status.json``, and only those who call it by a name of this machine: a page from elsewhere
    whose name was made to lead here (DNS rebinding) calls it by its own.

    Raises UserError where the port is taken.
    """
    looking = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            bound = self.connection.getsockname()[1]
            if self.headers.get("Host") not in (f"{LOOPBACK}:{bound}", f"localhost:{bound}"):
                self.send_error(403, "Call this server as localhost")
                return
            if self.path not in ("/", "/status.json"):
                self.send_error(404)
                return
            with looking:
                found = watch.look()
            page = self.path == "/"
            data = (found.html() if page else found.to_json()).encode()
            self.send_response(200)
            for name, value in {
                "Content-Type": f"{'text/html' if page else 'application/json'}; charset=utf-8",
                "Content-Length": str(len(data)),
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """A look at the page is no event."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}); name another with --serve") from None
