"""The demo's command: the application of app.py, served by uvicorn."""

import argparse
from pathlib import Path

import uvicorn

from predict.demo.app import create_app
from predict.demo.samples import load_samples
from predict.model import MODEL, Model
from stages.runtime.splits import TEST

DESCRIPTION = "Serve a page that classifies drawings and pictures, at http://127.0.0.1:8000."
SECURITY_HEADERS = {
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


def main() -> None:
    parser = argparse.ArgumentParser("python -m predict.demo", description=DESCRIPTION)
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any free port")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="default: models/model.onnx of this project"
    )
    options = parser.parse_args()
    if not 0 <= options.port <= 65_535:
        parser.error(f"--port {options.port}: must be between 0 and 65535")
    model = Model(options.model)
    samples = load_samples(options.model.absolute().parent.parent / TEST, model.dataset)
    uvicorn.run(
        create_app(model, samples),
        host="127.0.0.1",  # this computer only
        port=options.port,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(SECURITY_HEADERS.items()),
        limit_concurrency=64,  # connections; each may hold a body of MAX_BODY_SIZE
        timeout_graceful_shutdown=1,  # second
    )
