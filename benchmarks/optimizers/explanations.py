"""Why a method of ours needs more evaluations than its reference, where it does.

Only words: every figure beside them in the table is measured.
"""

from __future__ import annotations

# (method, reference) -> the reason, for the functions named, or for all
_REASONS: dict[tuple[str, str], list[tuple[tuple[str, ...], str]]] = {
    ("ga", "pymoo:GA"): [
        (
            ("rastrigin",),
            "6 points at d = 2 by default against 100, and they settle in one basin; a larger `population`, "
            "or `ipop` around it, tries more of them",
        ),
        (
            ("one-max", "mixed sphere"),
            "4 and 22 points in all at d = 2: the reference asks none twice; ours may, since losses "
            "may be noisy",
        ),
    ],
    ("openai-es", "nevergrad:OnePlusOne"): [
        (
            (),
            "sigma is fixed and a step averages over a population: slower on few smooth dimensions than an "
            "elitist that adapts its step with each point; many dimensions, ill-conditioning and noise turn "
            "the order round",
        )
    ],
}


def why(method: str, reference: str, function: str) -> str | None:
    """The reason, if one is written down."""
    for functions, reason in _REASONS.get((method, reference), []):
        if not functions or function in functions:
            return reason
    return None
