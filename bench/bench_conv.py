"""Convolution and its gradients on layers of real networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from measure import Run, parametrize
from peers import CONVOLUTION
from workloads import CONVOLUTIONS, PROBLEMS, convolve, expected, for_loops, operands

import fastconv as fc
from fastconv.problem import ConvProblem

PEERS = {peer.name: peer for peer in CONVOLUTION}


def problem_of(direction: str, workload: str) -> ConvProblem:
    return replace(PROBLEMS[workload], direction=direction)


def plan(problem: ConvProblem, method: str) -> fc.Plan:
    return fc.plan_conv2d(
        problem.x_shape, problem.w_shape, direction=problem.direction, stride=problem.stride, padding=problem.padding,
        dilation=problem.dilation, groups=problem.groups, method=method,
    )  # fmt: skip


def rows(direction: str) -> Iterator[tuple[str, str]]:
    """Every method and library that serves, for each workload."""
    for workload in CONVOLUTIONS[direction]:
        problem = problem_of(direction, workload)
        for method in ("auto", *fc.METHODS):
            try:
                plan(problem, method)
            except fc.UnsupportedError:
                continue
            yield workload, method
        for peer in CONVOLUTION:
            if peer.serves(problem):
                yield workload, peer.name


def prepare(direction: str, workload: str, row: str, workers: int) -> Run:
    problem = problem_of(direction, workload)
    peer = PEERS.get(row)
    if peer is not None:
        pytest.importorskip(peer.module, reason=f"{peer.module} is not installed")
        part = peer.cut(problem, peer.limit)
        call, kind, details = peer.prepare(part, *operands(part), workers), peer.kind, {}
    else:
        kind = "naive" if row == "naive" else "fastconv"
        part = for_loops(problem) if row == "naive" else problem
        a, b = operands(part)
        call, details = (lambda: convolve(part, a, b, row, workers)), {"plan": plan(part, row)}
    return Run(
        call, expected(part), problem.flops, scale=problem.flops / part.flops, kind=kind,
        details=details | {"problem": problem.text, "timed": part.text},
    )  # fmt: skip


@parametrize(rows("forward"))
def test_forward(timed, workers, workload, row):
    timed("forward", workload, row, prepare("forward", workload, row, workers))


@parametrize(rows("input_grad"))
def test_input_gradient(timed, workers, workload, row):
    timed("input gradient", workload, row, prepare("input_grad", workload, row, workers))


@parametrize(rows("weight_grad"))
def test_weight_gradient(timed, workers, workload, row):
    timed("weight gradient", workload, row, prepare("weight_grad", workload, row, workers))
