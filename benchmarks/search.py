"""Both rankings of the retrieval env on a corpus and questions that name their evidence.

    python benchmarks/search.py passages.jsonl questions.jsonl

The questions are the queries, word for word. A row for each ranking: hit@5 (a piece of evidence is
among the first five), recall@10, seconds of building the index, and milliseconds of a query, both
of processor time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

from upslope.retrieval.index import opened
from upslope.retrieval.passages import Corpus
from upslope.retrieval.questions import of_file
from upslope.retrieval.sparse import installed, opened_sparse
from upslope.rewards.retrieval import recall

OPENED = {"fts5": opened, "bm25s": opened_sparse}


def row(ranking: str, corpus: Corpus, questions: str) -> tuple[str, float]:
    """A ranking's row, and the 95th percentile of a query's milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        index = OPENED[ranking](corpus, Path(folder))
        built = time.process_time() - start
        found, took = [], []
        asked = [q for q in of_file(questions) if q.evidence]
        for question in asked:
            start = time.process_time()
            found.append([p.id for p in index.search(question.text, 10)])
            took.append(1000 * (time.process_time() - start))
    pairs = [*zip(found, (q.evidence for q in asked), strict=True)]
    hit = mean(bool({*ids[:5]} & {*evidence}) for ids, evidence in pairs)
    recalled = mean(recall(ids, evidence, 10) for ids, evidence in pairs)
    late = sorted(took)[int(0.95 * len(took))]
    cells = f"{len(asked)} | {hit:.3f} | {recalled:.3f} | {built:.2f} | {median(took):.2f}"
    return f"| {ranking} | {cells} | {late:.2f} |", late


def main() -> None:
    """A row for each ranking that is installed; exit status 1 where p95 is 50 ms or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("questions")
    given = parser.parse_args()
    corpus = Corpus.at(given.corpus, 200)
    rankings = [name for name in OPENED if name != "bm25s" or installed()]
    rows = [row(name, corpus, given.questions) for name in rankings]
    print("| ranking | queries | hit@5 | recall@10 | build, s | query, ms | p95, ms |")
    print("|---|---|---|---|---|---|---|", *(line for line, _ in rows), sep="\n")
    sys.exit(any(late >= 50 for _, late in rows))


if __name__ == "__main__":
    main()
