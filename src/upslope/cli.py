"""The command line: arguments to calls, results to sentences. Heavy imports wait for a command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from upslope import __version__
from upslope.audit.commands import app as audit
from upslope.machine import prepare_memory
from upslope.preferences.commands import app as preferences
from upslope.reward_models import app as reward_models
from upslope.slope import app as slope
from upslope.slope import to_stderr
from upslope.types import UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Scale language models with reinforcement learning.",
)
app.add_typer(slope)
app.add_typer(reward_models)
app.add_typer(audit, name="audit")
app.add_typer(preferences, name="preferences")
Recipe = Annotated[str, typer.Argument(help="A recipe: a TOML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: rollout.group=8 seed=1")
]
Model = Annotated[str, typer.Argument(help="A run's folder, or a model: see `upslope models`.")]
EnvName = Annotated[str | None, typer.Argument(help="An env; by default the run's own.")]
EnvSettings = Annotated[list[str] | None, typer.Argument(help="The env's settings: digits=3")]
Problems = Annotated[int, typer.Option(min=1, help="Held-out problems.")]
Samples = Annotated[
    int, typer.Option(min=0, max=256, help="Samples of each at temperature 1; 0 is greedy alone.")
]
Splits = Annotated[str, typer.Option(help="validation or test; train to --record.")]
Length = Annotated[int | None, typer.Option(min=1, help="Tokens of a reply.")]
Seed = Annotated[int, typer.Option(help="What the sampling derives from.")]


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on with the recipe's newest run.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="A setting that may differ from the resumed run's.")
    ] = None,
    on_collapse: Annotated[
        str, typer.Option(help="What the alarm on collapse does: say, stop or rollback.")
    ] = "say",
) -> None:
    """Train a recipe: prove its numbers, train, evaluate, and show what changed."""
    from rich.console import Console

    from upslope.launch import train_recipe
    from upslope.progress import show
    from upslope.recipe import read
    from upslope.resume import resume_recipe
    from upslope.summary import changed

    if allow and not resume:
        raise UserError("--allow says what may differ from a resumed run: give --resume, too")
    given = read(recipe, overrides or [])
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        with show(given.stages(), console) as progress:
            watches, act = [progress], on_collapse
            if resume:
                names = allow or []
                run = resume_recipe(
                    given, say, argv=sys.argv, watches=watches, allow=names, on_collapse=act
                )
            else:
                run = train_recipe(given, say, argv=sys.argv, watches=watches, on_collapse=act)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for line in changed(run):
        say(line)


@app.command("eval")
def evaluate(
    model: Model,
    env: EnvName = None,
    settings: EnvSettings = None,
    problems: Problems = 500,
    samples: Samples = 1,
    split: Splits = "test",
    max_tokens: Length = None,
    seed: Seed = 0,
    out: Annotated[
        str | None, typer.Option(help="A file for each problem's answers, as JSON lines.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="A file for the samples with their tokens, to learn from.")
    ] = None,
    recorded: Annotated[
        str | None, typer.Option(help="Recorded plays to judge the model by, in place of its own.")
    ] = None,
) -> None:
    """Accuracy on held-out problems with 95% intervals: the code that training uses."""
    from upslope.exam import Choices, evaluate_model
    from upslope.hindsight import evaluate_recorded

    if recorded:
        print("\n".join(evaluate_recorded(model, recorded)))
        return
    choices = Choices(problems, samples, split, max_tokens, seed, out, record)
    for line in evaluate_model(model, env, settings or [], choices):
        print(line)


@app.command()
def compare(
    a: Model,
    b: Model,
    env: EnvName = None,
    settings: EnvSettings = None,
    problems: Problems = 500,
    samples: Samples = 1,
    split: Splits = "test",
    max_tokens: Length = None,
    seed: Seed = 0,
) -> None:
    """Whether B is better than A: both on the same problems, and a paired test."""
    from upslope.exam import Choices, compare_models

    choices = Choices(problems, samples, split, max_tokens, seed)
    for line in compare_models([a, b], env, settings or [], choices):
        print(line)


@app.command()
def check(
    what: Annotated[str, typer.Argument(help="A recipe, or a part: its name or file.py:Name.")],
    overrides: Overrides = None,
) -> None:
    """Prove a recipe's numbers on its own model and env, or one part's contract."""
    from upslope.trial import check_component, check_recipe

    proofs = (
        check_recipe(what, overrides or [])
        if what.endswith(".toml")
        else check_component(what, overrides or [])
    )
    for proof in proofs:
        print(f"proven: {proof.claim} ({proof.seen})")


@app.command()
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="An accelerator to plan for as well: h100, ...")] = "",
    trying: Annotated[bool, typer.Option(help="Time a few steps of each stage.")] = True,
) -> None:
    """Sizes, memory, FLOPs, time and money of a recipe, before anything is spent."""
    from upslope.plan import lines
    from upslope.recipe import read
    from upslope.session import Session

    for line in lines(Session(read(recipe, overrides or []), to_stderr), on, trying=trying):
        print(line)


@app.command()
def chat(
    model: Model,
    raw: Annotated[bool, typer.Option(help="Continue the text instead of replying to it.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
) -> None:
    """Talk to a model or a run, a line at a time; an empty line or Ctrl-D ends it."""
    from upslope.trial import talk

    talk(model, raw, max_tokens, temperature)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 is any.")] = 8000,
    name: Annotated[str, typer.Option(help="What requests call the model.")] = "",
    key: Annotated[str, typer.Option(help="The environment's variable with the API key.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a reply, by default.")] = 512,
) -> None:
    """Serve a model or a run to OpenAI's clients, until Ctrl-C."""
    from upslope.serve.command import Place, serve_model

    serve_model(model, Place(host, port, name, key, max_tokens), print)


@app.command()
def models() -> None:
    """Models known by name."""
    from upslope.models.hub import MODELS
    from upslope.models.ladder import sizes

    for name, known in MODELS.items():
        print(f"{name:24} {known.about} ({known.licence})")
    for size, parameters in sizes().items():
        about = f"character-level, made from scratch, {parameters:,} parameters"
        print(f"{'ladder:' + size:24} {about}")
    print(f"{'owner/name, or a folder':24} any causal language model in Hugging Face form")


@app.command()
def envs() -> None:
    """Envs known by name."""
    from upslope.components import catalogue
    from upslope.envs import ENVS

    print("\n".join(catalogue(ENVS)))


@app.command()
def algorithms() -> None:
    """Algorithms known by name: paper, needs, the presets that use each, and settings."""
    from upslope.listing import algorithms as listed

    print("\n".join(listed()))


@app.command()
def presets() -> None:
    """Published recipes known by name: preset = "dapo" in a recipe or in one of its stages."""
    from upslope.presets import about, names

    for name in names():
        print(f"{name:14}" + f"\n{'':14}".join(about(name)))


def version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    wanted: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Options that belong to no command."""


def main() -> None:
    """Run a command; a user's mistake is one sentence and exit code 2."""
    prepare_memory()
    try:
        app()
    except UserError as error:
        fail(str(error), 2)
    except BrokenPipeError:
        # The reader of a pipe has gone: nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def fail(sentence: str, code: int) -> None:
    """Say one sentence and exit."""
    print(f"upslope: {sentence}", file=sys.stderr)
    sys.exit(code)
