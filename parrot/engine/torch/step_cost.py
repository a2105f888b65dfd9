"""How long a step takes, learnt as the engine runs; needs no torch.

A step that decodes takes about

    seconds = base + decode · rows + prefill · prompt tokens

with base and decode depending on contexts and batch, so that the model has to follow them: recursive least
squares with forgetting (Ljung, *System Identification*, 1999, section 11.2), held near the last known values
where steps say nothing (all steps of a while may have the same mix).
"""

FORGETTING = 0.95
"""Weight of all that was learnt so far, at each new step."""
INERTIA = 1e-3
"""Weight of what is believed against what steps show, of the same order as one step's rounding."""
FIRST_BELIEF = (0.01, 0.0005, 0.0005)
"""Of an engine that has not run yet."""

_SWEEPS = 8
_LEAST_S = 1e-7
_TINY = 1e-9

_Row = tuple[float, float, float]


class StepCost:
    """Learns one engine's base, decode and prefill seconds."""

    def __init__(self) -> None:
        self._belief: _Row = FIRST_BELIEF
        self._information = [[0.0] * 3 for _ in range(3)]
        self._moment = [0.0] * 3
        self._has_news = False

    def observe(self, num_rows: int, num_prompt_tokens: int, spent_s: float) -> None:
        """Learn from a step in which `num_rows` requests decoded and so many prompt tokens were computed."""
        if spent_s <= 0:
            return
        row = (1.0, float(num_rows), float(num_prompt_tokens))
        # By its square, so that an error counts by its share of the step.
        weight = 1.0 / (spent_s * spent_s)
        for i in range(3):
            self._moment[i] = FORGETTING * self._moment[i] + weight * row[i] * spent_s
            for j in range(3):
                self._information[i][j] = FORGETTING * self._information[i][j] + weight * row[i] * row[j]
        self._has_news = True

    def step_s(self, num_rows: int, num_prompt_tokens: int) -> float:
        """The expected duration of a step."""
        base_s, decode_s, prefill_s = self._believe()
        return base_s + decode_s * num_rows + prefill_s * num_prompt_tokens

    def prompt_tokens_within(self, target_s: float, num_rows: int) -> int:
        """Prompt tokens that leave a step in which `num_rows` requests decode within `target_s`; below 0 when
        decoding alone takes longer.
        """
        return int((target_s - self.step_s(num_rows, 0)) / self._believe()[2])

    def _believe(self) -> _Row:
        """Gauss and Seidel's iteration from the last belief on, with nothing below a small positive time."""
        if not self._has_news:
            return self._belief
        values = list(self._belief)
        for _ in range(_SWEEPS):
            for i in range(3):
                own = self._information[i][i]
                pull = INERTIA * own + _TINY
                rest = sum(self._information[i][j] * values[j] for j in range(3) if j != i)
                found = (self._moment[i] - rest + pull * self._belief[i]) / (own + pull)
                values[i] = max(_LEAST_S, found)
        self._belief = (values[0], values[1], values[2])
        self._has_news = False
        return self._belief
