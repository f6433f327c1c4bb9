"""Products by either library: one another's numbers, and a row's own bits."""

from __future__ import annotations

import pytest
import torch

from upslope.models import products

INTEL, OTHER = "vendor_id : GenuineIntel", "vendor_id : AuthenticAMD"


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(33, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(24, 40, generator=torch.Generator().manual_seed(1))


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_every_form_is_the_product(library: str, x: torch.Tensor, matrix: torch.Tensor) -> None:
    want, bias = x.double() @ matrix.double(), torch.arange(40.0)
    assert products.by_onednn(x, matrix) == (library == "onednn")
    for laid in (matrix, matrix.t().contiguous().t()):
        close(products.product(x, laid), want)
        close(products.linear(x, laid.t(), bias), want + bias)
        close(products.decoded(x, laid), want)
        close(products.decoded(x, laid, bias), want + bias)
        for add in (products.add_product, products.add_decoded):
            into = torch.ones(33, 40)
            assert add(into, x, laid) is into
            close(into, want + 1)
    close(products.product(x.t(), want.float()), x.double().t() @ want)  # a weight's gradient


def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(
    x: torch.Tensor, matrix: torch.Tensor
) -> None:
    """As this processor is served."""
    whole = products.decoded(x, matrix)
    for n in (2, 3, 8, 17, 32):
        assert torch.equal(products.decoded(x[:n], matrix), whole[:n])
        assert torch.equal(products.decoded(x[1 : 1 + n], matrix), whole[1 : 1 + n])


def test_what_torch_does_itself_stays_torchs(
    library: str, x: torch.Tensor, matrix: torch.Tensor
) -> None:
    if library == "torch":
        return
    with products.alike():
        assert not products.by_onednn(x, matrix)
        assert torch.equal(products.product(x, matrix), x @ matrix)
    assert products.by_onednn(x, matrix)
    half, wide = x.bfloat16(), matrix.bfloat16()
    assert torch.equal(products.product(half, wide), half @ wide)
    assert torch.equal(products.product(x[:1], matrix), x[:1] @ matrix)


def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = products.foreign.__wrapped__
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_about", lambda: "vendor_id : AuthenticAMD")
    assert chosen() == products.there()
    monkeypatch.setattr(products, "_about", lambda: "vendor_id : GenuineIntel")
    assert not chosen()
    monkeypatch.setattr(products, "_about", lambda: "Apple M4")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not chosen()


def test_without_onednn_everything_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> torch.Tensor:
        raise AttributeError("no operator named _linear_pointwise")

    monkeypatch.setattr(products, "_one_dnn", gone)
    assert not products.there()


def test_there_are_few_sizes_and_none_is_much_more_than_asked_for() -> None:
    made = [products.grid(n) for n in range(1, 2**15 + 1)]
    assert all(n <= size < n * 9 / 8 + 8 for n, size in enumerate(made, 1))
    assert len(set(made)) <= 8 * 9 + 8
    assert [products.grid(n) for n in (1, 8, 9, 64, 65, 127, 129, 1000)] == [
        8, 8, 16, 64, 72, 128, 144, 1024,
    ]  # fmt: skip
    assert [products.grid(size) for size in made] == made
