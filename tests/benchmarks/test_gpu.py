"""The parts of `make bench-gpu` that take a device, on a processor, and the section that it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks import explainers as bare
from tests.benchmarks import gpu, gpu_findings, gpu_flow
from tests.benchmarks.gpu_findings import Card, Copies, Findings, Flow, Halving, Method, Noise, Rounded

CPU = torch.device("cpu")
FOUND = Findings(
    Card("a card", 80.0, "600.1", "13.0", "2.13.0"),
    Flow(40_000, ("saliency",), 812.3, 21.0, 0.93),
    (Method("SmoothGrad", 1.0, 2.5, 12.0, 64, 256, None), Method("occlusion", 2.0, 5.0, 30.0, 64, 256, 1e-6)),
    (
        Rounded("TF32", 1.5, {"logits": (1e-4, 1.0), "saliency": (1e-3, 0.999)}),
        Rounded("bf16", 2.5, {"logits": (1e-3, 1.0), "saliency": (8e-2, 0.953)}),
    ),
    Halving(256, 4321.0, 2, 64, 0.0),
    Copies(6.0, 24.0, 3.0, 4.5, 3.1),
    Noise(True, 2.0, 300.0),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "SHAPES", {2: (32, 32), 3: (16, 16, 16)})
    monkeypatch.setattr(bare, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "_COPIED", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_leaves_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    before = gpu_findings.PAGE.read_text()
    assert gpu.main() == 2
    assert capsys.readouterr().out.count("\n") == 1
    assert gpu_findings.PAGE.read_text() == before


def test_explainers_are_held_against_captum(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name: run for name, run in gpu.captum().items() if name in ("gradient", "SmoothGrad")}
    monkeypatch.setattr(gpu, "captum", lambda: named)
    lines = {line.name: line for line in gpu.methods(CPU, 3, 1, (2, 4))}
    assert lines.keys() == named.keys()
    assert lines["SmoothGrad"].error is None
    assert lines["gradient"].error is not None and lines["gradient"].error < 1e-4
    assert all(min(line.ours, line.captum, line.loop) > 0 for line in lines.values())


def test_a_batch_that_does_not_fit_is_no_candidate() -> None:
    def run(size: int) -> torch.Tensor:
        if size > 2:
            raise torch.OutOfMemoryError
        return torch.zeros(1)

    assert gpu.fastest(run, (2, 4), CPU)[1] == 2


def test_precisions_agree_with_fp32_on_the_demo_network(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = gpu.slices(2)
    monkeypatch.setattr(gpu, "slices", lambda count: drawn)
    monkeypatch.setattr(gpu, "milliseconds", lambda run, device: 1.0)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no instructions for bf16")
    tf32, bf16 = gpu.rounded(CPU)
    assert max(apart for apart, _ in tf32.agreement.values()) < 1e-5  # a processor has no TF32
    assert 1e-4 < bf16.agreement["saliency"][0] < 0.2
    assert tf32.agreement.keys() == bf16.agreement.keys() >= {"logits", "gradcam", "occlusion"}


def test_copies_are_timed() -> None:
    assert gpu.copies(CPU, 2).ahead > 0


def test_noise_is_the_same_where_the_device_is() -> None:
    assert gpu.noise(CPU, 2).equal


@pytest.mark.parametrize(("samples", "share"), [([0, 0, 90, 100, 80, 0], 0.9), ([0, 100, 0, 100], 2 / 3), ([0], 0.0)])
def test_a_gpu_is_busy_between_the_first_kernel_and_the_last(samples: list[int], share: float) -> None:
    assert gpu_flow.busy(samples) == pytest.approx(share)


def test_a_section_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(gpu_findings.PAGE.read_text())
    gpu_findings.write_section(FOUND, page)
    once = page.read_text()
    gpu_findings.write_section(FOUND, page)
    assert page.read_text() == once
    assert "Nothing was measured" not in once and once.startswith("# GPU\n")
    for said in (
        "**a card** (80 GiB, driver 600.1",
        "812 images a second",
        "93 % of the time",
        "| SmoothGrad | 1.00 | 2.50 | 12.00 | 2.5 | 12.0 | 64 and 256 | other noise |",
        "| explainer | TF32 | bf16 |\n| --- | --- | --- |\n| times faster | 1.50 | 2.50 |\n| logits | 1.0e-04",
        "halved 2 times, to 64",
        "has the same bits as",
    ):
        assert said in once
    assert "Short of its goal" not in once


def test_what_is_short_of_its_goal_is_named() -> None:
    slow = replace(FOUND.methods[0], loop=9.0, captum=1.9)
    found = replace(
        FOUND,
        methods=(slow,),
        flow=replace(FOUND.flow, busy=0.5),
        halving=replace(FOUND.halving, halvings=0),
        noise=replace(FOUND.noise, equal=False),
    )
    assert len(gpu_findings.shortfalls(found)) == 5
    assert "- SmoothGrad is 9.0 times as fast as a loop, where the goal is 10" in gpu_findings.section(found)


def test_a_page_without_marks_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text("# GPU\n")
    with pytest.raises(ValueError, match="has no lines"):
        gpu_findings.write_section(FOUND, page)
    assert page.read_text() == "# GPU\n"
