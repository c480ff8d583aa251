"""Public data sets for classification, fetched from a hub and written as gfo's rows.

gfo carries none of them: `datasets` loads each from its page there, whose licence is said beside what was
fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfo.core.checking import checked
from gfo.core.errors import GfoError, check_at_least_one, check_name, shown
from gfo.core.files import absolute, whole_folder, write_whole
from gfo.tasks.parts.datasets import few_shot, load

HUB_PAGE = "https://huggingface.co/datasets/"


@dataclass(frozen=True)
class DataSet:
    """A public data set, and how its rows become gfo's.

    Attributes:
        hub: its id there, with the name of a part behind a colon if it has parts.
        task: what is told from what.
        source: who made it.
        licence: as its page or its authors say.
        fields: field there -> field of gfo's rows.
        labels: by their number there.
        test: the split there that becomes the test rows.
        label: the field there that holds the label.
    """

    hub: str
    task: str
    source: str
    licence: str
    fields: Mapping[str, str]
    labels: Sequence[str]
    test: str = "test"
    label: str = "label"

    @property
    def page(self) -> str:
        """Its address."""
        return HUB_PAGE + self.hub.partition(":")[0]


UNSTATED = "none stated"
SETS = {
    "agnews": DataSet(
        "fancyzhx/ag_news",
        "topics of news",
        "Zhang, Zhao and LeCun 2015, arXiv:1509.01626, from AG's corpus (Gulli)",
        "its authors: for research and other non-commercial use",
        {"text": "text"},
        ("World", "Sports", "Business", "Sci/Tech"),
    ),
    "boolq": DataSet(
        "google/boolq",
        "yes or no to a question on a passage",
        "Clark et al. 2019, arXiv:1905.10044",
        "CC BY-SA 3.0",
        {"passage": "passage", "question": "question"},
        ("no", "yes"),
        test="validation",
        label="answer",
    ),
    "dbpedia14": DataSet(
        "fancyzhx/dbpedia_14",
        "classes of articles",
        "Zhang, Zhao and LeCun 2015, arXiv:1509.01626, from DBpedia (Lehmann et al. 2015)",
        "CC BY-SA 3.0",
        {"title": "title", "content": "text"},
        (
            "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation",
            "Building", "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
        ),
    ),
    "rotten-tomatoes": DataSet(
        "cornell-movie-review-data/rotten_tomatoes",
        "sentiment of sentences of film reviews",
        "Pang and Lee 2005, arXiv:cs/0506075",
        UNSTATED,
        {"text": "text"},
        ("negative", "positive"),
    ),
    "rte": DataSet(
        "nyu-mll/glue:rte",
        "whether a text entails another",
        "Dagan et al. 2006 and others, in GLUE: Wang et al. 2018, arXiv:1804.07461",
        UNSTATED,
        {"sentence1": "premise", "sentence2": "hypothesis"},
        ("entailment", "not_entailment"),
        test="validation",
    ),
    "sst2": DataSet(
        "stanfordnlp/sst2",
        "sentiment of phrases of film reviews",
        "Socher et al. 2013, doi:10.18653/v1/D13-1170",
        UNSTATED,
        {"sentence": "text"},
        ("negative", "positive"),
        test="validation",
    ),
}  # fmt: skip
"""Where the test labels are not public, the validation rows are the test rows, as in the literature."""


@dataclass(frozen=True)
class Fetched:
    """A data set in a folder.

    Attributes:
        name: of the data set.
        folder: that holds train.jsonl, dev.jsonl and test.jsonl.
        rows: split -> how many.
        shots: rows of a class in train, and as many others in dev.
    """

    name: str
    folder: Path
    rows: Mapping[str, int] = field(default_factory=dict)
    shots: int = 0

    def __str__(self) -> str:
        of = SETS[self.name]
        facts = {"what": of.task, "source": of.source, "from": of.page, "licence": of.licence}
        facts["labels"] = ", ".join(of.labels)
        facts["fields"] = ", ".join((*of.fields.values(), "label"))
        drawn = f"{self.shots} of each label, drawn from its training rows"
        how = {"train": drawn, "dev": drawn, "test": f"its {of.test} rows"}
        facts |= {split: f"{count:,} rows, {how[split]}" for split, count in self.rows.items()}
        lines = [f"{key + ':':<9}{value}" for key, value in facts.items()]
        return "\n".join([*lines, f"folder:  {self.folder}"])


@checked
def fetch(name: str, out: str | Path, *, shots: int = 16, seed: int = 0) -> Fetched:
    """Fetch a public data set and write `train.jsonl`, `dev.jsonl` and `test.jsonl`.

    Args:
        name: of the data set, one of SETS.
        out: the folder, a new one.
        shots: rows of each label in train, and as many others in dev.
        seed: of their draw.

    Raises:
        GfoError: for an unknown name, a folder that is there, a hub that cannot be reached, or rows that are
            not as they were.
    """
    check_name("data set", name, SETS)
    check_at_least_one(shots=shots)
    folder = absolute(out)
    if folder.exists():
        raise GfoError(f"out = {shown(str(folder))} is there already; delete it, or give another folder")
    of = SETS[name]
    train, dev = few_shot(_rows(of, name, "train"), shots, seed=seed)
    splits = {"train": train, "dev": dev, "test": _rows(of, name, of.test)}
    with whole_folder(folder) as place:
        for split, rows in splits.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(place / f"{split}.jsonl", "".join(lines))
    return Fetched(name, folder, {split: len(rows) for split, rows in splits.items()}, shots)


def _rows(of: DataSet, name: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split there, those without a label left out."""
    try:
        rows = load(f"hub:{of.hub}:{split}", f"data set {name}")
    except GfoError as error:
        if (cause := error.__cause__) is None:  # datasets is not installed
            raise
        said = next(filter(None, map(str.strip, str(cause).splitlines())), "no reason given").rstrip(".")
        raise GfoError(
            f"data set {name} cannot be fetched ({type(cause).__name__}: {said}); connect to the hub, or get "
            f"it at {of.page} and give a task its files"
        ) from error
    try:
        return [
            {**{ours: row[theirs] for theirs, ours in of.fields.items()}, "label": of.labels[row[of.label]]}
            for row in rows
            if row[of.label] >= 0
        ]
    except (KeyError, IndexError, TypeError) as error:
        raise GfoError(
            f"data set {name}: the rows at {of.page} are not as they were ({type(error).__name__}: {error}); "
            "take the rows you need by hub:ID:SPLIT"
        ) from None
