"""What calls of several workers took, as one evaluator would count it."""

from __future__ import annotations

from gfo.core.protocols import Cost
from gfo.evaluation.store import Store
from gfo.evaluation.worker import Counted, Laid


class Ledger:
    """Counts the tokens of one evaluator: a batch is laid out once, though each worker does it for itself.

    So the history, and where a budget of tokens ends, do not depend on who did what.

    Args:
        store_bytes: what an evaluator keeps at most.
    """

    def __init__(self, store_bytes: int) -> None:
        self._store: Store[Laid] = Store(store_bytes)

    def cost(self, counted: Counted, plain: Cost) -> Cost:
        """The cost of a call, whose own evaluator counted it as `plain`."""
        from gfo.evaluation.shape import Meter  # which needs torch, as what is counted did

        computed, needed = counted.computed, counted.needed
        for laid in counted.laid:
            new = laid.key not in self._store
            self._store.find(laid.key, lambda laid=laid: laid, recurs=laid.recurs)  # type: ignore[misc]
            computed += new * laid.computed
            needed += new * laid.needed
        cost = Meter(counted.layers, computed, needed).cost(plain.candidates, 0.0)
        return Cost(cost.candidates, cost.forward_tokens, cost.tokens_needed, plain.seconds)
