"""The command line's part that asks people, or simulated ones, what is better, and keeps it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="What people prefer: ask, answer, keep, look.")
StorePath = Annotated[str, typer.Argument(help="A store of preferences: a .sqlite file.")]
Who = Annotated[str, typer.Option(help="Who answers.")]
Annotators = Annotated[
    list[str] | None, typer.Option("--annotator", help="Only answers of these; may be repeated.")
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="Only pair, rating or ranking; likewise.")
]
Votes = Annotated[str, typer.Option(help="each: every answer; majority: one for two replies.")]
EnvName = Annotated[str, typer.Argument(help="An env whose gold reward answers.")]
EnvSettings = Annotated[list[str] | None, typer.Argument(help="The env's settings: replies=4")]
Seed = Annotated[int, typer.Option(help="What all randomness derives from.")]


@app.command("import")
def read(
    store: StorePath,
    file: Annotated[str, typer.Argument(help="Pairs or answers: .jsonl, .jsonl.gz or .parquet.")],
    annotator: Annotated[
        str, typer.Option(help="Whose answers they are where a row does not say; the file's name.")
    ] = "",
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Leave out, and count, rows that are no answers.")
    ] = False,
) -> None:
    """Read a file's answers into a store: Hugging Face, TRL, hh-rlhf, or a store's own form."""
    from pathlib import Path

    from upslope.preferences.moved import read_into
    from upslope.preferences.store import Store

    with Store(store, create=True) as kept:
        name = annotator or Path(file).name
        print("\n".join(read_into(kept, file, name, lenient=lenient).lines("answers read")))


@app.command("export")
def write(
    store: StorePath,
    file: Annotated[str, typer.Argument(help="A .jsonl, .jsonl.gz or .parquet file.")],
    form: Annotated[str, typer.Option(help="hf, trl, hh, or answers, which holds all.")] = "hf",
    annotators: Annotators = None,
    kinds: Kinds = None,
    votes: Votes = "each",
) -> None:
    """Write a store's pairs, or all of its answers, in a form that others read."""
    from upslope.preferences.look import selected
    from upslope.preferences.moved import write_from
    from upslope.preferences.store import Store

    which = selected(annotators or [], kinds or [], votes)
    with Store(store) as kept:
        print("\n".join(write_from(kept, file, form, which).lines("written")))


@app.command()
def show(
    store: StorePath,
    answers: Annotated[int, typer.Option(min=0, help="So many of the last answers, too.")] = 0,
) -> None:
    """How much a store holds, who answered, and how far annotators agree."""
    from upslope.preferences.look import lines
    from upslope.preferences.store import Store

    with Store(store) as kept:
        print("\n".join(lines(kept, answers)))


@app.command()
def propose(
    store: StorePath,
    what: Annotated[str, typer.Argument(help="A file of replies or pairs, or an env.")],
    settings: EnvSettings = None,
    count: Annotated[int, typer.Option(min=1, help="Questions to ask.")] = 100,
    by: Annotated[
        str, typer.Option(help="random, uncertainty, disagreement or information.")
    ] = "information",
    model: Annotated[
        list[str] | None, typer.Option(help="A reward model's folder; several disagree.")
    ] = None,
    kind: Annotated[str, typer.Option(help="pair, rating or ranking.")] = "pair",
    wanted: Annotated[int, typer.Option(min=1, help="Annotators who are to answer each.")] = 1,
    policy: Annotated[
        str, typer.Option(help="Whose replies to an env's problems; none: its demonstrations.")
    ] = "",
    replies: Annotated[int, typer.Option(min=2, max=99, help="Replies to each problem.")] = 4,
    problems: Annotated[int, typer.Option(min=0, help="Problems, at most; 0 is all.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply.")] = 64,
    temperature: Annotated[float, typer.Option(help="At which the policy is sampled.")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Ask what a reward model would learn most from; label or annotate is how it is answered."""
    from upslope.preferences.asked import kind_of
    from upslope.preferences.candidates import Sampled, candidates
    from upslope.preferences.proposing import Asking, propose, way_of
    from upslope.preferences.store import Store

    asking = Asking(count, way_of(by), tuple(model or ()), kind_of(kind), wanted, seed=seed)
    sampled = Sampled(policy, replies, problems, max_tokens, temperature, seed)
    with Store(store, create=True) as kept:
        print("\n".join(propose(kept, candidates(what, settings or [], sampled), asking).lines()))


@app.command()
def annotate(
    store: StorePath,
    env: EnvName,
    settings: EnvSettings = None,
    annotator: Who = "simulated",
    temperature: Annotated[
        float, typer.Option(help="Of Bradley-Terry; 0 sees the gold reward as it is.")
    ] = 0.0,
    flips: Annotated[float, typer.Option(help="Share of answers turned around.")] = 0.0,
    ties: Annotated[float, typer.Option(help="How near two replies may be to be a tie.")] = 0.0,
    length: Annotated[float, typer.Option(help="What a character looks worth by itself.")] = 0.0,
    skips: Annotated[float, typer.Option(help="Share of questions skipped.")] = 0.0,
    most: Annotated[int, typer.Option(min=0, help="Questions, at most; 0 is all.")] = 0,
    seed: Seed = 0,
) -> None:
    """Have a simulated annotator answer what is left, by an env's gold reward."""
    from upslope.preferences.annotators import Annotator
    from upslope.preferences.candidates import env_named
    from upslope.preferences.simulated import annotate
    from upslope.preferences.store import Store

    by = Annotator(annotator, temperature, flips, ties, length, skips, seed)
    with Store(store) as kept:
        print("\n".join(annotate(kept, env_named(env, settings or []), by, most).lines()))


@app.command()
def label(
    store: StorePath,
    annotator: Annotated[str, typer.Option(help="Your name, under which answers are kept.")],
) -> None:
    """Answer questions in the terminal, or from a pipe, a line each; go on whenever you like."""
    from upslope.preferences.store import Store
    from upslope.preferences.terminal import ask

    with Store(store) as kept:
        try:
            ask(kept, annotator)
        except KeyboardInterrupt:
            print("\nevery answer so far is kept")
            raise typer.Exit(130) from None
