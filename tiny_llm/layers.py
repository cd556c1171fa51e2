"""CHAPTER 4. The layers, as pairs: a forward, and under it the backward that carries slopes back.

The forward computes a value. The backward is given `d` + the name of that value, the slope of the
loss with respect to each of its numbers, and returns the slopes with respect to what the forward
was given. That is the chain rule (Rumelhart, Hinton and Williams, 1986), one layer at a time, in
the opposite direction. Where a value is used twice, its slopes add up.

The dimension key of the whole project:

    B  sequences in a batch          D  width of the model        V  vocabulary size
    T  positions in one sequence     F  feed-forward width        H  attention heads
    N  rows: positions of all sequences, one after the other      I, O  width in, width out
    C  context length (rung 1: E embedding width, U hidden units)    Q, K  queries and keys

Nothing here keeps state or changes what it is given. Rung 1 needs the first part; read the parts of
rungs 2 and 3 when you come to them.
"""

import math
from collections.abc import Sequence
from operator import add
from typing import Any, Callable, NamedTuple

from tiny_llm.matmul import Matrix, Vector, dot, matmul, matmul_at, matmul_bt, transpose

# ---------------------------------------------------------------- rung 1: a neural language model


def embedding(ids: Sequence[int], table: Matrix) -> Matrix:
    """Each token's own row of the table: N ids, V x D -> N x D (the very rows, no copies)."""
    return [table[token] for token in ids]


def embedding_backward(dout: Matrix, ids: Sequence[int], rows: int) -> Matrix:
    """N x D, N ids -> dtable, `rows` x D. A token that occurs twice gathers both slopes."""
    dtable = [[0.0] * len(dout[0]) for _ in range(rows)]
    for token, drow in zip(ids, dout):
        dtable[token] = list(map(add, dtable[token], drow))
    return dtable


def linear(x: Matrix, weight: Matrix, bias: Vector) -> Matrix:
    """y = x W + b: N x I, I x O, O -> N x O."""
    return [list(map(add, row, bias)) for row in matmul(x, weight)]


def linear_backward(dy: Matrix, x: Matrix, weight: Matrix) -> tuple[Matrix, Matrix, Vector]:
    """N x O -> dx = dy W^T (N x I), dweight = x^T dy (I x O), dbias = the rows of dy added up (O).

    y[n][o] = sum over i of x[n][i] W[i][o] + b[o], so a weight W[i][o] acts once in every row n,
    with slope x[n][i], and an input x[n][i] acts on every output o, with slope W[i][o]."""
    return matmul_bt(dy, weight), matmul_at(x, dy), list(map(sum, transpose(dy)))


def tanh(x: Matrix) -> Matrix:
    """Each number squashed into -1 .. 1: N x O -> N x O.

    Without something bent between them, two linear layers would be one: (x W) U = x (W U)."""
    return [[math.tanh(value) for value in row] for row in x]


def tanh_backward(dy: Matrix, y: Matrix) -> Matrix:
    """dx = dy (1 - y^2), from the output y = tanh(x) alone."""
    return [[d * (1 - value * value) for d, value in zip(*rows)] for rows in zip(dy, y)]


def softmax(scores: Vector) -> Vector:
    """Scores to probabilities: p[i] = exp(s[i]) / sum over j of exp(s[j]).

    Taking the highest from all scores divides numerator and denominator by the same exp(highest):
    no p changes, and no exp can overflow."""
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def cross_entropy(logits: Matrix, targets: Sequence[int]) -> tuple[float, Matrix]:
    """The loss and its slopes in one: N x V logits, N ids -> mean of -ln p[target], dlogits N x V.

    -ln p is the surprise at the target, in nats: 0 if it was certain. Softmax and cross-entropy
    share one backward, because together they are simpler: with Z = sum over j of exp(s[j]),

        loss = -ln p[target] = ln Z - s[target]        p = softmax(s)
        slope of ln Z by s[i] = exp(s[i]) / Z = p[i]   slope of s[target] = 1 at i == target
        so ds[i] = p[i] - (1 if i == target else 0),   divided by N for the mean over the rows

    Raises ValueError unless there is one target, within the vocabulary, for each row."""
    if not logits or len(targets) != len(logits):
        raise ValueError(f"{len(logits)} rows of logits need as many targets, not {len(targets)}")
    loss, dlogits = 0.0, []
    for row, target in zip(logits, targets):
        if not 0 <= target < len(row):
            raise ValueError(f"target {target} is outside the vocabulary of {len(row)} tokens")
        # softmax once more, because the loss needs ln Z, too: the p of a bad guess may round to 0
        highest = max(row)
        powers = [math.exp(score - highest) for score in row]
        total = sum(powers)
        loss += math.log(total) + highest - row[target]
        drow = [power / total / len(logits) for power in powers]
        drow[target] -= 1 / len(logits)
        dlogits.append(drow)
    return loss / len(logits), dlogits


