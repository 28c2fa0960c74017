"""Triton kernels behind `lib.ops.gpu`: a register tile over two free indices, a loop over the summed or maximised one.

Each program owns what it writes, or adds integers to it, so two runs agree bit for bit. Each step of the loop loads
one short contiguous vector per side and updates the tile by their outer difference; `gpu_layout.py` lays the operands
out for that and pads them with zeros to whole tiles, so that every load and store is in range and vectorised. Base
pointers advance row by row and tile offsets are int64: tensors may have more than 2^31 elements.
"""

import triton
import triton.language as tl

from lib.ops.kernels.gpu_powers import NAN, power, signed_power

# Steps that share their addresses and the test for the end, and whose loads wait together; for boxes registers are few.
UNROLL, BOX_UNROLL = tl.constexpr(4), tl.constexpr(2)


@triton.jit
def _tile(rows, cols, slices, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Row and column indices of this program's tile and its offsets; neighbouring programs share their columns.

    The rows are those of all slices, each of which has so many columns; a tile has both from the same slice.
    """
    tiles = rows // ROWS
    tile = tl.program_id(0) % tiles
    row = tile * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) // tiles * COLS + tl.arange(0, COLS)
    return row, tile // (tiles // slices) * cols + col, row.to(tl.int64)[:, None] * cols + col[None, :]


@triton.jit
def _these(total, EACH: tl.constexpr):
    """Which of so many things, counted row by row, are this program's, and whether they exist."""
    n = tl.program_id(0).to(tl.int64) * EACH + tl.arange(0, EACH)
    return n, n < total


@triton.jit
def _features(I, wanted):
    """All features, or none of them where this program's tile is not wanted; without `wanted` every tile is."""
    return I if wanted is None else I * tl.load(wanted + tl.program_id(0))


@triton.jit
def peaks(
    x_t, w_t, wanted, y, span, B, O, I, slices, WITH_SPAN: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """y[s, b, o] = max_i |x_t[i, s, b] - w_t[i, s, o]|; on request, where the SPAN inputs start that first attain it.

    y comes as zeros, which stay where a tile is not wanted.
    """
    b, o, place = _tile(B, O, slices, ROWS, COLS)
    features = _features(I, wanted)
    # Loaded rather than made here: the tile then takes the layout of memory, four columns to a thread.
    best = tl.load(y + place)
    last = tl.zeros([ROWS, COLS], tl.int32)
    for start in range(0, features, SPAN):
        before = best
        for _ in tl.range(start, tl.minimum(start + SPAN, features), loop_unroll_factor=UNROLL):
            distance = tl.abs(tl.load(x_t + b)[:, None] - tl.load(w_t + o)[None, :])
            best = tl.maximum(best, distance, propagate_nan=NAN)
            x_t += B
            w_t += O * slices
        if WITH_SPAN:
            # Compared as bits, so that the first NaN counts as a change and later ones do not.
            changed = best.to(tl.int32, bitcast=True) != before.to(tl.int32, bitcast=True)
            last = tl.where(changed, start, last)
    tl.store(y + place, best)
    if WITH_SPAN:
        tl.store(span + place, last)


@triton.jit
def first_in_span(x, w, y, span, pairs, O, I, SPAN: tl.constexpr, PAIRS: tl.constexpr):
    """span[b, o] becomes the first of its SPAN inputs i with |x[b, i] - w[o, i]| = y[b, o], or NaN."""
    n, inside = _these(pairs, PAIRS)
    largest, start = tl.load(y + n, inside, 0.0), tl.load(span + n, inside, 0)
    # told, so that neighbours are loaded together
    i = tl.multiple_of(start, SPAN)[:, None] + tl.arange(0, SPAN)[None, :]
    there = inside[:, None] & (i < I)
    t = tl.load(x + (n // O * I)[:, None] + i, there, 0.0) - tl.load(w + (n % O * I)[:, None] + i, there, 0.0)
    found = there & ((tl.abs(t) == largest[:, None]) | (t != t))
    tl.store(span + n, tl.min(tl.where(found, i, start[:, None] + SPAN), 1), inside)


@triton.jit
def _compensated(whole, part):
    """whole + part as rounded, and what rounding took from it (Kahan's summation), nothing where the sum overflows."""
    longer = whole + part
    return longer, tl.where(tl.abs(longer) < float("inf"), part - (longer - whole), 0.0)


@triton.jit
def power_sums(
    x_t, w_t, factor, scale, wanted, total, B, O, I, slices, p, fit, natural_p: tl.constexpr, squarings: tl.constexpr,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """total[s, b, o] = sum_i (|f x_t[i, s, b] - f w_t[i, s, o]| scale[s, b, o])^p, by chunks; what rounding loses joins
    the next.

    f is the number at `factor`, a power of two. No scale counts as 1. The total comes as zeros, which stay where a tile
    is not wanted.
    """
    b, o, place = _tile(B, O, slices, ROWS, COLS)
    features, f = _features(I, wanted), tl.load(factor)
    # One tile is loaded, for the layout of `peaks`; two would not leave registers enough.
    if scale is None:
        whole = tl.load(total + place)
    else:
        unit = tl.load(scale + place)
        whole = tl.zeros([ROWS, COLS], tl.float32)
    part = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, features, CHUNK):
        for _ in tl.range(start, tl.minimum(start + CHUNK, features), loop_unroll_factor=UNROLL):
            difference = (f * tl.load(x_t + b))[:, None] - (f * tl.load(w_t + o))[None, :]
            part += power(difference if scale is None else difference * unit, p, fit, natural_p, squarings)
            x_t += B
            w_t += O * slices
        whole, part = _compensated(whole, part)
    tl.store(total + place, whole)


@triton.jit
def gradient_sums(
    x, w, grad, scale, parts_x, grad_w, B, O, I, p, fit, natural_p: tl.constexpr, squarings: tl.constexpr,
    NEED_X: tl.constexpr, NEED_W: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """u[b, o, i] = grad[b, o] sign(r) |r|^(p - 1), r = (x[b, i] - w[o, i]) scale[b, o], summed both ways at once.

    grad_w[o, i] -= sum_b u, and for each tile n of ROWS outputs parts_x[n, b, i] = sum of u over the tile. A thread
    holds all rows of four columns where a warp has 128, so that neither sum crosses threads, and no sum crosses warps.
    The sum over samples lives in memory, where chunks of them are added as in `power_sums`: one tile less in registers.
    """
    tile, col = tl.program_id(0) // (I // COLS), tl.program_id(0) % (I // COLS)
    o, i = tile * ROWS + tl.arange(0, ROWS), col * COLS + tl.arange(0, COLS)
    place = o.to(tl.int64)[:, None] * I + i[None, :]
    here = tl.load(w + place)
    part = tl.zeros([ROWS, COLS], tl.float32)
    parts_x += tile.to(tl.int64) * B * I
    for start in range(0, B, CHUNK):
        for _ in range(start, tl.minimum(start + CHUNK, B)):
            ratio = (tl.load(x + i)[None, :] - here) * tl.load(scale + o)[:, None]
            pull = tl.load(grad + o)[:, None] * signed_power(ratio, p, fit, natural_p, squarings)
            if NEED_W:
                part -= pull
            if NEED_X:
                tl.store(parts_x + i, tl.sum(pull, 0))
            x += I
            grad += O
            scale += O
            parts_x += I
        if NEED_W:
            whole, part = _compensated(tl.load(grad_w + place), part)
            tl.store(grad_w + place, whole)


@triton.jit
def scatter_sums(
    pull, index, unit_x, unit_w, sums_x, sums_w, O, K, pulls, I, NEED_X: tl.constexpr, NEED_W: tl.constexpr,
    MARK: tl.constexpr, LOST: tl.constexpr, PULLS: tl.constexpr,
):  # fmt: skip
    """sums_x[b, i] += unit_x[b] pull[b, o, k] and sums_w[o, i] -= unit_w[o] pull[b, o, k], i = index[b, o, k], as
    integers.

    Where the pull is not finite they become LOST. Two launches: one that adds, and one to MARK what is lost, so that no
    sum is built upon a mark.
    """
    n, inside = _these(pulls, PULLS)
    here = tl.load(pull + n, inside, 0.0)
    i = tl.load(index + n, inside, 0)
    b, o = n // (O * K), n // K % O
    finite = tl.abs(here) < float("inf")
    here = tl.where(finite, here, 0.0)
    if NEED_X:
        _scatter(sums_x + b * I + i, here, unit_x + b, inside, finite, MARK, LOST)
    if NEED_W:
        _scatter(sums_w + o * I + i, -here, unit_w + o, inside, finite, MARK, LOST)


@triton.jit
def _scatter(place, pull, unit, inside, finite, MARK: tl.constexpr, LOST: tl.constexpr):
    if MARK:
        tl.store(place, tl.full(pull.shape, LOST, tl.int64), inside & ~finite)
    else:
        amount = tl.floor(pull.to(tl.float64) * tl.load(unit, inside, 0.0) + 0.5).to(tl.int64)
        tl.atomic_add(place, amount, inside & finite, sem="relaxed")


@triton.jit
def rounded_sums(sums, inverse, rounded, entries, I, LOST: tl.constexpr, ENTRIES: tl.constexpr):
    """rounded[r, i] = sums[r, i] inverse[r], or NaN where the sum is LOST."""
    n, inside = _these(entries, ENTRIES)
    here = tl.load(sums + n, inside, 0)
    value = (here.to(tl.float64) * tl.load(inverse + n // I, inside, 0.0)).to(tl.float32)
    tl.store(rounded + n, tl.where(here == LOST, float("nan"), value), inside)


@triton.jit
def box_peaks(l_t, u_t, w_t, lower, upper, B, O, I, slices, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Least and greatest p = inf distance from w over the box [l, u], slice by slice; both come as zeros."""
    b, o, place = _tile(B, O, slices, ROWS, COLS)
    least = tl.load(lower + place)
    greatest = tl.load(upper + place)
    for _ in tl.range(0, I, loop_unroll_factor=BOX_UNROLL):
        w = tl.load(w_t + o)[None, :]
        from_low = tl.load(l_t + b)[:, None] - w
        from_high = tl.load(u_t + b)[:, None] - w
        gap = tl.maximum(from_low, -from_high, propagate_nan=NAN)
        reach = tl.maximum(tl.abs(from_low), tl.abs(from_high), propagate_nan=NAN)
        least = tl.maximum(least, gap, propagate_nan=NAN)
        greatest = tl.maximum(greatest, reach, propagate_nan=NAN)
        l_t += B
        u_t += B
        w_t += O * slices
    tl.store(lower + place, least)
    tl.store(upper + place, greatest)


@triton.jit
def largest(
    low_t, high_t, w_t, values, places, B, O, I, LEAST: tl.constexpr, POINT: tl.constexpr, WITH_PLACES: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """values[k, b, o]: the k-th largest distance from w, at its least or its greatest over the box, or of the point
    that the box is; on request also places[b, o, k], its input. I is at least COUNT."""
    b, o, place = _tile(B, O, 1, ROWS, COLS)
    best = (tl.full([ROWS, COLS], -1.0, tl.float32),) * COUNT  # less than any distance
    found = (tl.zeros([ROWS, COLS], tl.int32),) * (COUNT if WITH_PLACES else 1)
    for i in range(I):
        w = tl.load(w_t + o)[None, :]
        from_low = tl.load(low_t + b)[:, None] - w
        t = tl.abs(from_low) if POINT else _from_box(from_low, tl.load(high_t + b)[:, None] - w, LEAST)
        if WITH_PLACES:
            found = _places_with(found, best, t, i)
        best = _with(best, t)
        low_t += B
        high_t += B
        w_t += O
    for k in tl.static_range(COUNT):
        tl.store(values + place, best[k])
        values += B.to(tl.int64) * O
        if WITH_PLACES:
            tl.store(places + place * COUNT + k, found[k])


@triton.jit
def _from_box(from_low, from_high, LEAST: tl.constexpr):
    if LEAST:
        t = tl.maximum(tl.maximum(from_low, -from_high, propagate_nan=NAN), 0.0, propagate_nan=NAN)
    else:
        t = tl.maximum(tl.abs(from_low), tl.abs(from_high), propagate_nan=NAN)
    return t


@triton.jit
def _with(best, t):
    """A falling list with t at its place in it, and without its last entry; NaN stays in all of them."""
    longer = (tl.maximum(best[0], t, propagate_nan=NAN),)
    for k in tl.static_range(1, len(best)):
        longer += (tl.maximum(best[k], tl.minimum(best[k - 1], t, propagate_nan=NAN), propagate_nan=NAN),)  # type: ignore[assignment]
    return longer


@triton.jit
def _places_with(places, best, t, i):
    """Those of the entries of `_with(best, t)`, for t at input i: behind all that are as large."""
    moved = (tl.where(t > best[0], i, places[0]),)
    for k in tl.static_range(1, len(best)):
        moved += (tl.where(t > best[k - 1], places[k - 1], tl.where(t > best[k], i, places[k])),)  # type: ignore[assignment]
    return moved
