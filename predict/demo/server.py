"""uvicorn, with limits on connections and on their time, and with an end at once."""

import argparse
import asyncio
import errno
import json
import logging
import resource
import signal
import socket
from http import HTTPStatus
from pathlib import Path

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from predict.demo import limits, reading
from predict.demo.app import create_app
from predict.model import MODEL, Model
from stages.common.errors import UserError
from stages.datasets.pictures import PictureError

DESCRIPTION = "Serve a page that classifies drawings and pictures, at http://127.0.0.1:8000."
HOST = "127.0.0.1"  # this computer only
# In every answer.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def last_answer(status: int, message: str) -> bytes:
    """Return the bytes of an answer, after which its connection is closed."""
    body = json.dumps({"error": message})
    head = HEADERS | (limits.RETRY if status == 503 else {})
    head |= {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in head.items()]
    return "\r\n".join([*lines, "", body]).encode()


class Listener(socket.socket):
    """Accepts so many connections at a time that a file remains for each, and turns others away.

    uvicorn's own limit is on requests, and asyncio's loop logs without end when no file is left.
    """

    def __init__(self):
        """Raises UserError: there may be hardly any open files."""
        super().__init__()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = limits.CONNECTIONS
        if files != resource.RLIM_INFINITY:
            self._most = min(self._most, files - limits.OTHER_FILES)
        if self._most < 1:
            raise UserError(
                f"open files: {files} are allowed, the demo needs more than {limits.OTHER_FILES}; "
                "raise the limit (`ulimit -n 1024`)"
            )
        self._accepted = []

    def accept(self) -> tuple[socket.socket, object]:
        connection, address = super().accept()
        self._accepted = [one for one in self._accepted if one.fileno() >= 0]  # not closed
        if len(self._accepted) < self._most:
            self._accepted.append(connection)
            return connection, address
        with connection:
            connection.setblocking(False)
            try:
                connection.send(last_answer(503, "too many connections; try again"))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65_536)  # closing it with bytes unread would discard the answer
            except OSError:
                pass  # nobody there, or nothing sent yet
        raise ConnectionAbortedError  # asyncio goes on with the next one


class Connection(H11Protocol):
    """uvicorn's, that ends where a request's headers, or its answer, do not come in time."""

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: object, **options: object):
        super().__init__(*arguments, **options)
        self._next_event, self.conn.next_event = self.conn.next_event, self._next_allowed
        self._chunks = False

    def _next_allowed(self) -> h11.Event:
        """Refuse chunks: one byte in each, they take more time than many clients have."""
        event = self._next_event()
        if isinstance(event, h11.Request) and b"transfer-encoding" in dict(event.headers):
            self._chunks = True
            raise h11.RemoteProtocolError("chunks")
        return event

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._end_after(limits.SECONDS)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request's headers are complete
            # Its body, its turn and its reading end on their own: this is for an answer not taken.
            self._end_after(4 * limits.SECONDS)

    def on_response_complete(self) -> None:
        self._end_after(limits.SECONDS)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self._chunks:
            answer = last_answer(411, "in chunks; send it whole, with a Content-Length")
        else:
            answer = last_answer(400, msg)
        self.transport.write(answer)
        self.transport.close()

    def _end_after(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket]) -> None:
        # Ctrl+C is for the server. Blocked here, it comes when the process that reads is ready.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            await reading.start()
        except (PictureError, reading.BusyError):
            raise UserError(
                "no process that reads pictures could be started; is there enough memory?"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        await super().startup(sockets)
        host, port = sockets[0].getsockname()
        print(f"http://{host}:{port} (Ctrl+C ends it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket]) -> None:
        """End what is under way, too: nobody who ends a demo waits for its answers."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # now its request knows that nobody is there
        for task in self.server_state.tasks:
            task.cancel()
        await super().shutdown(sockets)


def listen(port: int) -> Listener:
    """Return a socket that listens on a port of `HOST`; 0 is any free one.

    Raises:
        UserError: the port is in use or not allowed, or there may be hardly any open files.
    """
    listener = Listener()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1024)
    except OverflowError:
        raise UserError(f"--port {port}: ports are 0 to 65535") from None
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"port {port}: {reason}; choose another with --port") from None
    return listener


def main() -> None:
    parser = argparse.ArgumentParser("python -m predict.demo", description=DESCRIPTION)
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 for any free one")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="an exported model (models/model.onnx)"
    )
    options = parser.parse_args()
    # It would warn of a process that has ended on its own, or was ended, before asyncio looked.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    listener = listen(options.port)
    config = uvicorn.Config(
        create_app(Model(options.model)),
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="error",  # what strangers send wrong is not logged
        access_log=False,
        server_header=False,
        headers=list(HEADERS.items()),
        timeout_graceful_shutdown=1,
    )
    Server(config).run(sockets=[listener])
