"""Scaling laws against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from upslope.scaling import forms


def test_a_sigmoid_is_half_way_at_its_midpoint() -> None:
    found = forms.sigmoid(np.array([0.0, 2.0, 6.0, 1e30]), 0.1, 0.7, 2.0, 1.5)
    # at three midpoints: 1 / (1 + 3^-1.5) = 0.8386096 of the gain
    assert found == pytest.approx([0.1, 0.4, 0.1 + 0.6 * 0.8386096, 0.7], abs=1e-6)


def test_a_sigmoid_ends_as_a_power_law() -> None:
    # R ~ A - D / C^B with D = (A - R0) C_mid^B (arXiv:2510.13786)
    far = 1e6
    gap = (0.7 - 0.1) * 2.0**1.5
    assert forms.sigmoid(far, 0.1, 0.7, 2.0, 1.5) == pytest.approx(
        forms.power(far, 0.7, gap, 1.5), abs=1e-12
    )


def test_saturating_and_straight() -> None:
    assert forms.exponential(3.0, 0.2, 0.8, 3.0) == pytest.approx(0.8 - 0.6 / np.e)
    assert forms.power(8.0, 1.0, 0.5, 1 / 3) == pytest.approx(0.75)
    assert forms.log_linear(np.e**2, 0.1, 0.2) == pytest.approx(0.5)
    assert forms.depth(3.0, 2.0, 2.0) == pytest.approx(18.0)


def test_chinchilla_at_seventy_billion() -> None:
    # 1.69 + 406.4 / 7e10^0.34 + 410.7 / 1.4e12^0.28 = 1.69 + 0.0835 + 0.1632
    found = forms.chinchilla(7e10, 1.4e12, 1.69, 406.4, 410.7, 0.34, 0.28)
    assert found == pytest.approx(1.9367, abs=2e-4)


def test_kaplan_with_endless_data_is_its_law_of_size() -> None:
    # (8.8e13 / 1e9)^0.076 = e^(11.3851 * 0.076)
    found = forms.kaplan(1e9, 1e30, 8.8e13, 5.4e13, 0.076, 0.095)
    assert found == pytest.approx(2.3757, abs=1e-3)


def test_experts_count_from_their_start_to_their_most() -> None:
    assert forms.effective_experts(1, 1.9, 314.0) == pytest.approx(1.9)
    assert forms.effective_experts(1e12, 1.9, 314.0) == pytest.approx(314.0)
    log = forms.routed(np.e**2, 1, 3.0, 5.0, 7.0, 11.0, np.e, 314.0)  # ln N = 2, ln E = 1
    assert log == pytest.approx(3 * 2 + 5 * 1 + 7 * 2 + 11)


def test_experts_that_are_one_leave_the_dense_law() -> None:
    dense = forms.chinchilla(1e8, 1e10, 0.47, 18.1 + 2.1, 30.8, 0.115, 0.147)
    assert forms.fine_grained(1e8, 1e10, 1.0, 0.47, 18.1, 30.8, 2.1, 0.115, 0.147, 0.58) == (
        pytest.approx(float(dense))
    )
    # start 1: one expert has a logarithm of 0, and no parameter of experts acts
    joint = forms.joint_experts(
        1e8, 1e10, 1, 0.47, 20.2, 30.8, -0.115, -0.147, 0.3, 0.2, 0.1, 0.4, 1.0, 300.0
    )
    assert joint == pytest.approx(float(dense))


def test_learning_efficiency_at_its_half_size() -> None:
    # slope 0.4 / 2 at the half size: 1.0 - 0.2 * ln(e^3)
    assert forms.learning_efficiency(5e8, np.e**3, 0.4, 5e8, 1.0) == pytest.approx(0.4)


def test_pass_at_k_of_a_beta() -> None:
    # E[1 - (1 - p)^k] for uniform p is 1 - 1 / (k + 1)
    assert forms.pass_at(np.array([1, 2, 9]), 1.0, 1.0) == pytest.approx([1 / 2, 2 / 3, 9 / 10])
    assert forms.pass_at(1, 2.0, 6.0) == pytest.approx(0.25)


def test_intrinsic_performance_where_both_terms_are_one() -> None:
    assert forms.intrinsic_performance(3.0, 5.0, 3.0, 5.0, 0.7, 0.2, 0.5) == pytest.approx(0.25)
