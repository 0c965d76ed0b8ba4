"""The demo's answers: one page, its two files, and POST /predict."""

import asyncio
import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import anyio
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from predict.demo import limits, reading
from predict.model import Model
from stages.common.errors import UserError
from stages.datasets.pictures import EmptyPictureError, PictureError

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/draw.js": ("draw.js", "text/javascript"),
}
HOSTS = ("127.0.0.1", "localhost")
OWN = (None, "none", "same-origin")  # what Sec-Fetch-Site says of our page, and of no page at all


class OwnPage:
    """Refuse what another site's page asks for, in the browser of whoever runs the demo."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        own = f"http://{host}"
        if host.partition(":")[0].lower() not in HOSTS:
            # A site may let a name of its own stand for 127.0.0.1 (DNS rebinding).
            answer = error(403, f"asked for under a name that is not {' or '.join(HOSTS)}")
        elif headers.get("origin", own) != own or not (
            headers.get("sec-fetch-site") in OWN or follows_a_link(scope["method"], headers)
        ):
            answer = error(403, f"asked for by another site; open {own} itself")
        else:
            answer = self.app
        await answer(scope, receive, send)


def follows_a_link(method: str, headers: Headers) -> bool:
    """Say whether a browser opens what it asks for as a page, where the other site cannot read it."""
    how = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method == "GET" and how == ("navigate", "document")


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


def to_png(image: np.ndarray) -> str:
    """Return an image uint8 [height, width] as a data URL."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def create_app(model: Model) -> Starlette:
    """Make the application around a model."""
    bodies: dict[Request, bytearray] = {}  # of the requests that are not answered yet

    async def receive(request: Request) -> bytearray:
        # What still comes after an answer is dropped until the connection's time is over: closed at
        # once, it would be reset, and the answer often lost.
        body, length = bodies[request], 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > limits.MAX_DROPPED:
                break
            if length > limits.MAX_BYTES:
                body.clear()
                continue
            body += chunk
            if length > limits.SMALL and sum(map(len, bodies.values())) > limits.MAX_HELD:
                raise HTTPException(503, "too many uploads at once; try again", limits.RETRY)
        if length > limits.MAX_BYTES:
            message = f"larger than {limits.MAX_BYTES:,} bytes; scale the picture down"
            raise HTTPException(413, message, {"Connection": "close"})
        if not length:
            raise HTTPException(400, "empty: send a picture as the request's body")
        return body

    async def classify(request: Request) -> dict:
        try:
            with anyio.fail_after(limits.SECONDS):
                body = await receive(request)
        except TimeoutError:
            message = f"not all of it came within {limits.SECONDS} seconds"
            raise HTTPException(408, message) from None
        try:
            seen = await reading.read(body, model.layout)
        except EmptyPictureError:  # an empty canvas is no mistake
            return {"class": None, "probabilities": None, "seen": None}
        except PictureError as problem:
            raise HTTPException(422, str(problem)) from None
        except reading.BusyError:
            message = "too many pictures at once; try again"
            raise HTTPException(503, message, limits.RETRY) from None
        # In a thread, so that the server goes on answering.
        (probabilities,) = await anyio.to_thread.run_sync(model, seen[None])
        return {
            "class": model.classes[probabilities.argmax()],
            "probabilities": [round(float(one), 6) for one in probabilities],
            "seen": to_png(seen),
        }

    async def predict(request: Request) -> Response:
        bodies[request] = bytearray()
        try:
            return JSONResponse(await classify(request))
        except (ClientDisconnect, asyncio.CancelledError):  # the latter when the server ends
            return Response()  # nobody reads it
        finally:
            del bodies[request]

    async def about(request: Request) -> Response:
        return JSONResponse(
            {"title": model.title, "classes": model.classes, "layout": model.layout}
        )

    # Read once: a file may be one more than `ulimit -n` allows.
    files = {path: ((STATIC / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def static(request: Request) -> Response:
        content, kind = files[request.url.path]
        return Response(content, media_type=kind)

    async def tell(request: Request, problem: Exception) -> Response:
        """Answer in one line of JSON, whatever went wrong."""
        if isinstance(problem, HTTPException):
            return error(problem.status_code, problem.detail, problem.headers)
        if isinstance(problem, UserError):
            return error(500, str(problem))
        return error(500, "a fault of the demo itself; its terminal says more")

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/model", about, methods=["GET"]),
            *(Route(path, static, methods=["GET"]) for path in FILES),
        ],
        middleware=[Middleware(OwnPage)],
        exception_handlers=dict.fromkeys((HTTPException, UserError, Exception), tell),
    )
