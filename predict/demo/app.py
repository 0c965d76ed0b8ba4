"""The demo's web application: its page, GET /model and POST /predict.

Responses are JSON; errors are one line of plain text, as those of Starlette and uvicorn are.
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import anyio
import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from predict.model import Model
from stages.datasets.drawings import EmptyPictureError
from stages.datasets.layout import read_picture
from stages.datasets.pictures import PictureError
from stages.drawing.sheet import to_pillow
from stages.runtime.errors import UserError

STATIC = Path(__file__).parent / "static"
HOSTS = ["127.0.0.1", "localhost"]  # other names may be DNS rebinding
MAX_BODY_SIZE = 10_000_000  # bytes
MAX_READERS = 4  # pictures read at a time; one of 50 megapixels may take 800 MB


class SameOriginMiddleware:
    """Refuse requests that another site's page makes in the user's browser; links are allowed."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        own = f"http://{headers['host']}"
        same_origin = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        # A browser shows the page of a link to the user; the other site cannot read it.
        link = (
            scope["method"] == "GET"
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        if headers.get("origin", own) == own and (same_origin or link):
            await self.app(scope, receive, send)
        else:
            response = PlainTextResponse(f"request from another site; open {own}", 403)
            await response(scope, receive, send)


async def answer_error(request: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(str(error), 422 if isinstance(error, PictureError) else 500)


def to_data_url(image: np.ndarray) -> str:
    """Encode an image uint8 [C, H, W] as a PNG in a data URL."""
    buffer = BytesIO()
    to_pillow(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def create_app(model: Model, samples: Sequence[tuple[int, np.ndarray]] = ()) -> Starlette:
    """Return the application; `samples` are labels and images uint8 [C, H, W] for the page."""
    readers = anyio.CapacityLimiter(MAX_READERS)

    def classify(picture: bytes) -> dict[str, object]:
        try:
            image = read_picture(BytesIO(picture), model.layout, model.shape)
        except EmptyPictureError:  # an empty canvas is not an error
            return {"class": None, "unsure": None, "probabilities": None, "seen": None}
        [probabilities] = model(image[None])
        return {
            "class": model.classes[probabilities.argmax()],
            "unsure": bool(probabilities.max() < model.unsure_below),
            "probabilities": [round(float(probability), 6) for probability in probabilities],
            "seen": to_data_url(image),
        }

    async def predict(request: Request) -> JSONResponse:
        picture = await request.body()
        return JSONResponse(await anyio.to_thread.run_sync(classify, picture, limiter=readers))

    async def describe(request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "title": model.title,
                "classes": model.classes,
                "layout": model.layout,
                "shape": model.shape,
                "recipe": model.recipe,
                "accuracy": model.accuracy,
                "test_images": model.test_images,
                "samples": [
                    {"class": model.classes[label], "image": to_data_url(image)}
                    for label, image in samples
                ],
                "max_bytes": MAX_BODY_SIZE,
            }
        )

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/model", describe),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
            Middleware(SameOriginMiddleware),
        ],
        exception_handlers=dict.fromkeys((UserError, ClientDisconnect), answer_error),
        max_body_size=MAX_BODY_SIZE,
    )
