"""Attention of 16 bits on tensor cores (csrc/cuda/device/attention_tensor.cuh and, from 65 queries on,
attention_warpgroups.cuh), on the emulator: against float64 within derived bounds, on outputs that hold NaN before and
memory that ends where the task says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import emulated
from attention_half import MASK, K, Problem, Q, V, check, draw, run
from checking import same_bits

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

DEPTHS = (8, 16, 40, 64, 80, 128)
ALL = (Q, K, V, MASK)


def checked(problem, **options):
    data = draw(problem)
    check(problem, data, *run(problem, data, **options))


@pytest.mark.parametrize("first", range(1, 8))
def test_every_number_of_queries(first):
    """1 to 70 queries, 1 to 130 keys; depths and widths in turn, causal with offsets on both sides of 0."""
    for queries in range(first, 71, 7):
        keys = 1 + queries * 37 % 130
        problem = Problem(
            queries, keys, DEPTHS[queries % 6], DEPTHS[queries // 6 % 6], ("bfloat16", "float16")[queries % 2],
            tangents=queries % 3, causal=queries % 4 > 1, offset=keys - queries + queries % 5 - 2,
        )  # fmt: skip
        checked(problem)


@pytest.mark.parametrize("depth", [16, 96])
def test_where_the_first_query_sees_all_but_a_key(depth):
    """Steps of keys that rows see in full are not looked at key by key: every place of the bound within a step."""
    for offset in range(12, 66) if depth == 16 else range(28, 33):
        checked(Problem(32, offset + 20, depth, 8, tangents=1, causal=True, offset=offset))


@pytest.mark.parametrize("depth", DEPTHS)
def test_numbers_of_tangents(depth):
    for tangents in range(1, 10):
        dtype = ("bfloat16", "float16")[tangents % 2]
        checked(Problem(33, 50, depth, 72 if depth == 80 else 16, dtype, tangents, heads=2))


@pytest.mark.parametrize(
    ("moves", "missing"),
    [((Q,), ()), ((K,), ()), ((V,), ()), ((MASK,), ()), ((Q, V), ()), ((K, MASK), ()), (ALL, ()),
     (ALL, ((Q, 0), (K, 1), (V, 2), (MASK, 0), (Q, 2), (K, 2), (MASK, 2))), ((Q, K), ((Q, 1), (K, 1)))],
)  # fmt: skip
def test_tangents_that_are_shared_or_missing(moves, missing):
    for depth, causal in ((40, False), (96, True)):
        problem = Problem(
            37, 70, depth, depth, "bfloat16", 3, moves, missing, heads=2, samples=2, causal=causal, offset=30,
            masked=True,
        )  # fmt: skip
        checked(problem)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_masks_and_rows_that_see_nothing(dtype):
    for offset in (-40, -3, 0, 20):
        problem = Problem(70, 33, 24, 8, dtype, 2, ALL, causal=True, offset=offset, masked=True)
        data = draw(problem)
        out, dout = run(problem, data)
        check(problem, data, out, dout)
        assert not out[..., -1, :].any()
        assert not dout[..., -1, :].any()
        assert not out[..., : max(0, -offset), :].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_splits_of_the_keys(dtype):
    """A few queries against many keys; splits that nobody sees, and one of a single key."""
    for queries, keys, offset in ((1, 513, 512), (3, 1025, 300), (32, 1100, 1068), (5, 600, -9)):
        checked(Problem(queries, keys, 64, 40, dtype, 3, causal=True, offset=offset))
    problem = Problem(4, 1030, 24, 128, dtype, 2, ALL, ((V, 1), (Q, 1), (K, 1), (MASK, 1)), 2, 2, masked=True)
    checked(problem)
    checked(replace(problem, tangents=0, masked=False, missing=()))


def test_scores_of_any_size():
    """Maxima that grow with every block of keys, weights that vanish."""
    problem = Problem(40, 200, 32, 32, "bfloat16", 2, spread=40.0)
    data = draw(problem)
    data.values[K][0] *= np.linspace(0.1, 1, 200)[:, None]
    data.values[K] = emulated.from_bits(emulated.to_bits(data.values[K], "bfloat16"), "bfloat16").astype(np.float64)
    check(problem, data, *run(problem, data))


@pytest.mark.parametrize(("queries", "keys", "masked"), [(20, 70, False), (20, 600, False), (140, 103, True)])
def test_lanes_samples_padding_and_the_order_of_threads_change_no_bit(queries, keys, masked):
    problem = Problem(
        queries, keys, 64, 64, "bfloat16", 3, heads=2, samples=2, causal=True, offset=keys - queries, masked=masked
    )  # fmt: skip
    data = draw(problem)
    out, dout = run(problem, data)
    emulated.emulator().library.emulated_reverse(1)
    backwards = run(problem, data, row_padding=8)
    emulated.emulator().library.emulated_reverse(0)
    same_bits(backwards[0], out)
    same_bits(backwards[1], dout)
    for lane in range(3):  # alone: in a group of one, where pairs were
        one = replace(problem, tangents=1)
        chosen = replace_values(data, [0, 1 + lane])
        same_bits(run(one, chosen)[1][0], dout[lane])
    lanes = run(problem, data, ensemble=4)[0]
    for lane in range(4):
        own = run(replace(problem, tangents=0), replace_values(data, [lane]))
        same_bits(own[0], lanes[lane])
    same_bits(lanes[0], out)


def replace_values(data, lanes):
    return type(data)([None if x is None else x[lanes] for x in data.values])


def test_keys_that_no_query_sees_are_not_read():
    problem = Problem(3, 70, 8, 16, "bfloat16", 2, causal=True, offset=64)
    data = draw(problem)
    expected = run(problem, data)
    for operand in (K, V):
        data.values[operand][..., 67:, :] = np.nan
    for got, want in zip(run(problem, data), expected, strict=True):
        same_bits(got, want)


@pytest.mark.parametrize("depth", [32, 64, 96, 128])
def test_shared_memory_is_read_without_conflicts(depth):
    emulator = emulated.emulator()
    emulator.bank_conflicts()
    checked(Problem(40, 70, depth, depth, tangents=3))
    assert emulator.bank_conflicts() == 0


@pytest.mark.parametrize("depth", [32, 64, 96, 128])
def test_every_shape_fits_into_99_kib(depth):
    with emulated.emulator().shared_limit(99 << 10), emulated.emulator().capability(8):
        checked(Problem(100, 33, depth, depth, tangents=3))


# ------------------------------------------------------------------------------------------------ warpgroups


def test_which_tasks_warpgroups_take():
    """They want more than 99 KiB of shared memory, which tells who was launched."""
    taken = Problem(65, 9, 40, 64, tangents=1)
    also = [{"masked": True}, {"masked": True, "keys": 8}, {"moves": (Q, K)}, {"moves": (Q, V)}, {"moves": (K, V)}]
    left = [
        {"queries": 64}, {"depth": 32, "width": 32}, {"tangents": 0}, {"moves": (V,)},
        {"masked": True, "keys": 8, "moves": ALL}, {"masked": True, "mask_shared": (3,)},
    ]  # fmt: skip
    with emulated.emulator().shared_limit(99 << 10):
        for change in ({}, *also):
            with pytest.raises(AssertionError, match="more shared memory than the device has"):
                checked(replace(taken, **change))
        with emulated.emulator().capability(8):
            checked(taken)
        for change in left:
            checked(replace(taken, **change))


@pytest.mark.parametrize("first", range(5))
def test_warpgroups_with_every_kind_of_size(first):
    """One warpgroup of 64 queries or several blocks of two; a last step of keys with 1 to 64; what is padded to 64 or
    128 columns; bounds that leave a warpgroup or a block without keys, or end it before the other."""
    queries = (65, 127, 128, 129, 191, 193, 256, 300, 97, 140)[first::5]
    for place, count in enumerate(queries):
        keys = (1, 63, 64, 65, 200)[(first + 2 * place) % 5]
        for causal, offset in ((False, 0), (True, keys - count), (True, -70), (True, 5)):
            depth, width = ((40, 64), (64, 8), (128, 128), (72, 24), (16, 104))[(first + place + offset) % 5]
            dtype = ("bfloat16", "float16")[(count + offset) % 2]
            checked(Problem(count, keys, depth, width, dtype, 1 + (first + offset) % 3, causal=causal, offset=offset))


def test_every_place_of_the_bound_within_a_step_of_warpgroups():
    for offset in (-80, -79, -65, -64, -63, -17, -16, -15, -9, -8, -7, -2, -1, 0, 1, 2, 7, 15, 31, 32, 47, 48, 49, 62):
        checked(Problem(80, 96, 64, 64, tangents=1, causal=True, offset=offset))


def test_warpgroups_follow_the_clock():
    problem = Problem(70, 150, 64, 64, tangents=1, causal=True, offset=-20 + 3 * 17)
    data = draw(problem)
    counted = run(replace(problem, offset=-20), data, counted=(3, 17))
    for got, want in zip(counted, run(problem, data), strict=True):
        same_bits(got, want)


@pytest.mark.parametrize("depth", [64, 128])
def test_warpgroups_with_many_steps_tangents_heads_and_samples(depth):
    """The ring of chunks goes round; tangents in pairs and alone, some of them zero."""
    missing = ((Q, 0), (K, 1), (V, 2), (Q, 3), (K, 3), (Q, 4), (K, 4), (V, 4))
    problem = Problem(130, 450, depth, depth, "bfloat16", 5, missing=missing, heads=2, samples=2)
    data = draw(problem)
    out, dout = run(problem, data)
    check(problem, data, out, dout)
    assert not dout[4].any()
    checked(replace(problem, heads=1, samples=1, missing=(), dtype="float16", causal=True, offset=300, scale=-0.2))


@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("shared", [(), (0, 1), (2,), (0, 1, 2), (1,)])
def test_warpgroups_with_masks(depth, shared):
    """Of all forms that broadcast, with hidden keys and a row that sees none, with and without a bound; the ring of
    masks goes round. Rows that are read where they are (multiples of 8 keys), or that are copied first: since they are
    not, or begin elsewhere."""
    for queries, keys, padding, tangents in ((65, 8 * len(shared) + 8, 8, 3), (65, 16, 4, 1), (130, 263, 0, 2)):
        dtype = ("bfloat16", "float16")[(len(shared) + tangents) % 2]
        problem = Problem(queries, keys, depth, 40, dtype, tangents, heads=2, masked=True, mask_shared=shared)
        checked(replace(problem, samples=1 + tangents % 2, mask_padding=padding))
        if tangents != 1:
            checked(replace(problem, heads=1, causal=True, offset=keys - queries - 5, scale=-0.2))


@pytest.mark.parametrize("queries", [40, 130])
@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_numbers_in_masks(dtype, depth, queries):
    """One that is added to all scores of a row makes them equal, if it swallows them (beyond 1e9) or they are; one that
    is added to some hides their keys, down to the lowest of the type; only -inf hides all, and NaN spoils its row."""
    problem = Problem(queries, 72, depth, depth, dtype, 2, (Q, V), masked=True)
    data, lowest = draw(problem), {"bfloat16": -(2.0**128 - 2.0**120), "float16": -65504.0}[dtype]
    plain = data.values[MASK] = np.zeros_like(data.values[MASK])
    q, mask = data.values[Q].copy(), plain.copy()
    for row, number in enumerate([-1e3, -3e4, lowest, *([-1e9, -1e30, -2e38] if dtype == "bfloat16" else [])]):
        mask[0, ..., row, :] = number
        data.values[Q][0, ..., row, :] = 0.0
        if number > -1e9:
            q[0, ..., row, :] = 0.0
        mask[0, ..., queries - 1 - row, ::2] = number
        plain[0, ..., queries - 1 - row, ::2] = -np.inf
    mask = emulated.from_bits(emulated.to_bits(mask, dtype), dtype).astype(np.float64)
    given = [q, *data.values[K:MASK], mask]
    results = run(problem, replace(data, values=given))
    check(problem, data, *results)
    mask[0, ..., 20, 5] = np.nan
    for ours, was in zip(run(problem, replace(data, values=given)), results, strict=True):
        assert np.isnan(ours[..., 20, :]).all()
        same_bits(np.delete(ours, 20, -2), np.delete(was, 20, -2))


def test_a_mask_that_hides_what_the_bound_hides_changes_no_bit():
    """Additive masks of zeros and -inf against the bound, at every place of it within a step. Scores are scaled by a
    power of 2: with a mask they are rounded before the maximum is subtracted, else with it."""
    for offset in range(-9, 64, 9):
        problem = Problem(80, 72, 64, 64, tangents=2, causal=True, offset=offset, scale=math.log(2) / 8)
        data = draw(problem)
        expected = run(problem, data)
        hidden = np.arange(72) > np.arange(80)[:, None] + offset
        mask = np.where(hidden, -np.inf, 0.0) * np.ones((3, 1, 1, 1, 1))
        data.values[MASK] = mask
        got = run(replace(problem, causal=False, masked=True), data)
        for ours, bound in zip(got, expected, strict=True):
            same_bits(ours, bound)


@pytest.mark.parametrize("moves", [(Q, K), (Q, V), (K, V)])
def test_warpgroups_where_one_operand_has_no_tangents(moves):
    checked(Problem(70, 80, 40, 64, "float16", 3, moves, masked=V in moves, heads=2))


def test_warpgroups_of_more_heads_than_are_taken_together():
    """Blocks of 128 heads are sorted by what they see, then those of the two that are left."""
    checked(Problem(129, 70, 8, 40, tangents=1, heads=130, causal=True, offset=-60))
