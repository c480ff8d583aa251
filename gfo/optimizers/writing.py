"""What methods share that have a language model write texts: how it is asked, and what of it counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from gfo.core.domain import Domain
from gfo.core.errors import GfoError, GfoWarning, shown
from gfo.core.text_domain import TextDomain, Writes
from gfo.optimizers.options import number, whole

Rewrite = Callable[[str], str] | Writes
"""A function text -> text, a `gfo.Endpoint` or a model of `gfo.load_model`."""
TAGGED = re.compile(r"<prompt>(.*?)(?:</prompt>|\Z)", re.DOTALL)
QUOTES = "\"'`\u201c\u201d "


def text_domain(method: str, domain: Domain) -> TextDomain:
    """The domain, if its points are texts; else GfoError."""
    if not isinstance(domain, TextDomain):
        raise GfoError(f"optimizer '{method}' writes texts; give it the space gfo.Texts")
    return domain


class Writer:
    """Asks for texts, and says what comes back.

    Args:
        method: whose it is, for errors.
        rewrite: what writes.
        max_tokens, temperature: of what it writes, where it is a model.

    Attributes:
        failed: how often nothing came back.
    """

    def __init__(self, method: str, rewrite: Any, max_tokens: int, temperature: float) -> None:
        if not (isinstance(rewrite, Writes) or callable(rewrite)):
            raise GfoError(
                f"optimizer '{method}': rewrite = {shown(rewrite)} must be a model, a gfo.Endpoint or a "
                "function text -> text"
            )
        self._method, self._rewrite = method, rewrite
        self._how: dict[str, Any] = {
            "max_tokens": whole(method, "max_tokens", max_tokens),
            "temperature": number(method, "temperature", temperature, least=0),
        }
        self.failed = 0

    def __call__(self, prompts: Sequence[str], seed: int) -> list[str | None]:
        """The answers; None for one that failed, of which a warning tells the first time.

        Raises:
            GfoError: if the first answers fail, all of them.
        """
        if isinstance(self._rewrite, Writes):
            found = self._rewrite.write(prompts, seed=seed, **self._how)
        else:
            found = [self._called(prompt) for prompt in prompts]
        lost = sum(text is None for text in found)
        if lost and lost == len(prompts) and not self.failed:
            raise GfoError(
                f"optimizer '{self._method}': rewrite gave none of {lost} texts, asked in up to "
                f"{max(map(len, prompts)):,} characters; take one that answers, with room for so many"
            )
        self.failed += lost
        return found

    def _called(self, prompt: str) -> str | None:
        """What the user's function gives."""
        try:
            found = self._rewrite(prompt)
        except GfoError:
            raise
        except Exception as error:
            if not self.failed:
                said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
                warnings.warn(
                    f"optimizer '{self._method}': rewrite failed ({said})", GfoWarning, stacklevel=3
                )
            return None
        if not isinstance(found, str):
            raise GfoError(f"optimizer '{self._method}': rewrite gave {shown(found)}; it is no text")
        return found


def answer_in(text: str | None) -> str:
    """The prompt in an answer: between <prompt> and </prompt>, else all, without quotes; "" for none."""
    if text is None:
        return ""
    tagged = TAGGED.findall(text)
    return (tagged[-1] if tagged else text).replace("</prompt>", "").strip().strip(QUOTES).strip()
