"""The demo's API over real HTTP."""

import base64
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from predict.model import Model
from tests.predict.demo import COMMAND, png, serving
from tests.predict.drawings import DRAWINGS, draw
from tests.project import ROOT
from tests.samples import read_drawing


@pytest.fixture(scope="module")
def client(model_file: Path) -> Iterator[httpx.Client]:
    with serving(model_file) as url:
        limits = httpx.Limits(max_connections=50)
        with httpx.Client(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
            yield client


@pytest.mark.parametrize("digit", DRAWINGS)
def test_it_returns_the_models_prediction(client: httpx.Client, model_file: Path, digit: int):
    content = png(draw(digit))
    prediction = client.post("/predict", content=content).raise_for_status().json()
    image = read_drawing(BytesIO(content))
    assert prediction["class"] == str(digit)
    assert prediction["probabilities"] == pytest.approx(
        Model(model_file)(image[None, None])[0], abs=1e-6
    )
    seen = base64.b64decode(prediction["seen"].removeprefix("data:image/png;base64,"))
    with Image.open(BytesIO(seen)) as picture:
        assert np.array_equal(np.asarray(picture), image)


def test_an_empty_drawing_is_not_an_error(client: httpx.Client):
    response = client.post("/predict", content=png(Image.new("L", (400, 400), 255)))
    assert response.status_code == 200
    assert response.json() == {"class": None, "unsure": None, "probabilities": None, "seen": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"text", "not a picture"),
        (png(draw(1))[:500], "damaged picture"),
        (png(Image.new("1", (10_000, 6_000))), "larger than 50 megapixels"),
    ],
)
def test_an_unreadable_picture_gets_one_line(client: httpx.Client, content: bytes, message: str):
    response = client.post("/predict", content=content)
    assert response.status_code == 422
    assert response.text.startswith(message)
    assert "\n" not in response.text


@pytest.mark.parametrize("path", ["/app.py", "/../app.py", "/%2e%2e/app.py", "//etc/passwd"])
def test_only_the_pages_files_are_served(client: httpx.Client, path: str):
    request = client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request, follow_redirects=True).status_code == 404


def test_fifty_clients_at_once_get_their_predictions(client: httpx.Client):
    digits = list(DRAWINGS) * 25
    with ThreadPoolExecutor(50) as pool:
        responses = pool.map(
            lambda digit: client.post("/predict", content=png(draw(digit))), digits
        )
        assert [response.json()["class"] for response in responses] == list(map(str, digits))


@pytest.mark.parametrize(("port", "code"), [(None, 3), (70_000, 2)])
def test_an_unusable_port_is_one_line(
    client: httpx.Client, model_file: Path, port: int | None, code: int
):
    result = subprocess.run(
        [*COMMAND, str(model_file), "--port", str(port or client.base_url.port)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert ("address already in use" if port is None else "between 0 and 65535") in last
