"""How fast an engine is, learnt from what it tells of itself as it runs.

A step of continuous batching takes about

    seconds = base + decode · requests + prefill · prompt tokens

An engine reports counters (steps taken, tokens prefilled, tokens decoded) and the times in which it worked.
Between two reports these give one equation; the three coefficients follow by recursive least squares with
forgetting (Ljung,
*System Identification*, 1999, section 11.2), so that they follow an engine whose load or clock changes.
"""

from dataclasses import dataclass, replace

FORGETTING = 0.98
"""Weight of everything learnt so far, at each new report."""
UNCERTAINTY = 1e6
MIN_STEP_S = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePace:
    """Seconds of work. The defaults are for an engine that was not measured yet."""

    base_s: float = 0.015
    """One step, whatever is in it."""
    decode_s: float = 0.0005
    """Each request that decodes in it."""
    prefill_s: float = 0.0005
    """Each prompt token that is computed in it."""

    def step_s(self, batch: int) -> float:
        """A step in which `batch` requests decode."""
        return self.base_s + self.decode_s * batch

    def fill_s(self, num_tokens: int) -> float:
        """Computing a prompt."""
        return self.prefill_s * num_tokens

    def batch_within(self, target_s: float, most: int) -> int:
        """The largest batch whose decode step stays within `target_s`; at least 1."""
        if self.step_s(most) <= target_s:
            return most
        return max(1, min(most, int((target_s - self.base_s) / max(self.decode_s, MIN_STEP_S))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an engine did in some span of time in which it was never idle."""

    busy_s: float
    num_steps: int
    num_prefilled_tokens: int
    num_decoded_tokens: int


class PaceEstimate:
    """Learns one engine's pace."""

    def __init__(self, prior: EnginePace | None = None) -> None:
        self.pace = prior or EnginePace()
        self.num_reports = 0
        first = 1.0 / UNCERTAINTY
        self._information = [[0.0] * 3 for _ in range(3)]
        for i in range(3):
            self._information[i][i] = first
        start = (self.pace.base_s, self.pace.decode_s, self.pace.prefill_s)
        self._moment = [first * value for value in start]

    def observe(self, work: Work) -> None:
        """Learn from one span of work."""
        if work.num_steps < 1 or work.busy_s <= 0:
            return
        row = (float(work.num_steps), float(work.num_decoded_tokens), float(work.num_prefilled_tokens))
        weight = 1.0 / work.num_steps
        for i in range(3):
            self._moment[i] = FORGETTING * self._moment[i] + weight * row[i] * work.busy_s
            for j in range(3):
                self._information[i][j] = FORGETTING * self._information[i][j] + weight * row[i] * row[j]
        self.num_reports += 1
        self.pace = self._solve()

    def _solve(self) -> EnginePace:
        """The least-squares pace in which nothing takes less than no time: what would be negative is left
        out.
        """
        free = [0, 1, 2]
        while free:
            values = _solve_linear(
                [[self._information[i][j] for j in free] for i in free], [self._moment[i] for i in free]
            )
            lowest = min(range(len(free)), key=values.__getitem__)
            if values[lowest] >= 0:
                found = dict(zip(free, values, strict=True))
                return replace(
                    self.pace,
                    base_s=found.get(0, 0.0),
                    decode_s=found.get(1, 0.0),
                    prefill_s=found.get(2, 0.0),
                )
            free.pop(lowest)
        return self.pace


def _solve_linear(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss elimination with pivoting for a small, well-conditioned system; a column without a pivot counts
    as 0.
    """
    n = len(right)
    rows = [[*matrix[i], right[i]] for i in range(n)]
    for column in range(n):
        pivot = max(range(column, n), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if abs(rows[column][column]) < 1e-15:
            rows[column][column] = 1.0
            rows[column][n] = 0.0
        for i in range(n):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]
