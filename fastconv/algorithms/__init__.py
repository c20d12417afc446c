"""The algorithms, one module each; the planner chooses among them.

A module, or one object for each variant of a method in a module, has

    NAME                 the public method name
    SCOPE, ELEMENTWISE   what ``error_bound`` mixes ("window" or "tile"), and whether it holds element by element
    why_not(problem)     None, or the reason why it can't serve
    variant(problem)     which form of it, for people
    cost(problem, isa)   a Cost: flops, bytes moved, scratch
    error_bound(problem) e of the contract
    prepare(problem, isa)    tables that every run of a plan shares
    pack(plan, w)        weights in the order the kernels read them
    run(plan, a, b, bias, out, workers)
                         forward: a = x, b = w; input_grad: a = dy, b = w; weight_grad: a = x, b = dy. ``w`` may
                         be what ``pack`` gave. Arrays are checked, of the problem's compute dtype, aligned, of any
                         strides, in the order N, C, H, W, not empty; ``bias`` is contiguous, empty for none. True
                         where it saw that all of the result is finite: nobody looks again then.

and may have

    ON_REQUEST           true: serves only where max_error is given and admits it

if it converts in passing, so that no operand has to be copied in the problem's compute dtype,

    reads(problem)       names of further dtypes that the first operand may have
    writes(problem)      names of further dtypes that ``out`` may have

where kernels are taken by their factors (fastconv.factors),

    pack_factors(plan, w, found)    as ``pack``, of factors that were found before

and, where SCOPE is "tile" (fastconv.repair),

    tile_extents(problem)    rows and columns of the largest tile of the result
    tiles(plan)              two lists of slices with start, stop and step: each pair, rows and columns, is what of a
                             plane of the result is computed together

Of several with one name the first is the default variant. An algorithm does not know another one. Registering one is
one line here; the last entry accepts every problem.
"""

from fastconv.algorithms import direct, fft, gemm, im2col, naive, separable, winograd

__all__ = ["ALGORITHMS"]

ALGORITHMS = (
    separable, winograd.F4, winograd.F2, winograd.F6, winograd.DEPTH4, winograd.DEPTH3, gemm, im2col, direct, fft,
    naive,
)  # fmt: skip
