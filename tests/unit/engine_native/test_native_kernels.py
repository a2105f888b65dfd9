"""Each kernel of each instruction set equals the same in torch."""

import threading

import pytest
import torch
from torch.nn import functional

from parrot.engine.native import kernels as kernels_module
from parrot.engine.native import library
from parrot.engine.native.kernels import NativeKernels, Rotary, load_native
from parrot.engine.native.library import ISAS, Isa

LIKELIEST = (0.0, 1.0, 0.0, 0.0, 0, -1)
TYPES = [torch.bfloat16, torch.float32]
BF16_ULP = 2.0**-7


@pytest.fixture(params=ISAS)
def kernels(request: pytest.FixtureRequest) -> NativeKernels:
    return found_for(request.param)


WITH_LINEARS: tuple[Isa, ...] = ("avx512-bf16", "amx-bf16")
"""Those that multiply matrices."""


@pytest.fixture(params=WITH_LINEARS)
def multiplying(request: pytest.FixtureRequest) -> NativeKernels:
    return found_for(request.param)


def found_for(isa: Isa, *, int8_weights: bool = False) -> NativeKernels:
    found = load_native(isa, int8_weights=int8_weights)
    if found is None:
        pytest.skip(f"no native kernels for {isa} here")
    torch.manual_seed(0)
    return found


def assert_near(actual: torch.Tensor, expected: torch.Tensor, *, atol: float = 1e-3) -> None:
    """Equal but for two roundings, each of which may fall to the other side."""
    if actual.dtype == torch.bfloat16:
        torch.testing.assert_close(actual.float(), expected.float(), rtol=2 * BF16_ULP, atol=atol)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def normed(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = hidden.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(hidden.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 576), (3, 33), (40, 576), (2, 8)])
def test_add_norm_adds_in_place_and_norms_the_sum(
    kernels: NativeKernels, dtype: torch.dtype, rows: int, size: int
) -> None:
    hidden, added = torch.randn(rows, size).to(dtype), torch.randn(rows, size).to(dtype)
    weight = (torch.rand(size) + 0.5).to(dtype)
    total = hidden + added
    out = kernels.add_norm(hidden, added, weight, 1e-5)
    assert torch.equal(hidden, total)
    assert_near(out, normed(total, weight, 1e-5))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_norm_with_nothing_added_leaves_its_input(kernels: NativeKernels, dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(5, 64).to(dtype), (torch.rand(64) + 0.5).to(dtype)
    before = hidden.clone()
    out = kernels.add_norm(hidden, None, weight, 1e-6)
    assert torch.equal(hidden, before)
    assert_near(out, normed(hidden, weight, 1e-6))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 1536), (7, 19), (64, 256)])
def test_silu_mul_equals_torch(kernels: NativeKernels, dtype: torch.dtype, rows: int, size: int) -> None:
    gate_up = (torch.randn(rows, 2 * size) * 6).to(dtype)
    gate, up = gate_up.chunk(2, dim=1)
    assert_near(kernels.silu_mul(gate_up), functional.silu(gate) * up)


def test_silu_of_extreme_numbers_is_their_limit(kernels: NativeKernels) -> None:
    gate = torch.tensor([-3e38, -200.0, -90.0, 0.0, 90.0, 3e38])
    out = kernels.silu_mul(torch.cat((gate, torch.ones(6)))[None])
    torch.testing.assert_close(out[0], functional.silu(gate), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_heads_are_normed_and_rotated_and_values_left(
    kernels: NativeKernels, dtype: torch.dtype, with_norms: bool, head_dim: int
) -> None:
    angles = torch.rand(32, head_dim // 2) * 6.3
    rotary = Rotary(
        num_query_heads=4, num_key_heads=2, cosines=angles.cos(), sines=angles.sin(), norm_eps=1e-6
    )
    heads = torch.randn(9, 8, head_dim).to(dtype)
    positions = torch.randint(32, (9,))
    weights = ((torch.rand(head_dim) + 0.5).to(dtype), (torch.rand(head_dim) + 0.5).to(dtype))
    before = heads[:, :6].clone()
    if with_norms:
        before = torch.cat(
            (normed(before[:, :4], weights[0], 1e-6), normed(before[:, 4:], weights[1], 1e-6)), 1
        )
    first, second = before.float().chunk(2, dim=-1)
    cosines, sines = angles.cos()[positions][:, None], angles.sin()[positions][:, None]
    expected = torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
    values = heads[:, 6:].clone()
    kernels.rotate(heads.view(9, -1), rotary, positions, weights if with_norms else None)
    # A norm's rounding that falls to the other side is rotated into sums that may be small.
    assert_near(heads[:, :6], expected, atol=0.05)
    assert torch.equal(heads[:, 6:], values)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [5, 16, 4001])
def test_without_temperature_the_first_of_the_largest_is_chosen(
    kernels: NativeKernels, dtype: torch.dtype, columns: int
) -> None:
    logits = torch.randn(6, columns + 30).to(dtype)
    logits[:, columns:] = 100.0
    logits[2, [1, 3]] = 50.0
    found = kernels.sample(logits[:, :columns], [LIKELIEST] * 6)
    assert found == logits[:, :columns].float().argmax(dim=1).tolist()
    assert found[2] == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 17, 36])
