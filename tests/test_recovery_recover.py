"""recover: gradients at rounded weights, a valley that rounding leaves and training returns to, and a real system."""

from __future__ import annotations

import itertools
import json
import signal

import pytest
import torch

import tqs_fast as tqs
from networks import cells_system
from packing import block_plan, plan_for
from tqs_fast.errors import ArgumentError, CheckpointError
from tqs_fast.quantization.weights import find_weights, parameter_of
from tqs_fast.recovery import train
from tqs_fast.recovery.rounding import RecomputedScales
from tqs_fast.recovery.student import Lesson, Student
from tqs_fast.rewriting.rewrite import planned_weights
from valley import valley

SMALL = {
    "batch": 16,
    "horizon": 12,
    "truncation": 12,
    "learning_rate": 4e-3,
    "initial": tqs.Attractor(count=32, spin_up=64),
}


@pytest.fixture(scope="module")
def lorenz() -> tqs.System:
    return tqs.load_system("lorenz-gru")


@pytest.mark.parametrize("method", ["ste", "zeroth-order"])
def test_rounding_leaves_the_river_and_training_returns(method):
    system = valley()
    plan = plan_for(system.module, [4], tqs.Quantizer(0, search="minmax"))
    states = tqs.Contexts(torch.tensor([[-1.0], [1.0]]))
    grid = torch.arange(-8, 8) / 8
    best = min((float(a + b) / 0.36 - 1) ** 2 for a, b in itertools.product(grid, grid))
    # both neighbours are rounded down: 0.125 + 0.125, far up the wall, though 0.25 + 0.125 is as near as can be
    assert 40 * best < (0.25 / 0.36 - 1) ** 2
    found = tqs.recover(
        system, plan, steps=200, method=method, initial=states, horizon=1, batch=2, every=1, patience=200,
        learning_rate=2e-3, epsilon=0.05,
    )  # fmt: skip
    assert found.history[0].deployed == pytest.approx((0.25 / 0.36 - 1) ** 2, rel=1e-4)
    if method == "ste":
        assert found.history[found.best].deployed == pytest.approx(best, rel=1e-3)
        assert sorted(found.module.weight[0, :2].tolist()) == [0.125, 0.25]
    else:  # noise moves w2, too, and with it the grid
        assert found.history[found.best].deployed < 1.01 * best
    control = tqs.recover(system, plan, steps=20, method="float-then-ptq", initial=states, horizon=1, batch=2)
    assert control.history[-1].deployed == control.history[0].deployed  # the gradient at w is zero


def test_gradients_are_those_of_the_rollout_at_the_rounded_weights():
    system = cells_system(8)
    planned = planned_weights(system.module, plan_for(system.module, [3]))
    plan = plan_for(system.module, [3])
    student, rounding = Student(system, planned), RecomputedScales(planned, plan)
    state = system.initial_state(5, torch.Generator().manual_seed(0))
    lesson = Lesson.of(system, tqs.Contexts(state), 6, 0)
    latent = [parameter_of(system.module, weight).detach() for weight, _ in planned]
    student.hold(rounding.rounded(latent, []))
    small = tqs.quantize(system.module, plan)
    assert student.loss(lesson) == pytest.approx(
        tqs.evaluate(system, small, horizon=6, initial=tqs.Contexts(state)).damage, rel=1e-4
    )
    loss, gradients = student.gradients(lesson, torch.arange(5), truncation=6)
    assert loss == pytest.approx(student.loss(lesson), rel=1e-5)
    index = [weight.name for weight, _ in planned].index("gru.weight_hh")
    held = [weight.detach().clone() for weight in student.weights]
    direction = torch.randn(held[index].shape, generator=torch.Generator().manual_seed(1))
    ends = []
    for sign in (1, -1):
        student.hold([w + sign * 1e-2 * direction if i == index else w for i, w in enumerate(held)])
        ends.append(student.loss(lesson))
    assert float((gradients[index] * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.02)
    student.hold(held)
    cut = student.gradients(lesson, torch.arange(5), truncation=2)
    assert cut[0] == pytest.approx(loss, rel=1e-5)
    assert not torch.allclose(cut[1][index], gradients[index])


def test_predictions_of_the_basin_picture(lorenz):
    # 1. The gap between rounding and training closes on fine grids. 2. Deployed loss falls first: here latent loss,
    # zero at the start, only rises. 3. Training in float and rounding afterwards does not recover.
    gaps = {}
    for bits in (2, 8):
        plan = plan_for(lorenz.module, [bits])
        found = tqs.recover(lorenz, plan, steps=15 if bits == 2 else 3, **SMALL)
        gaps[bits] = found.history[0].deployed - found.history[found.best].deployed
        if bits == 2:
            assert found.share > 0.4
            assert found.history[0].latent == 0.0
            assert found.history[found.best].latent > 0.0
            control = tqs.recover(lorenz, plan, steps=3, method="float-then-ptq", **SMALL)
            assert control.share < 0.01
    assert gaps[8] < 1e-3 * gaps[2]


def test_what_is_kept_is_what_was_measured(lorenz, tmp_path):
    plan = block_plan(lorenz.module, 2)
    found = tqs.recover(lorenz, plan, steps=10, every=5, seed=3, **SMALL)
    again = tqs.recover(lorenz, plan, steps=10, every=5, seed=3, **SMALL)
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.module.state_dict().values(), again.module.state_dict().values(), strict=True)
    )
    held_out = tqs.evaluate(
        lorenz, found.module, horizon=12, initial=SMALL["initial"], seed=3 + train.HELD_OUT_SEED, engine="torch"
    )
    assert held_out.damage == pytest.approx(found.history[found.best].deployed, rel=1e-3)
    tqs.save(found.module, tmp_path / "model")
    assert tqs.load(lorenz.module, tmp_path / "model").tqs_plan.provenance["recovery"]["kept_step"] in (0, 5, 10)
    json.dumps(found.to_json())
    assert "won back" in str(found)


