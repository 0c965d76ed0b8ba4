"""Serve a page that classifies drawings and pictures, at http://127.0.0.1:8000."""

import argparse
import errno
import socket
from pathlib import Path

import uvicorn

from predict.demo.app import create_app
from predict.model import MODEL, Model
from stages.common import errors
from stages.common.errors import UserError

HOST = "127.0.0.1"  # this computer only


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of `HOST`; 0 is any free one.

    Raises:
        UserError: the port is in use or not allowed.
    """
    listener = socket.socket()
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
    parser = argparse.ArgumentParser("python -m predict.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 for any free one")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="an exported model (models/model.onnx)"
    )
    options = parser.parse_args()
    app = create_app(Model(options.model))
    listener = listen(options.port)
    print(f"http://{HOST}:{listener.getsockname()[1]} (Ctrl+C ends it)", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,  # seconds for requests under way
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    errors.run(main)