# Try it: leave the `1 -` out of tanh_backward. Training still works, only worse, and nothing but
# `tiny-lm gradcheck` (chapter 10) tells you that slopes are wrong.

# ---------------------------------------------------------------- rung 2: attention


def softmax_backward(dp: Vector, p: Vector) -> Vector:
    """ds[i] = p[i] (dp[i] - sum over j of p[j] dp[j]).

    Raising one score raises its own p and lowers all the others: the slope of p[j] by s[i] is
    p[j] ((1 if i == j else 0) - p[i]). Added up over j, a score's slope is its p times how far its
    own dp lies above the mean dp, weighted by p."""
    mean = dot(dp, p)
    return [q * (d - mean) for d, q in zip(dp, p)]


class AttentionCache(NamedTuple):
    """What one attention head computed: its three inputs, its scores and its weights."""

    queries: Matrix  # Q x D
    keys: Matrix  # K x D
    values: Matrix  # K x D
    scores: Matrix  # Q rows, before softmax, each with as many keys as that query sees
    weights: Matrix  # Q x K, each row sums to 1; exactly 0 where a query cannot see


def attention(queries: Matrix, keys: Matrix, values: Matrix) -> tuple[Matrix, AttentionCache]:
    """Each query's mixture of the values it may see: Q x D, K x D, K x D -> Q x D, cache.

        scores = q k^T / sqrt(D)     weights = softmax(scores)     out = weights v

    The Q queries belong to the last of the K positions, and each sees its own position and what
    came before it (it is causal). Rung 2 asks from the last position alone, rung 3 from each.

    Why sqrt(D): a dot product of two vectors of D independent numbers of mean 0 and variance 1 has
    mean 0 and variance D. Divided, its deviation is 1 whatever the width, so softmax does not
    freeze on one key, where its slope would vanish (scaled dot-product attention: Vaswani et al.,
    2017). D is the width of what is given: in rung 3, that of one head."""
    scale = 1 / math.sqrt(len(queries[0]))
    unseen = len(queries) - 1  # keys that come after the first query's position
    scores, weights = [], []
    for i, row in enumerate(matmul_bt(queries, keys)):
        # This bound is the causal mask. Books that compute all scores at once set those beyond it
        # to -infinity instead, whose exp is 0: the same weights.
        seen = len(keys) - unseen + i
        scores.append([score * scale for score in row[:seen]])
        weights.append(softmax(scores[-1]) + [0.0] * (len(keys) - seen))
    out = matmul(weights, values)  # Q x D
    return out, AttentionCache(queries, keys, values, scores, weights)


def attention_backward(dout: Matrix, cache: AttentionCache) -> tuple[Matrix, Matrix, Matrix]:
    """Q x D -> dqueries (Q x D), dkeys, dvalues (K x D): the same steps in reverse.

    out = weights v:               dweights = dout v^T,    dv = weights^T dout
    weights = softmax(scores):     a weight of 0 (a key that was not seen) lets no slope through
    scores = q k^T / sqrt(D):      dq = dscores k / sqrt(D),    dk = dscores^T q / sqrt(D)

    Each row of dscores adds up to 0, so a bias that all keys share has a slope of 0: it moves all
    scores of a query alike, and softmax does not see that."""
    scale = 1 / math.sqrt(len(cache.queries[0]))
    dweights = matmul_bt(dout, cache.values)  # Q x K
    dvalues = matmul_at(cache.weights, dout)  # K x D
    dscores = [softmax_backward(*rows) for rows in zip(dweights, cache.weights)]  # Q x K
    dscores = [[slope * scale for slope in row] for row in dscores]
    return matmul(dscores, cache.keys), matmul_at(dscores, cache.queries), dvalues


def add_rows(x: Matrix, y: Matrix) -> Matrix:
    """x + y, number by number: both N x D. A residual connection, if y is what a layer makes of x.

    Its backward hands the same slope to both. So a slope reaches the bottom of a deep stack
    undiminished along the x of every sum, where a chain of layers alone would multiply it by one
    factor a layer, and soon to nothing (He et al., 2016)."""
    return [list(map(add, *rows)) for rows in zip(x, y)]


def split_rows(x: Matrix, lengths: Sequence[int]) -> list[Matrix]:
    """The rows of each sequence: N x D, B lengths that add up to N -> B matrices of T x D."""
    pieces, start = [], 0
    for length in lengths:
        pieces.append(x[start : start + length])
        start += length
    return pieces


# ---------------------------------------------------------------- rung 3: the modern block

LAYER_NORM_EPSILON = 1e-5  # GPT-2's; keeps a constant row from a division by zero
LayerNormCache = list[tuple[Vector, float]]  # N times: the normalized row, and 1 / deviation


