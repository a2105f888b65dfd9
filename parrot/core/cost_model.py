"""How fast an engine is, learnt from what it tells of itself as it runs.

A step of continuous batching takes about

    seconds = base + decode · requests + prefill · prompt tokens + kv · tokens of KV in use

An engine reports counters (steps taken, tokens prefilled, tokens decoded), its KV in use, and the times in
which it worked. KV that several requests share is in use once, and attention that knows prefixes reads it
once; so the last term says what it is worth to have those together that share.

Between two reports these give one equation; the four coefficients follow by recursive least squares with
forgetting (Ljung, *System Identification*, 1999, section 11.2), so that they follow an engine whose load or
clock changes.
"""

import math
from dataclasses import dataclass

FORGETTING = 0.98
"""Weight of everything learnt so far, at each new report."""
UNCERTAINTY = 1e6
MIN_STEP_S = 1e-7
OWN_WAY = 0.25
"""By so much an engine has to be slower or faster than those like it to have a pace of its own."""
OWN_SHARE = 0.05
"""Weight of one report in what an engine's pace is to that of those like it."""
SETTLED = 8
"""Reports after which an engine is compared with those like it."""
MOVED = 0.03
"""By how much a pace has to have moved to be told anew."""
SOLVED_EACH = 4
"""The equations of engines that are alike are solved so often while each of them reports once."""
SINGULAR = 1e-9
"""Of what a coefficient tells, the part that others do not tell; below this it is noise."""
_COEFFICIENTS = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePace:
    """Seconds of work. The defaults are for an engine that was not measured yet."""

    base_s: float = 0.015
    """One step, whatever is in it."""
    decode_s: float = 0.0005
    """Each request that decodes in it."""
    prefill_s: float = 0.0005
    """Each prompt token that is computed in it."""
    kv_s: float = 0.0
    """Each token of KV in use; what requests share counts once."""

    def step_s(self, batch: int, num_kv_tokens: float = 0.0) -> float:
        """A step in which `batch` requests decode that have so much KV together."""
        return self.base_s + self.decode_s * batch + self.kv_s * num_kv_tokens

    def fill_s(self, num_tokens: int) -> float:
        """Computing a prompt."""
        return self.prefill_s * num_tokens

    def busy_s(self, work: "Work") -> float:
        """How long so much work takes."""
        steps_s = work.num_steps * self.step_s(0, work.num_kv_tokens)
        return steps_s + self.decode_s * work.num_decoded_tokens + self.fill_s(work.num_prefilled_tokens)

    def times(self, factor: float) -> "EnginePace":
        """The pace of an engine that takes so many times as long for everything."""
        return EnginePace(
            base_s=self.base_s * factor,
            decode_s=self.decode_s * factor,
            prefill_s=self.prefill_s * factor,
            kv_s=self.kv_s * factor,
        )

    def differs(self, other: "EnginePace", *, by: float) -> bool:
        """Whether some work takes a larger share `by` more, or less, than at the other pace."""
        typical = (
            (self.step_s(1), other.step_s(1)),
            (self.step_s(32), other.step_s(32)),
            (self.step_s(32, 32_768), other.step_s(32, 32_768)),
            (self.fill_s(1024), other.fill_s(1024)),
        )
        return any(abs(mine - theirs) > by * theirs for mine, theirs in typical)

    def batch_within(self, target_s: float, most: int, num_kv_tokens: float = 0.0) -> int:
        """The largest batch with so much KV whose decode step stays within `target_s`; at least 1."""
        # `step_s` written out: this is asked whenever anything changes on an engine.
        if self.base_s + self.decode_s * most + self.kv_s * num_kv_tokens <= target_s:
            return most
        left_s = target_s - self.step_s(0, num_kv_tokens)
        return max(1, min(most, int(left_s / max(self.decode_s, MIN_STEP_S))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine did in some span of time in which it was never idle."""

    busy_s: float
    num_steps: int
    num_prefilled_tokens: int
    num_decoded_tokens: int
    num_kv_tokens: float = 0.0
    """Tokens of KV in use, on average."""


class SharedPace:
    """What engines that are alike learn together.

    Their reports are noisy, and noise must not decide which of them is the faster one. So they have one pace,
    and it is told anew only when it has moved by more than `MOVED`: for all of them at once.
    """

    def __init__(self, prior: EnginePace | None = None) -> None:
        self.pace = prior or EnginePace()
        """As last told."""
        self.version = 0
        """How often it was told anew."""
        self.num_engines = 0
        self._num_unsolved = 0
        first = 1.0 / UNCERTAINTY
        self._information = [[first if i == j else 0.0 for j in _COEFFICIENTS] for i in _COEFFICIENTS]
        """Symmetric; only what is on and above the diagonal is kept up."""
        start = (self.pace.base_s, self.pace.decode_s, self.pace.prefill_s, self.pace.kv_s)
        self._moment = [first * value for value in start]

    def observe(self, work: Work) -> None:
        """Learn from one span of work of one of them."""
        steps = float(work.num_steps)
        decoded, prefilled = float(work.num_decoded_tokens), float(work.num_prefilled_tokens)
        row = (steps, decoded, prefilled, steps * work.num_kv_tokens)
        for i in _COEFFICIENTS:
            self._moment[i] = FORGETTING * self._moment[i] + row[i] * work.busy_s / steps
            information, value = self._information[i], row[i]
            for j in range(i, len(row)):
                information[j] = FORGETTING * information[j] + value * row[j] / steps
        self._num_unsolved += 1
        if self._num_unsolved * SOLVED_EACH >= self.num_engines:
            self._num_unsolved = 0
            found = self._solve()
            if found.differs(self.pace, by=MOVED):
                self.pace = found
                self.version += 1

    def _solve(self) -> EnginePace:
        """The least-squares pace in which nothing takes less than no time: what would be negative is left
        out.
        """
        free = list(_COEFFICIENTS)
        while free:
            values = _solve_linear(
                [[self._information[min(i, j)][max(i, j)] for j in free] for i in free],
                [self._moment[i] for i in free],
            )
            lowest = min(range(len(free)), key=values.__getitem__)
            if values[lowest] >= 0:
                found = dict(zip(free, values, strict=True))
                base_s, decode_s, prefill_s, kv_s = (found.get(i, 0.0) for i in _COEFFICIENTS)
                return EnginePace(base_s=base_s, decode_s=decode_s, prefill_s=prefill_s, kv_s=kv_s)
            free.pop(lowest)
        return self.pace


class PaceEstimate:
    """One engine's pace: that of the engines like it, until it is slower or faster than they by more than
    `OWN_WAY`.
    """

    def __init__(self, shared: SharedPace | None = None) -> None:
        """`shared` is what engines like it have learnt."""
        self.shared = shared or SharedPace()
        self.shared.num_engines += 1
        self._ratio = 1.0
        self.num_reports = 0

    @property
    def pace(self) -> EnginePace:
        """What has been learnt so far."""
        if abs(self._ratio - 1.0) <= OWN_WAY:
            return self.shared.pace
        return self.shared.pace.times(self._ratio)

    def observe(self, work: Work) -> bool:
        """Learn from one span of work; whether that has changed the pace of all engines like it."""
        if work.num_steps < 1 or work.busy_s <= 0:
            return False
        expected_s = self.shared.pace.busy_s(work)
        if self.num_reports >= SETTLED and expected_s > 0:
            self._ratio += (work.busy_s / expected_s - self._ratio) * OWN_SHARE
        self.num_reports += 1
        before = self.shared.version
        self.shared.observe(work)
        return self.shared.version != before


def _solve_linear(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss-Jordan elimination for a small normal matrix, scaled to a diagonal of ones. What tells nothing
    beside the columns before it, as when one request decodes alone all the time, counts as 0.
    """
    n = len(right)
    scale = [math.sqrt(matrix[i][i]) or 1.0 for i in range(n)]
    rows = [
        [matrix[i][j] / (scale[i] * scale[j]) for j in range(n)] + [right[i] / scale[i]] for i in range(n)
    ]
    for column in range(n):
        pivot = rows[column]
        if pivot[column] < SINGULAR:
            for row in rows:
                row[column] = 0.0
            rows[column] = [float(j == column) for j in range(n)] + [0.0]
            continue
        for i in range(n):
            if i != column:
                factor = rows[i][column] / pivot[column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], pivot, strict=True)]
    return [rows[i][n] / (rows[i][i] * scale[i]) for i in range(n)]
