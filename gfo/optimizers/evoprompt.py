"""EvoPrompt: a genetic algorithm and differential evolution on texts, by the hand of a language model.

Guo, Wang, Guo, Li, Song, Tan, Liu, Bian and Yang (2024), Connecting Large Language Models with Evolutionary
Algorithms Yields Powerful Prompt Optimizers, ICLR, arXiv:2309.08532: algorithms 1 to 3. The words that the
model is asked with are not the paper's.

    ga: parents by roulette wheel; the model crosses two and mutates what comes of it; of parents and
        children the best N survive
    de: the model changes what differs between two random texts, puts it into the best one, and crosses that
        with each text; what comes of it replaces its parent if it is no worse

The wheel's shares are the paper's scores; of losses they are worst - loss, and a share of their range for the
worst itself. Where batches differ parents are asked again beside their children.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from gfo.core.checking import named
from gfo.core.domain import Array, Domain
from gfo.core.errors import GfoError
from gfo.optimizers.base import BaseOptimizer
from gfo.optimizers.options import mapping, one_of, option_error
from gfo.optimizers.writing import Rewrite, Writer, answer_in, text_domain

PLACES = re.compile(r"\{(first|second|best|parent)\}")
END = "Answer with the final instruction alone, between <prompt> and </prompt>."
ASKED: dict[str, str] = {
    "vary": f"Say the same thing as this instruction in other words.\n\nInstruction: {{first}}\n\n{END}",
    "cross": (
        "Here are two instructions for one task.\n\n1. {first}\n2. {second}\n\nCombine what is good in "
        f"both into one instruction, then change some of its words so that it may work better. {END}"
    ),
    "differ": (
        "Here are four instructions for one task.\n\n1. {first}\n2. {second}\n3. {best}\n4. {parent}\n\n"
        "Find the parts in which 1 and 2 differ, and change these parts. Put the changed parts into 3, "
        f"in the place of what they correspond to. Mix what comes of it with 4 into one instruction. {END}"
    ),
}
"""What the model is asked to do, by name."""


@named
class EvoPrompt(BaseOptimizer):
    """Texts crossed and mutated by a language model.

    Args:
        domain: of `gfo.Texts`.
        seed: of the method's own random generator, and of what the model draws.
        rewrite: what writes: a model of `gfo.load_model`, a `gfo.Endpoint`, or a function text -> text.
        population: N, texts that are kept, and written in a step.
        variant: "ga" or "de".
        asked: what the model is asked, in place of the default words, by "vary" (with the place {first}),
            "cross" ({first}, {second}) and "differ" ({first}, {second}, {best}, {parent}).
        max_tokens, temperature: of what the model writes.
    """

    name = "evoprompt"
    rank_based = False
    writes = True
    injects = False
    saves_state = True
    _state = ("texts", "losses", "children", "evaluated")

    def __init__(
        self,
        domain: Domain,
        seed: int,
        *,
        rewrite: Rewrite,
        population: int = 10,
        variant: str = "ga",
        asked: Mapping[str, str] | None = None,
        max_tokens: int = 256,
        temperature: float = 1.0,
    ) -> None:
        self._texts_of = text_domain(self.name, domain)
        super().__init__(domain, seed)
        self._take(population=population, least=4 if variant == "de" else 2)
        self.variant = one_of(self.name, "variant", variant, ("ga", "de"))
        self._asked_with = _templates(self.name, asked)
        self._write = Writer(self.name, rewrite, max_tokens, temperature)
        self.texts: list[str] = []  # the population, and its losses
        self.losses: list[float] = []
        self.evaluated = 0
        self.children: list[str] | None = None  # written already, to be asked next

    def _ask(self) -> Array:
        if self.children is None:
            self.children = self._born()
        again = self.texts if self.noisy else []
        return self._texts_of.points([*again, *self.children])

    def _tell(self, z: Array, loss: Array) -> None:
        loss = np.where(np.isnan(loss), np.inf, loss)
        n = len(z) - len(self.children or ())
        if n:
            self.losses = loss[:n].tolist()
        new = [self._texts_of.text(point) for point in z[n:]]
        if self.variant == "ga":
            self._keep_best(new, loss[n:].tolist())
        elif self.texts:
            self._replace_parents(new, loss[n:].tolist())
        else:
            self.texts, self.losses = new, loss.tolist()
        self.children = None
        self.evaluated += len(z)
        if self.evaluations is None or self.evaluated < self.evaluations:
            self.children = self._born()  # now, so that the state that is saved has them

    def _skip(self, z: Array) -> None:
        self.evaluated += len(z)
        self.children = None

    def _keep_best(self, texts: list[str], losses: list[float]) -> None:
        """The best N of parents and children, each text once."""
        pool = dict(zip(texts, losses, strict=True)) | dict(zip(self.texts, self.losses, strict=True))
        best = sorted(pool.items(), key=lambda item: item[1])[: self.population]
        self.texts, self.losses = [text for text, _ in best], [loss for _, loss in best]

    def _replace_parents(self, texts: list[str], losses: list[float]) -> None:
        """Each child that is no worse takes its parent's place."""
        for i, (text, loss) in enumerate(zip(texts, losses, strict=True)):
            if loss <= self.losses[i]:
                self.texts[i], self.losses[i] = text, loss

    def _born(self) -> list[str]:
        """New texts: at first those given and others in their words, then children."""
        seed = int(self.rng.integers(2**31))
        if not self.texts:
            given = [self._texts_of.fitted(text) for text in self._texts_of.start][: self.population]
            pairs = [{"first": given[i % len(given)]} for i in range(self.population - len(given))]
            return given + self._written("vary", pairs, "first", seed)
        if self.variant == "ga":
            return self._written("cross", [self._couple() for _ in range(self.population)], "first", seed)
        return self._written("differ", [self._four(i) for i in range(len(self.texts))], "parent", seed)

    def _written(self, asked: str, places: list[dict[str, str]], usual: str, seed: int) -> list[str]:
        """What the model makes of texts in places; where nothing comes back, one of them stays."""
        if not places:
            return []
        answers = self._write([_filled(self._asked_with[asked], each) for each in places], seed)
        found = [self._texts_of.fitted(answer_in(answer)).strip() for answer in answers]
        return [text or each[usual] for text, each in zip(found, places, strict=True)]

    def _couple(self) -> dict[str, str]:
        """Two parents by the wheel, two different ones if there are."""
        share = _shares(np.array(self.losses))
        i, j = self.rng.choice(len(share), 2, replace=len(share) < 2, p=share)
        return {"first": self.texts[i], "second": self.texts[j]}

    def _four(self, i: int) -> dict[str, str]:
        """What a child of the i-th text is made of."""
        others = [j for j in range(len(self.texts)) if j != i] or [i]
        a, b = self.rng.choice(others, 2, replace=len(others) < 2)
        best = int(np.argmin(self.losses))
        texts = self.texts
        return {"first": texts[a], "second": texts[b], "best": texts[best], "parent": texts[i]}


def _shares(losses: Array) -> Array:
    """The wheel's shares by losses [N], inf for one that failed."""
    known = np.isfinite(losses)
    if not known.any() or np.ptp(losses[known]) == 0:
        return np.full(len(losses), 1 / len(losses))
    worst, best = losses[known].max(), losses[known].min()
    gain = np.where(known, worst - losses, 0.0) + (worst - best) / len(losses)
    return np.asarray(gain / gain.sum())


def _filled(template: str, places: Mapping[str, str]) -> str:
    """A template with texts in its places, whatever they hold."""
    return PLACES.sub(lambda found: places.get(found[1], found[0]), template)


def _templates(method: str, asked: Mapping[str, str] | None) -> dict[str, str]:
    """What the model is asked, with the user's own words."""
    given = mapping(method, "asked", asked)
    for name, text in given.items():
        if name not in ASKED:
            raise option_error(method, "asked", name, f"a mapping with the keys {', '.join(ASKED)}")
        if "{first}" not in str(text):
            raise GfoError(
                f"optimizer '{method}': asked['{name}'] has no {{first}}; write it where the text goes"
            )
    return {**ASKED, **given}