def test_starting_from_compensated_weights(lorenz):
    plan = plan_for(lorenz.module, [2])
    small = tqs.quantize(lorenz.module, plan, method=tqs.Compensation(horizon=12), system=lorenz)
    found = tqs.recover(lorenz, plan, quantized=small, steps=5, every=5, **SMALL)
    plain = tqs.recover(lorenz, plan, steps=5, every=5, **SMALL)
    assert found.history[0].deployed < 0.6 * plain.history[0].deployed
    assert {weight.name for weight in find_weights(lorenz.module)} == set(plan.bits)


@pytest.fixture
def ctrl_c():
    """A shell, or pytest-xdist, may start tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(monkeypatch, step):
    """Ctrl-C in the middle of a step."""
    taken, gradients = [], train._gradients

    def interrupted(*arguments):
        taken.append(1)
        if len(taken) == step:
            signal.raise_signal(signal.SIGINT)
        return gradients(*arguments)

    monkeypatch.setattr(train, "_gradients", interrupted)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupting_ends_after_the_step_and_returns_the_best_so_far(lorenz, monkeypatch):
    interrupt(monkeypatch, 4)
    found = tqs.recover(lorenz, plan_for(lorenz.module, [3]), steps=50, every=3, **SMALL)
    assert found.provenance["interrupted"]
    assert found.provenance["steps_taken"] == 4
    assert found.history[-1].step == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("method", ["ste", "cage"])
def test_no_step_is_lost_to_an_interruption(lorenz, monkeypatch, tmp_path, method):
    plan, path = plan_for(lorenz.module, [3]), tmp_path / "run.pt"
    run = {"steps": 8, "every": 3, "method": method, "scales": "learned", "silence": 0.25, "correction": 50.0, **SMALL}
    whole = tqs.recover(lorenz, plan, **run)
    with monkeypatch.context() as context:
        interrupt(context, 5)
        assert tqs.recover(lorenz, plan, checkpoint=path, **run).provenance["steps_taken"] == 5
    interrupt(monkeypatch, 100)
    resumed = tqs.recover(lorenz, plan, checkpoint=path, **run)
    assert not resumed.provenance["interrupted"]
    same(whole, resumed)


def same(one, other):
    assert [(look.step, look.deployed) for look in one.history] == [
        (look.step, look.deployed) for look in other.history
    ]
    states = (one.module.state_dict(), other.module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


def test_a_checkpoint_goes_on_where_it_was(lorenz, tmp_path):
    plan, path = plan_for(lorenz.module, [3]), tmp_path / "run.pt"
    whole = tqs.recover(lorenz, plan, steps=6, every=2, **SMALL)
    tqs.recover(lorenz, plan, steps=4, every=2, checkpoint=path, **SMALL)
    resumed = tqs.recover(lorenz, plan, steps=6, every=2, checkpoint=path, **SMALL)
    same(whole, resumed)
    with pytest.raises(CheckpointError, match="another system, plan or arguments"):
        tqs.recover(lorenz, plan_for(lorenz.module, [2]), steps=6, every=2, checkpoint=path, **SMALL)
    document = torch.load(path, weights_only=True)
    whole = path.read_bytes()
    damaged = [b"nothing", whole[:-200]]
    for values in (document["trained"][0], document["optimizer"]["state"][0]["exp_avg"]):
        place = whole.index(values.numpy().tobytes())
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
    for name, value in (("trained", document["trained"][1:]), ("history", [(1,)]), ("optimizer", {})):
        torch.save({**document, name: value}, path)
        damaged.append(path.read_bytes())
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            tqs.recover(lorenz, plan, steps=6, every=2, checkpoint=path, **SMALL)


def test_wrong_arguments(lorenz):
    plan = plan_for(lorenz.module, [3])
    with pytest.raises(ArgumentError, match="ste, cage, zeroth-order, float-then-ptq, got 'lsq'"):
        tqs.recover(lorenz, plan, method="lsq")
    with pytest.raises(ArgumentError, match="'learned' with 'zeroth-order'"):
        tqs.recover(lorenz, plan, method="zeroth-order", scales="learned")
    for wrong in ({"correction": -1.0}, {"silence": 1.0}):
        with pytest.raises(ArgumentError, match="correction >= 0 and silence"):
            tqs.recover(lorenz, plan, method="cage", **wrong)
    for name in ("steps", "horizon", "truncation", "batch", "every"):
        with pytest.raises(ArgumentError, match=rf"\[recover\] {name} must be an integer of at least 1, got 0"):
            tqs.recover(lorenz, plan, **{name: 0})