def test_a_row_with_a_number_that_is_not_finite_has_no_token(
    kernels: NativeKernels, dtype: torch.dtype, bad: float, at: int
) -> None:
    logits = torch.randn(3, 40).to(dtype)
    logits[1, at] = bad
    logits[2, 38] = bad
    found = kernels.sample(logits[:, :37], [LIKELIEST] * 3)
    assert found[1] == -1
    assert [found[0], found[2]] == logits[[0, 2], :37].float().argmax(dim=1).tolist()


@pytest.mark.parametrize("dtype", TYPES)
def test_every_instruction_set_draws_what_the_first_draws(kernels: NativeKernels, dtype: torch.dtype) -> None:
    plainest = load_native("portable")
    assert plainest is not None
    logits = torch.randn(64, 2500).to(dtype) * 2
    masks = torch.randint(-(1 << 31), 1 << 31, (3, 79), dtype=torch.int32)
    rows = [
        (
            0.5 + row % 3,
            (1.0, 0.8)[row % 2],
            (0.0, 0.01)[row % 5 == 0],
            row / 64,
            (0, 700)[row % 3 == 0],
            row % 4 - 1,
        )
        for row in range(64)
    ]
    expected = plainest.sample(logits, rows, masks)
    found = kernels.sample(logits, rows, masks)
    # A number within rounding of where two tokens meet may fall to either.
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (576, 960), (96, 37), (32, 1)])
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32, 77])
def test_a_linear_equals_the_product_in_float32(
    multiplying: NativeKernels, rows: int, inputs: int, outputs: int, with_bias: bool
) -> None:
    weight, hidden = torch.randn(outputs, inputs).bfloat16(), torch.randn(rows, inputs).bfloat16()
    bias = torch.randn(outputs).bfloat16() if with_bias else None
    linear = multiplying.make_linear(weight, bias)
    assert linear is not None
    exact = functional.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
    torch.testing.assert_close(linear(hidden).float(), exact, rtol=BF16_ULP, atol=1e-4)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 17, 40])
def test_a_gated_linear_equals_the_product_and_the_gate_after_it(
    multiplying: NativeKernels, rows: int, with_bias: bool
) -> None:
    weight, hidden = torch.randn(2 * 112, 96).bfloat16() / 8, torch.randn(rows, 96).bfloat16()
    bias = torch.randn(2 * 112).bfloat16() if with_bias else None
    plain, gated = multiplying.make_linear(weight, bias), multiplying.make_linear(weight, bias, is_gated=True)
    assert plain is not None
    assert gated is not None
    assert_near(gated(hidden), multiplying.silu_mul(plain(hidden)))


def test_a_gated_linear_of_extreme_gates_is_their_limit(multiplying: NativeKernels) -> None:
    gates = torch.tensor([[-3e38, -200.0, -90.0, 0.0, 90.0, 3e38, torch.nan]]).bfloat16()
    hidden = functional.pad(gates.T, (0, 31))
    weight = torch.zeros(32, 32, dtype=torch.bfloat16)
    weight[0, 0] = weight[16, 1] = 1
    hidden[:, 1] = 1
    gated = multiplying.make_linear(weight, None, is_gated=True)
    assert gated is not None
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 90.0, 3e38, torch.nan]).bfloat16()
    torch.testing.assert_close(gated(hidden)[:, 0], expected, equal_nan=True, rtol=0, atol=1e-30)


@pytest.fixture(params=WITH_LINEARS)
def with_bytes(request: pytest.FixtureRequest) -> NativeKernels:
    return found_for(request.param, int8_weights=True)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """To 1/127 of each output's largest weight; what lies half way may go either way."""
    scales = weight.float().abs().amax(dim=1, keepdim=True) / 127
    return torch.where(scales > 0, (weight.float() * (1 / scales)).round() * scales, 0)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 48), (576, 960), (96, 37), (32, 1), (1056, 50)])
