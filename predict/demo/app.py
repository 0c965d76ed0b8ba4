"""The demo's server: one page, its two files, and POST /predict."""

import base64
import os
from io import BytesIO
from pathlib import Path

import anyio
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predict.model import Model
from stages.datasets.pictures import EmptyPictureError, PictureError, read_picture

STATIC = Path(__file__).parent / "static"
FILES = {"/": "index.html", "/style.css": "style.css", "/draw.js": "draw.js"}
MAX_BYTES = 10_000_000  # of a request's body
# A client that is cut off while it sends does not see the answer: a body too long is read, and
# dropped, this far.
MAX_DROPPED = 100_000_000

# Another site's page may send requests to 127.0.0.1 under a name of its own (DNS rebinding).
HOSTS = ["127.0.0.1", "localhost"]
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


class SecurityHeaders:
    """Add `HEADERS` to every response, errors included."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def error(status: int, message: object, **headers: str) -> JSONResponse:
    return JSONResponse({"error": str(message)}, status, headers)


async def read_body(request: Request) -> bytes | None:
    """Return the body, or None if it is longer than `MAX_BYTES`."""
    body, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > MAX_DROPPED:
            break
        if length <= MAX_BYTES:
            body += chunk
    return bytes(body) if length <= MAX_BYTES else None


def to_png(image: np.ndarray) -> str:
    """Return an image uint8 [height, width] as a data URL."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def create_app(model: Model) -> Starlette:
    """Make the application around a model."""
    # A large picture takes much memory while it is read, so only some are read at a time.
    limiter = anyio.CapacityLimiter(max(2, os.cpu_count() or 1))

    def answer(body: bytes) -> dict:
        seen = read_picture(BytesIO(body), model.layout)
        (probabilities,) = model(seen[None])
        return {
            "class": model.classes[probabilities.argmax()],
            "probabilities": [round(float(one), 6) for one in probabilities],
            "seen": to_png(seen),
        }

    async def predict(request: Request) -> Response:
        try:
            body = await read_body(request)
        except ClientDisconnect:
            return Response()  # nobody reads it
        if body is None:
            message = f"larger than {MAX_BYTES:,} bytes; scale the picture down"
            return error(413, message, connection="close")  # else the server reads any rest
        if not body:
            return error(400, "empty: send a picture as the request's body")
        try:
            # In a thread, so that the server goes on answering.
            return JSONResponse(await anyio.to_thread.run_sync(answer, body, limiter=limiter))
        except EmptyPictureError:  # an empty canvas is no mistake
            return JSONResponse({"class": None, "probabilities": None, "seen": None})
        except PictureError as problem:
            return error(422, problem)

    async def about(request: Request) -> Response:
        return JSONResponse(
            {"title": model.title, "classes": model.classes, "layout": model.layout}
        )

    async def static(request: Request) -> Response:
        return FileResponse(STATIC / FILES[request.url.path])

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/model", about, methods=["GET"]),
            *(Route(path, static, methods=["GET"]) for path in FILES),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
    )
