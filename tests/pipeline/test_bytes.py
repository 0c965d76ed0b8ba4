"""The same bytes on every processor of an architecture (docs/reproducibility.md)."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import stages
from stages import evaluate, train
from stages.exporting import onnx_files
from stages.exporting.torch_files import Classifier
from stages.networks.checkpoint import load_network
from stages.networks.pixels import to_input
from tests.pipeline import digests
from tests.project import ROOT, Project
from tests.samples import OURS, RECIPES, random_images, run_stage

AVX512 = Path("/proc/cpuinfo").exists() and " avx512dq " in Path("/proc/cpuinfo").read_text()
EXPECTED = json.loads(digests.FILE.read_text())
ATTEMPTS = 3  # QEMU 7.2 now and then ends in a segmentation fault of its own
common_bytes = pytest.mark.skipif(
    not stages.ARCHITECTURE, reason="neither x86-64 with AVX2 nor Arm64 under Linux"
)
on_x86_64 = pytest.mark.skipif(
    stages.ARCHITECTURE != stages.X86_64, reason=f"not {stages.X86_64.name}"
)


def short_runs(*arguments: str, on: tuple[str, ...] = (), **environment: str) -> dict:
    result = subprocess.run(
        [*on, sys.executable, "-m", "tests.pipeline.digests", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


def expected(names: list[str]) -> dict:
    return {name: EXPECTED[name] for name in names if name in EXPECTED}


@common_bytes
def test_this_processor_gives_the_committed_bytes():
    assert short_runs() == EXPECTED


@common_bytes
@pytest.mark.slow
@pytest.mark.skipif(not AVX512, reason="a processor without AVX-512")
def test_mkls_kernels_for_avx_512_are_not_used():
    """MKL's functions use them on Intel's processors only, unless this variable asks for them."""
    forced = {"MKL_VML_DEBUG_CPU_TYPE": "5"}
    code = "import torch, zlib; print(zlib.crc32(torch.linspace(0, 1, 9999).tanh().numpy()))"
    plain, other = (
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | variables,
            capture_output=True,
            check=True,
        ).stdout
        for variables in ({}, forced)
    )
    assert plain != other  # the variable still has its effect
    names = [*digests.EMULATED, *digests.STEPS]
    assert short_runs(*names, **forced) == expected(names)


# Intel's first processor with AVX2, and AMD's second generation. QEMU 7.2 emulates no AVX-512.
@on_x86_64
@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "names"),
    [("Haswell", [*digests.EMULATED, *digests.STEPS]), ("EPYC-Rome", digests.EMULATED)],
)
def test_other_processors_give_the_same_bytes(processor: str, names: list[str]):
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("no qemu-x86_64: install the package qemu-user")
    for _ in range(ATTEMPTS):
        try:
            printed = short_runs(*names, on=(emulator, "-cpu", processor))
            break
        except subprocess.CalledProcessError as error:
            if error.returncode >= 0:
                raise
    else:
        pytest.skip(f"QEMU itself crashed {ATTEMPTS} times, which says nothing about bytes")
    assert printed == expected(names)


# The operations that PyTorch may execute. Names do not show where an operation is computed. That these
# are not MKL's was found by comparing bytes on a real AMD EPYC, on QEMU's Haswell and EPYC-Rome, and
# with the kernels that MKL has for AVX-512; those of augmentation, on the real processor alone. For
# Arm64, bytes were compared on emulated processors (test_arm64.py).
EQUAL = {
    "moving values": """as_strided as_strided_ cat clone copy_ detach detach_ empty empty_like expand
        eye fill_ flatten flip index item lift_fresh _local_scalar_dense masked_fill masked_fill_
        new_empty new_empty_strided new_zeros ones ones_like one_hot pad permute reflection_pad2d
        repeat_interleave resolve_conj resolve_neg select set_ slice split split_with_sizes squeeze
        stack sym_size t to _to_copy transpose unbind unsqueeze _unsafe_view view where zero_ zeros
        zeros_like""",
    "whole numbers, comparisons": """all amax aminmax any arange argmax bitwise_not eq equal ge le lt
        max min ne nonzero remainder sort""",
    "element by element": """abs add add_ addcdiv_ addcmul addcmul_ clamp clamp_min div div_ dropout
        dropout_ gelu gelu_backward hardsigmoid hardsigmoid_backward hardswish hardswish_
        hardswish_backward
        mul mul_ neg reciprocal relu relu_ rsub sigmoid sigmoid_backward silu_ silu_backward sub
        tanh_backward threshold_backward _foreach_add_ _foreach_mul_ _fused_adam_ _fused_adamw_
        _fused_sgd_""",
    "sums in an order of ATen's own": """adaptive_avg_pool2d linalg_vector_norm mean sum softmax
        _softmax log_softmax _log_softmax _log_softmax_backward_data cross_entropy_loss
        nll_loss_forward nll_loss_backward batch_norm native_batch_norm native_batch_norm_backward
        _native_batch_norm_legit_no_training max_pool2d max_pool2d_with_indices
        max_pool2d_with_indices_backward _foreach_norm""",
    "random numbers": "bernoulli_ normal_ rand randint randn randperm uniform_",
    "oneDNN, or ours": "conv2d convolution convolution_backward",
    "augmentation": "affine_grid_generator grid_sampler_2d upsample_bicubic2d",
    "ours, in networks/kernels.py": "addmm bmm cos linear mm sin tanh",
}


class Watch(TorchDispatchMode):
    """Collects the names of the ATen operations that a thread executes."""

    def __init__(self, seen: set[str]):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, operation: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        namespace, _, name = operation.name().partition("::")
        if namespace == "aten":
            self.seen.add(name.partition(".")[0])
        return operation(*args, **(kwargs or {}))


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager]:
    """A context that yields the operations of this thread, and of all threads of pools."""
    submit = ThreadPoolExecutor.submit

    @contextlib.contextmanager
    def watch() -> Iterator[set[str]]:
        seen: set[str] = set()

        def watched(
            pool: ThreadPoolExecutor, function: Callable, *args: object, **kwargs: object
        ) -> Future:
            def work() -> object:
                with Watch(seen):
                    return function(*args, **kwargs)

            return submit(pool, work)

        with monkeypatch.context() as patch, Watch(seen):
            patch.setattr(ThreadPoolExecutor, "submit", watched)
            yield seen

    return watch


@pytest.mark.parametrize("recipe", [*RECIPES, *digests.VARIANTS])
def test_pytorch_executes_only_what_is_known_to_be_equal(
    in_empty_folder: Path, watching: Callable, recipe: str
):
    digests.lay_out(recipe)
    with watching() as seen:
        run_stage(train.main)
        run_stage(evaluate.main)
    network = nn.Sequential(load_network()[0], nn.Softmax(dim=1)).eval().requires_grad_(False)
    classifier = Classifier(network, {}, to_input(random_images(20)))
    onnx_files.write_onnx(classifier)  # what builds the graph computes nothing in the file
    with watching() as seen_by_export:
        onnx_files.activation_ranges(classifier)
    known = set(" ".join(EQUAL.values()).split())
    unknown = (seen | seen_by_export) - known
    if recipe in (*OURS, *digests.VARIANTS):
        assert not unknown
        assert not seen.isdisjoint({"_log_softmax_backward_data", "one_hot"})  # of the threads
    elif unknown:
        pytest.skip(
            f"on other processors, these may give other bytes: {', '.join(sorted(unknown))}"
        )


@pytest.mark.parametrize("name", digests.STEPS)
def test_large_networks_execute_only_what_is_known_to_be_equal(
    in_empty_folder: Path, watching: Callable, name: str
):
    with watching() as seen:
        digests.run(name)
    assert not seen - set(" ".join(EQUAL.values()).split())


def test_an_unknown_operation_in_a_thread_is_seen(watching: Callable):
    with watching() as seen, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: torch.ones(2).exp()).result()
    assert "exp" in seen


@pytest.mark.slow
def test_no_stage_computes_a_product_by_mkl(reproduced: Project):
    """MKL prints a line for each of its products, in any thread, but none for its other functions."""
    verbose = {"MKL_VERBOSE": "1"}
    product = "import torch; torch.rand(9, 9) @ torch.rand(9, 9)"
    if "MKL_VERBOSE SGEMM" not in reproduced.run("python", "-c", product, **verbose):
        pytest.skip("this build of torch has no MKL")
    params = re.sub(r"epochs: \d+", "epochs: 1", reproduced.read("params.yaml").decode())
    # After an epoch, int8 may lose more than is allowed on a processor without VNNI.
    params = re.sub(r"max_accuracy_drop: \S+", "max_accuracy_drop: 1.0", params)
    for recipe, stages_ in (
        ("tutorial", ("prepare", "train", "evaluate", "export")),
        ("convolutional", ("train", "evaluate", "export")),
    ):
        text = params.replace("recipe: tutorial", f"recipe: {recipe}")
        (reproduced.folder / "params.yaml").write_text(text)
        for stage in stages_:
            output = reproduced.run("python", "-m", f"stages.{stage}", **verbose)
            assert "MKL_VERBOSE" not in output, f"{stage} with {recipe}"


@common_bytes
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import numpy, stages.train", "how to compute: numpy; restart Python"),
        ("import torch, stages.evaluate", "how to compute: numpy, torch; restart Python"),
        ("import stages, numpy, torch, stages.export", ""),
        # As in a notebook; `predict` does not depend on how NumPy computes.
        ("import numpy, predict.model", ""),
    ],
)
def test_libraries_that_were_imported_before_stages_are_refused(code: str, message: str):
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode != 0) == bool(message), result.stderr
    assert message in (result.stderr.splitlines() or [""])[-1]


@common_bytes
def test_inherited_settings_allow_any_order_of_imports():
    """As in the processes that a stage, or a test, starts."""
    code = "import numpy, torch, stages.train"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@common_bytes
def test_a_stage_notes_that_its_bytes_may_differ_on_an_older_processor(
    reproduced: Project, tmp_path: Path
):
    """Another file is mounted over /proc/cpuinfo, for the stage's process alone."""
    text = Path("/proc/cpuinfo").read_text()
    for feature in stages.ARCHITECTURE.features:
        text = text.replace(f" {feature} ", " ")
    (tmp_path / "cpuinfo").write_text(text)
    namespace = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    mount = f"mount --bind '{tmp_path / 'cpuinfo'}' /proc/cpuinfo && "
    if subprocess.run([*namespace, mount + "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    output = reproduced.run(*namespace, mount + "exec python -m stages.evaluate")
    assert output.count("note: this machine is neither x86-64 with AVX2 nor Arm64 under Linux") == 1
    assert "Test accuracy: " in output
    assert "note: " not in reproduced.run("python", "-m", "stages.evaluate")
