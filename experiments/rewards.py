"""A graded reward for the embedded task."""

import re


def near(completion: str, answer: int) -> float:
    """1 for the right sum, 0.1 less for each unit that the last number is away, 0 from ten on and without a number."""
    numbers = re.findall(r"\d+", completion)
    return max(0.0, 1.0 - abs(int(numbers[-1][:9]) - int(answer)) / 10.0) if numbers else 0.0
