"""What a play that looks for evidence is worth: what it found, what it answers, what it cites.

Pure functions over ids and texts. Ids are ranked as the play did: those it cites first, then those
it opened, then those its searches listed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import punctuation
from unicodedata import category, normalize

from upslope.types import Reward, Trajectory

CITED = re.compile(r"(?:\s*\[[^\[\]\n]{1,200}\])+[\s.]*$")
ARTICLES = re.compile(r"\b(?:a|an|the)\b")
LONGEST = 2000  # characters of an answer that are looked at


@dataclass(frozen=True)
class Weights:
    """What each part counts in the reward, which is their mean over those a question has.

    ``exact`` and ``f1`` compare the answer, ``recall`` and ``ndcg`` what the play found with the
    evidence; ``citations`` is the F1 of what it cites, of what it has seen.
    """

    exact: float = 0.5
    f1: float = 0.3
    recall: float = 0.1
    ndcg: float = 0.0
    citations: float = 0.1

    def __post_init__(self) -> None:
        if min(self._all()) < 0 or not sum(self._all()):
            raise ValueError("weights must not be negative, and one of them above 0")

    def total(self, parts: Mapping[str, float]) -> float:
        """The weighted mean of the parts that there are."""
        named = dict(zip(("exact", "f1", "recall", "ndcg", "citations"), self._all(), strict=True))
        counted = {name: weight for name, weight in named.items() if name in parts}
        earned = math.fsum(weight * parts[name] for name, weight in counted.items())
        return earned / (math.fsum(counted.values()) or 1.0)

    def _all(self) -> tuple[float, ...]:
        return self.exact, self.f1, self.recall, self.ndcg, self.citations


def answered(final: str) -> tuple[str, list[str]]:
    """An answer without the ids that it cites in brackets at its end, and these, each once."""
    text = final[:LONGEST].rstrip()
    match = CITED.search(text)
    if match is None:
        return text.strip(), []
    cited = [name.strip() for name in re.findall(r"\[([^\[\]]*)\]", match[0])]
    return text[: match.start()].strip(), list(dict.fromkeys(cited))


def plain(answer: str) -> str:
    """As SQuAD compares answers: lower case, without punctuation, articles and double spaces.

    Punctuation is Unicode's, too, and compatible forms are one (after arXiv:1606.05250). What has
    nothing else, such as "A+", keeps it.
    """
    text = normalize("NFKC", answer[:LONGEST]).lower()
    kept = "".join(c for c in text if c not in punctuation and not category(c).startswith("P"))
    return " ".join(ARTICLES.sub(" ", kept).split()) or " ".join(text.split())


def exact(answer: str, golds: Iterable[str]) -> float:
    """1 where an answer is one of the right ones, in their plain forms."""
    said = plain(answer)
    return float(any(said == plain(gold) for gold in golds))


def word_f1(answer: str, golds: Iterable[str]) -> float:
    """The F1 of an answer's words with those of the right answer that it is nearest to."""
    return max((_f1(plain(answer).split(), plain(gold).split()) for gold in golds), default=0.0)


def _f1(said: Sequence[str], gold: Sequence[str]) -> float:
    shared = (Counter(said) & Counter(gold)).total()
    return 2 * shared / (len(said) + len(gold)) if shared else 0.0


def ranked(cited: Iterable[str], opened: Iterable[str], listed: Iterable[str]) -> list[str]:
    """Each id once, in the order in which a play puts them forward; what is cited must be seen."""
    opened, listed = list(opened), list(listed)
    seen = {*opened, *listed}
    return list(dict.fromkeys([*(name for name in cited if name in seen), *opened, *listed]))


def recall(found: Sequence[str], gold: Collection[str], k: int) -> float:
    """The share of the evidence among the first ``k``; of more than ``k`` pieces, ``k`` suffice."""
    return len({*found[:k]} & {*gold}) / min(k, len(gold))


def ndcg(found: Sequence[str], gold: Mapping[str, float], k: int) -> float:
    """Discounted gain of the first ``k`` over that of the best order; gains are the grades."""
    best = sorted(gold.values(), reverse=True)
    return _gain([gold.get(name, 0.0) for name in found[:k]]) / _gain(best[:k])


def _gain(grades: Sequence[float]) -> float:
    return math.fsum(grade / math.log2(place + 1) for place, grade in enumerate(grades, 1))


def citations(cited: Collection[str], seen: Collection[str], gold: Collection[str]) -> float:
    """The F1 of cited ids with the evidence; one that the play never saw is wrong."""
    right = len({*cited} & {*seen} & {*gold})
    return 2 * right / (len({*cited}) + len({*gold})) if right else 0.0


def graded(play: Trajectory, weights: Weights, k: int) -> Reward:
    """What a play earns of what its problem's ``info`` asks for: ``answers``, ``evidence`` by id.

    Its facts have the ``final`` answer, and the ids that were ``listed`` and ``opened``. Parts are
    those of ``Weights`` that the question can be graded by, and ``correct``: ``exact``, or of a
    question without answers ``ndcg``. The ``penalty`` of its facts is added to the total.
    """
    facts, golds, evidence = play.facts, play.problem.info["answers"], play.problem.info["evidence"]
    final = facts.get("final") or ""
    answer, cited = answered(final)
    listed, opened = facts.get("listed", ()), facts.get("opened", ())
    parts: dict[str, float] = {}
    if golds:
        parts |= {"exact": exact(answer, golds), "f1": word_f1(answer, golds)}
    if evidence:
        found = ranked(cited, opened, listed)
        parts |= {"recall": recall(found, evidence, k), "ndcg": ndcg(found, evidence, k)}
        parts["citations"] = citations(cited, {*listed, *opened}, evidence)
    parts["correct"] = parts["exact" if golds else "ndcg"]
    total = weights.total(parts) + facts.get("penalty", 0.0)
    return Reward(total, parts, answer=plain(answer) if golds else " ".join(cited))