def layer_norm(x: Matrix, gain: Vector, bias: Vector) -> tuple[Matrix, LayerNormCache]:
    """Each row to mean 0 and variance 1, then a learned gain and bias: N x D -> N x D, cache.

    y = (x - mean) / sqrt(variance + epsilon) * gain + bias, so that each layer finds its input at
    the same scale however deep it stands (Ba, Kiros and Hinton, 2016)."""
    y, cache = [], []
    for row in x:
        mean = sum(row) / len(row)
        centred = [value - mean for value in row]
        variance = dot(centred, centred) / len(row)
        inverse = 1 / math.sqrt(variance + LAYER_NORM_EPSILON)
        unit = [value * inverse for value in centred]
        y.append([value * g + b for value, g, b in zip(unit, gain, bias)])
        cache.append((unit, inverse))
    return y, cache


def layer_norm_backward(
    dy: Matrix, gain: Vector, cache: LayerNormCache
) -> tuple[Matrix, Vector, Vector]:
    """N x D -> dx (N x D), dgain (D), dbias (D).

    With n the normalized row and dn = dy * gain, three terms meet in each x:

        dx = (dn  -  mean(dn)  -  n * mean(dn * n)) / sqrt(variance + epsilon)

    The first is the direct path. The second is there because x moves the mean that all are measured
    from (slope 1 / D), the third because it moves the deviation that all are divided by (slope
    n / D)."""
    dx = []
    for drow, (unit, inverse) in zip(dy, cache):
        dn = [d * g for d, g in zip(drow, gain)]
        mean = sum(dn) / len(dn)
        along = dot(dn, unit) / len(dn)
        dx.append([(d - mean - n * along) * inverse for d, n in zip(dn, unit)])
    dy_columns, unit_columns = transpose(dy), transpose([unit for unit, _ in cache])
    return dx, list(map(dot, dy_columns, unit_columns)), list(map(sum, dy_columns))


GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu(x: Matrix) -> Matrix:
    """A smooth switch, near 0 for negative x and near x for positive x: N x F -> N x F.

    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), number by number (Hendrycks and Gimpel, 2016,
    in the tanh form that GPT-2 uses)."""
    return [
        [0.5 * v * (1 + math.tanh(GELU_SCALE * v * (1 + GELU_CUBIC * v * v))) for v in row]
        for row in x
    ]


def gelu_backward(dy: Matrix, x: Matrix) -> Matrix:
    """dx = dy (1 + t) (1 + x (1 - t) angle'(x)) / 2, t = tanh(angle(x)), whose slope is 1 - t^2."""
    dx = []
    for drow, row in zip(dy, x):
        dx_row = []
        for d, v in zip(drow, row):
            bend = GELU_CUBIC * v * v
            t = math.tanh(GELU_SCALE * v * (1 + bend))
            angle_slope = GELU_SCALE * (1 + 3 * bend)
            dx_row.append(d * 0.5 * (1 + t) * (1 + v * (1 - t) * angle_slope))
        dx.append(dx_row)
    return dx


def split_columns(x: Matrix, parts: int) -> list[Matrix]:
    """A matrix cut into `parts` equally wide ones: N x (parts W) -> parts of N x W."""
    width = len(x[0]) // parts
    return [[row[i * width : (i + 1) * width] for row in x] for i in range(parts)]


def join_columns(parts: Sequence[Matrix]) -> Matrix:
    """The inverse of split_columns, and each is the backward of the other."""
    return [[value for piece in pieces for value in piece] for pieces in zip(*parts)]


def multi_head_attention(
    qkv: Matrix, n_heads: int, lengths: Sequence[int], attend: Callable[..., Any] = attention
) -> tuple[Matrix, list[list[AttentionCache]]]:
    """Attention among the positions of each sequence: N x 3D, B lengths -> N x D, B x H caches.

    The columns of `qkv` are the queries, then the keys, then the values. Each is cut into H heads
    of D / H columns that attend on their own, so that one position can look at several others
    for different reasons (Vaswani et al., 2017); their outputs stand side by side again."""
    out: Matrix = []
    caches = []
    for rows in split_rows(qkv, lengths):  # T x 3D
        columns = split_columns(rows, 3 * n_heads)  # 3H of T x D/H
        queries, keys, values = columns[:n_heads], columns[n_heads:-n_heads], columns[-n_heads:]
        heads = list(map(attend, queries, keys, values))
        out += join_columns([head_out for head_out, _ in heads])  # T x D
        caches.append([cache for _, cache in heads])
    return out, caches


def multi_head_attention_backward(
    dout: Matrix, caches: list[list[AttentionCache]], back: Callable[..., Any] = attention_backward
) -> Matrix:
    """N x D -> dqkv, N x 3D: every head of every sequence on its own, put back in its columns."""
    dqkv: Matrix = []
    lengths = [len(heads[0].queries) for heads in caches]
    for drows, heads in zip(split_rows(dout, lengths), caches):  # T x D
        douts = split_columns(drows, len(heads))  # H of T x D/H
        dqueries, dkeys, dvalues = zip(*map(back, douts, heads))
        dqkv += join_columns([*dqueries, *dkeys, *dvalues])  # T x 3D
    return dqkv
