"""The command-line program, run as a user runs it: `main` with the user's words, now and then from a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reports
import tqs_fast as tqs
from tqs_fast.cli import main

ROOT = Path(__file__).resolve().parents[1]


def start(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as from a shell."""
    command = [sys.executable, "-c", "from tqs_fast.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_the_whole_way(run, tmp_path):
    table, plan, model = tmp_path / "table.json", tmp_path / "plan.json", tmp_path / "small.safetensors"
    drawn = start("score", "lorenz-gru", "--horizon", "8", "--count", "8", "-o", str(table))
    assert "cell2.weight_hh" in drawn.stdout
    shown = run("allocate", str(table), "--average-bits", "4.2", "--freeze", "out.weight=8", "-o", str(plan))
    assert "average bits" in shown.stdout
    assert tqs.Plan.load(plan).bits["out.weight"] == 8
    run("quantize", "lorenz-gru", str(plan), "-o", str(model))
    judged = ["--horizon", "8", "--count", "8", "--json"]
    from_model = json.loads(run("evaluate", "lorenz-gru", str(model), *judged).stdout)
    from_plan = json.loads(run("evaluate", "lorenz-gru", str(plan), *judged).stdout)
    assert from_model == from_plan
    system = tqs.load_system("lorenz-gru")
    small = tqs.quantize(system.module, tqs.Plan.load(plan))
    expected = tqs.evaluate(system, small, horizon=8, initial=tqs.Attractor(count=8), seed=1)
    assert from_model["damage"] == pytest.approx(expected.damage, rel=1e-3)


@pytest.mark.parametrize("method", ["noise", "adjoint"])
def test_score_prints_json_that_loads(method, run, tmp_path):
    options = ["--horizon", "4", "--count", "4", "--bits", "3,8", "--row-blocks", "3", "--method", method]
    printed = run("score", "lorenz-gru", *options, "--probes", "2", "--json").stdout
    (tmp_path / "table.json").write_text(printed)
    table = tqs.Sensitivity.load(tmp_path / "table.json")
    assert table.bits == (3, 8)
    assert (table.provenance["method"]["name"], table.provenance["method"]["probes"]) == (method.capitalize(), 2)


def test_search_writes_a_result_and_a_plan(run, tmp_path):
    table, plan, found, kept = (str(tmp_path / f"{name}.json") for name in ("table", "plan", "found", "kept"))
    run("score", "lorenz-gru", "--horizon", "6", "--count", "8", "-o", table)
    run("allocate", table, "--bytes", "28646", "-o", plan)
    run("allocate", table, "--bytes", "28646", "--method", "greedy", "-o", kept)
    options = ["--evaluations", "20", "--rival", kept, "--checkpoint", str(tmp_path / "run.ckpt")]
    shown = run("search", "lorenz-gru", table, plan, *options, "-o", found, "--plan-out", str(tmp_path / "best.json"))
    assert "uniform 4" in shown.stdout
    result = tqs.SearchResult.load(found)
    assert tqs.Plan.load(tmp_path / "best.json").bits == result.plan.bits
    assert result.plan.bytes <= 28646
    assert kept in [candidate.name for candidate in result.candidates]
    again = run("search", "lorenz-gru", table, plan, *options, "--json")
    assert json.loads(again.stdout) == result.to_json()


@pytest.mark.parametrize("method", ["weight-error", "hessian-trace", "output-divergence", "gradient-change"])
def test_rivals_score(method, run, tmp_path):
    printed = run("score", "lorenz-gru", "--horizon", "4", "--count", "3", "--method", method, "--json").stdout
    (tmp_path / "table.json").write_text(printed)
    name = tqs.Sensitivity.load(tmp_path / "table.json").provenance["method"]["name"]
    assert name.lower() == method.replace("-", "")


def test_demo_ends_with_the_comparison(run):
    document = json.loads(run("demo", "--json").stdout)
    errors, plans = document["errors"], document["plans"]
    assert document["ratio"]["value"] == pytest.approx(errors["allocated"]["damage"] / errors["uniform"]["damage"])
    assert plans["allocated"]["bytes"] <= plans["uniform"]["bytes"]
    assert document["ratio"]["interval"][1] < 1
    printed = run("demo", "--bits", "3").stdout
    assert "allocated / uniform" in printed


def test_info_lists_kernels(run):
    facts = json.loads(run("info", "--json").stdout)
    assert {row["isa"] for row in facts["kernels"]} >= {"scalar"}
    assert facts["version"] == tqs.__version__
    assert "qgemm" in run("info").stdout


def test_version_is_that_of_the_package(run):
    assert run("--version").stdout == f"tqs-fast {tqs.__version__}\n"
    assert "--version" in run("--help").stdout


def test_report_writes_one_page(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = reports.full(4)
    made.table.save(tmp_path / "table.json")
    made.plan.save(tmp_path / "plan.json")
    made.search.save(tmp_path / "search.json")
    for name, error in made.evaluations.items():
        error.save(tmp_path / f"{name}.json")
    evaluations = [part for name in made.evaluations for part in ("--evaluation", f"{name}.json")]
    arguments = ["report", "table.json", "plan.json", "--search", "search.json", *evaluations, "-o", "page.html"]
    printed = json.loads(run(*arguments, "--json").stdout)
    assert (tmp_path / "page.html").read_text() == made.html()
    assert printed["file_bytes"] == (tmp_path / "page.html").stat().st_size
    assert printed["bytes"] == made.plan.bytes
    assert printed["measured"]["evaluation “co2”"]["damage"] == made.evaluations["co2"].damage
    assert "written to page.html" in run("report", "table.json", "plan.json", "-o", "page.html").stdout
    twice = ["--evaluation", "co2.json", "--evaluation", "./co2.json"]
    refused = run("report", "table.json", "plan.json", *twice, "-o", "page.html", status=1)
    assert "got 'co2' twice" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["score", "nothing"], 1, "unknown system 'nothing'"),
        (["score", "lorenz-gru", "--bits", "2,x"], 1, r"[--bits]"),
        (["score", "lorenz-gru", "--method", "best"], 1, "[--method]"),
        (["score", "lorenz-gru", "--initial", "somewhere"], 1, "[--initial]"),
        (["score", "lorenz-gru", "--memory-limit", "much"], 1, "[size]"),
        (["score", "lorenz-gru", "--layers", "nope*"], 1, "matches no quantizable layer"),
        (["score", "no_such_module:factory"], 1, "no_such_module"),
        (["allocate", "missing.json", "--average-bits", "4"], 1, "cannot be read"),
        (["report", "missing.json", "plan.json", "-o", "page.html"], 1, "cannot be read"),
        (["evaluate", "lorenz-gru", "missing.safetensors"], 1, "no such file"),
        (["search", "lorenz-gru", "missing.json", "missing.json"], 1, "cannot be read"),
        (["score"], 2, "Missing argument"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_line(arguments, status, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = arguments in (["score", "nothing"], ["score"])  # one of either status as a shell sees it
    done = (start if own else run)(*arguments, status=status)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "nothing", "--out"),
        ("allocate", "missing.json", "--average-bits", "4", "--out"),
        ("search", "nothing", "missing.json", "missing.json", "--out"),
        ("search", "nothing", "missing.json", "missing.json", "--plan-out"),
        ("quantize", "nothing", "missing.json", "--out"),
        ("quantize", "nothing", "missing.json", "--out", "small.safetensors", "--plan-out"),
        ("evaluate", "nothing", "missing.safetensors", "--out"),
        ("growth", "nothing", "--out"),
        ("report", "missing.json", "missing.json", "--out"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_computed(arguments, tmp_path, monkeypatch, capsys):
    """The path is refused before the system is looked for: a result of hours would be lost."""
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for path, why in [("no/folder.json", "no is no folder"), ("folder", "it is a folder")]:
        monkeypatch.setattr(sys, "argv", ["tqs-fast", *arguments, path])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 1
        assert capsys.readouterr().err.startswith(f"error: [output] cannot write {path}: {why}")


def test_ctrl_c_leaves_a_checkpoint_that_resumes(run, tmp_path):
    """Interrupted after the first finished chunk; the same command then gives the table of an uninterrupted run."""
    options = [
        "score",
        "lorenz-gru",
        "--horizon",
        "400",
        "--count",
        "32",
        "--memory-limit",
        "700K",
        "--row-blocks",
        "4",
    ]
    # A shell may start tests with SIGINT ignored, which children inherit and Python then leaves alone.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", listen + "from tqs_fast.cli import main; main()", *options]
    folder = tmp_path / "run.ckpt"
    process = subprocess.Popen(
        [*command, "--checkpoint", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(folder.glob("chunk-*.npz")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "resumes" in stderr
    finished = len(list(folder.glob("chunk-*.npz")))
    whole = run(*options, "-o", str(tmp_path / "whole.json"), "--json")
    resumed = run(*options, "-o", str(tmp_path / "resumed.json"), "--checkpoint", str(folder), "--json")
    assert 0 < finished < len(list(folder.glob("chunk-*.npz")))
    assert resumed.stdout == whole.stdout


def test_the_example_runs(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "own_model.py")],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "damage" in done.stdout
    assert (tmp_path / "own_model.safetensors").exists()


def test_a_solver_that_prints_leaves_the_json_alone(run):
    """A table (row blocks of silero-vad) for which HiGHS prints a line of its own."""
    table = ROOT / "tests" / "data" / "silero_row_blocks.json"
    done = run("allocate", str(table), "--bytes", "95154", "--json")
    assert json.loads(done.stdout)["format"] == "tqs-fast/plan"