@pytest.mark.parametrize("rows", [1, 16, 17, 33, 77, 530])
def test_a_linear_of_bytes_equals_the_product_with_rounded_weights(
    with_bytes: NativeKernels, rows: int, inputs: int, outputs: int, with_bias: bool
) -> None:
    weight, hidden = torch.randn(outputs, inputs).bfloat16(), torch.randn(rows, inputs).bfloat16()
    weight[0] = 0
    bias = torch.randn(outputs).bfloat16() if with_bias else None
    linear = with_bytes.make_linear(weight, bias)
    assert linear is not None
    exact = functional.linear(hidden.float(), rounded(weight), None if bias is None else bias.float())
    # A weight half way between two steps costs a step of that one input.
    step = float(weight.float().abs().max() / 127 * hidden.float().abs().max())
    torch.testing.assert_close(linear(hidden).float(), exact, rtol=BF16_ULP, atol=2 * step)
    near = (linear(hidden).float() - exact).abs() <= exact.abs() * BF16_ULP + 1e-3
    assert near.float().mean() > 0.97


@pytest.mark.parametrize("rows", [1, 17, 70])
def test_a_gated_linear_of_bytes_equals_the_product_and_the_gate_after_it(
    with_bytes: NativeKernels, rows: int
) -> None:
    weight, hidden = torch.randn(2 * 112, 96).bfloat16() / 8, torch.randn(rows, 96).bfloat16()
    bias = torch.randn(2 * 112).bfloat16()
    plain, gated = with_bytes.make_linear(weight, bias), with_bytes.make_linear(weight, bias, is_gated=True)
    assert plain is not None
    assert gated is not None
    assert_near(gated(hidden), with_bytes.silu_mul(plain(hidden)))


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_spoils_its_output_and_no_other(
    with_bytes: NativeKernels, spoilt: float
) -> None:
    weight = torch.randn(48, 64).bfloat16()
    weight[5, 7] = spoilt
    linear = with_bytes.make_linear(weight, None)
    assert linear is not None
    is_number = torch.isfinite(linear(torch.randn(3, 64).bfloat16()))
    assert not is_number[:, 5].any()
    assert is_number.sum() == 3 * 47


def test_linears_that_torch_does_as_well_are_left_to_it(kernels: NativeKernels) -> None:
    assert kernels.make_linear(torch.randn(64, 64), None) is None
    assert kernels.make_linear(torch.randn(64, 40).bfloat16(), None) is None
    native = kernels.make_linear(torch.randn(64, 64).bfloat16(), None)
    assert (native is not None) == (kernels.isa in WITH_LINEARS)


def test_linears_and_the_products_of_torch_do_not_disturb_each_other(multiplying: NativeKernels) -> None:
    weight, hidden = torch.randn(576, 576).bfloat16(), torch.randn(40, 576).bfloat16()
    linear = multiplying.make_linear(weight, None)
    assert linear is not None
    expected, theirs = linear(hidden), functional.linear(hidden, weight)
    for rows in (1, 17, 40, 5):
        assert torch.equal(linear(hidden[:rows]), expected[:rows])
        assert torch.equal(functional.linear(hidden, weight), theirs)


def test_kernels_give_the_same_on_any_number_of_threads(kernels: NativeKernels) -> None:
    gate_up = torch.randn(64, 2048)
    expected = kernels.silu_mul(gate_up)
    found: list[torch.Tensor] = []

    def work(num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        found.append(kernels.silu_mul(gate_up))

    before = torch.get_num_threads()
    for num_threads in (1, 2, 3):
        thread = threading.Thread(target=work, args=(num_threads,))
        thread.start()
        thread.join()
    torch.set_num_threads(before)
    assert all(torch.equal(out, expected) for out in found)


def test_the_best_instruction_set_is_chosen_unless_one_is_named() -> None:
    best = load_native()
    if best is None:
        pytest.skip("no native kernels here")
    supported = [isa for isa in ISAS if load_native(isa) is not None]
    assert best.isa == supported[-1]
    assert supported[0] == "portable"
    assert best.describe() == f"native {best.isa} kernels"


def test_without_the_compiled_file_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library_path", lambda: None)
    monkeypatch.setattr(kernels_module, "open_library", library.open_library.__wrapped__)
    assert load_native() is None
