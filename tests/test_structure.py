"""The import rules, the limits and the house rules of the code, as tests.

The table says what each part may import, ours and others', beside the standard library. A package
stands for its modules. ``name?`` may only be imported lazily: in a function or under
``TYPE_CHECKING``. ``*`` is everything, ``!name`` all but that. Where the table is wider than the
design, docs/log.md says why.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from upslope.recipe import settings_count

SOURCE = Path(__file__).parent.parent / "src" / "upslope"
TABLE = {
    "types": "numpy torch?",
    "machine curve": "",
    "settings": "pydantic",
    "seeds overrides ledger": "types",
    "measures": "types numpy",
    "sentences": "types pydantic pydantic_core annotated_types",
    "components": "types seeds sentences pydantic",
    "listing": "types batch algorithms components optional presets",
    "alarms": "types recipe runs",
    "rollback": "batch checkpoints learner models runs",
    "result": "types pydantic",
    "environment": "machine",
    "files": "types numpy",
    "trajectories": "types files pyarrow?",
    "runs": "types environment files result trajectories pydantic",
    "presets": "types overrides sentences",
    "recipe": "types overrides presets sentences settings pydantic tomli_w",
    "chat": "types transformers",
    "advantages chains credit losses pairwise": "torch jaxtyping",
    "exploration": "losses torch jaxtyping",
    "importance": "batch losses settings torch",
    "constraints": "",
    "critic": "types torch jaxtyping",
    "alike": "torch jaxtyping numpy",
    "turns": "types numpy",
    "batch": "types alike turns torch jaxtyping numpy",
    "optional": "types batch critic",
    "costs": "types batch constraints losses turns optional torch",
    "snapshots": "types huggingface_hub",
    "models": "types alike batch critic optional files seeds snapshots models torch transformers "
    "jaxtyping numpy tokenizers safetensors huggingface_hub gguf filelock peft?",
    "models.reward_model": "types chat models torch transformers jaxtyping",
    "engines.scripted": "types numpy transformers?",
    "engines.wire": "types",
    "engines": "types engines machine models torch transformers jaxtyping numpy",
    "rewards": "types rewards sandbox files grading seeds chat? models? math_verify? numpy torch?",
    "rewards.learned": "types rewards preferences.pair preferences.annotators? "
    "preferences.gathered? preferences.learned? preferences.made? preferences.moved? "
    "preferences.picture? preferences.recipe? preferences.training? files? ledger? models? "
    "scorers? seeds?",
    "rewards.worker": "",
    "rewards.workers": "machine rewards.worker",
    "sandbox": "types machine sandbox",
    "sandbox.warden": "kernel sandbox.kernel",
    "sandbox.kernel": "",
    "tools": "types seeds tools",
    "tables": "types tables tools openpyxl?",
    "tables.made tables.tiny": "seeds tables tools",
    "tables.scoring": "types rewards tables",
    "retrieval": "types seeds envs.datasets rewards.retrieval retrieval tools numpy bm25s? "
    "filelock?",
    "envs": "types seeds rewards sandbox tools envs.episodes envs.slips",
    "envs.code": "types seeds rewards sandbox envs.episodes envs.datasets",
    "envs.agent": "types envs envs.programs envs.places serve",
    "envs.places": "",
    "envs.openenv": "types seeds envs.places websockets?",
    "envs.programs": "types envs.warm",
    "envs.warm": "types",
    "envs.zygote": "",
    "envs.datasets": "types snapshots? pyarrow?",
    "envs.spreadsheet": "types seeds rewards tables tools",
    "envs.workbooks": "types seeds rewards tables tools envs.datasets",
    "envs.archive envs.retrieval": "types seeds rewards retrieval tools",
    "envs.honeypot": "types seeds rewards envs.arithmetic envs.episodes",
    "envs.mathematics": "types seeds rewards envs.episodes envs.datasets",
    "envs.reasoning_gym": "types seeds rewards envs.episodes reasoning_gym?",
    "algorithms": "types batch advantages chains constraints costs credit critic exploration "
    "losses pairwise turns optional algorithms torch",
    "tally": "types batch losses torch",
    "steps": "settings",
    "sinks": "types torch? wandb? trackio?",
    "learner": "types batch importance losses optional settings steps tally models torch",
    "grading": "types rewards",
    "audit audit.dresses": "",
    "audit.settings": "types",
    "audit.evidence audit.drift": "",
    "audit.signs audit.findings": "types audit numpy",
    "audit.gold": "types rewards envs.mixture",
    "audit.auditor": "types audit rewards seeds",
    "audit.cases": "types audit.dresses",
    "audit.fuzz": "types audit.cases batteries.env dialogues grading",
    "audit.graders": "types envs.episodes rewards",
    "audit.target": "types audit chat? components engines? envs files models? names overrides "
    "rewarding? rewards rollout? settings",
    "audit.lab_recipe": "types preferences.recipe preferences.training settings pydantic",
    "audit.followed audit.ways": "scaling numpy",
    "audit.pool": "types chat engines.local files models preferences rollout numpy",
    "audit.proxies": "types audit files ledger models preferences seeds numpy",
    "audit.climb": "types audit batch files launch models recipe numpy torch",
    "audit.stopping": "audit scaling numpy",
    "audit.lab": "types audit files launch ledger machine models names preferences recipe torch",
    "audit.lab_results": "types audit files scaling numpy",
    "audit.lab_picture": "curve scaling numpy",
    "audit.lab_report": "audit files",
    "audit.commands": "audit? typer",
    "rewarding": "types audit.auditor audit.settings files grading ledger rewards rollout",
    "segments": "types numpy",
    "rollout": "types chat envs.episodes grading rewards seeds segments serve.recording settings",
    "serve": "types chat seeds segments serve pydantic h11",
    "serve.command": "types chat engines.local models serve trial",
    "curriculum": "types seeds numpy",
    "fields": "types numpy",
    "traces": "types serve.called",
    "demonstrations": "types traces envs.datasets fields files preferences.pair preferences.moved? "
    "trajectories numpy",
    "dialogues": "types demonstrations envs.episodes",
    "recite": "types chat demonstrations dialogues segments numpy",
    "underway": "types",
    "sources": "types chat curriculum demonstrations recite rewards rollout underway",
    "mixed": "types sources",
    "provenance": "curriculum types components preferences.pair settings",
    "origins": "types chat curriculum demonstrations mixed provenance recite rollout sources "
    "stages",
    "estimates overlap": "types numpy",
    "offpolicy": "types estimates numpy",
    "evaluate": "types estimates rollout numpy",
    "scorers": "types batch optional learner models runs",
    "selfcheck": "types batch chat costs dialogues grading overlap recite learner tally models "
    "numpy torch",
    "sync": "types ledger learner models",
    "checkpoints": "types batch learner ledger models result settings pydantic torch",
    "threads": "types machine torch",
    "devices": "machine torch",
    "train": "types batch optional checkpoints learner ledger measures recipe result runs seeds "
    "trajectories",
    "assessment": "types checkpoints evaluate ledger measures models recipe result rollout runs "
    "trajectories",
    "batteries": "types batch critic optional dialogues grading learner tally measures rollout "
    "selfcheck components recipe models batteries torch numpy",
    "progress": "types recipe rich",
    "names": "types audit audit.settings batch algorithms components engines envs overrides "
    "rewards settings",
    "stages": "types audit.settings batch algorithms critic optional demonstrations dialogues envs "
    "names provenance recipe rewards settings sinks",
    "session": "types audit.gold assessment optional chat checkpoints devices engines "
    "engines.apart engines.local learner ledger machine models names origins provenance recipe "
    "result rewarding rewards rollback rollout runs scorers stages sync threads train torch",
    "launch": "types alarms batch optional checkpoints curve learner machine models recipe result "
    "runs scaling selfcheck session sinks stages train",
    "resume": "types alarms batch checkpoints environment launch names optional recipe runs "
    "session",
    "summary": "result runs",
    "scaling": "types recipe runs ledger scaling numpy scipy",
    "scaling.study": "types files recipe runs scaling sentences settings pydantic",
    "scaling.results": "types files recipe runs scaling numpy",
    "scaling.allocate": "types files recipe scaling numpy",
    "scaling.report": "types estimates files machine scaling numpy scipy",
    "scaling.picture": "curve scaling numpy",
    "sizes": "optional engines.apart models session stages",
    "accelerators": "sizes",
    "pace": (
        "types audit.settings checkpoints machine recipe rewards runs session settings stages train"
    ),
    "plan": "types accelerators models pace session sizes torch",
    "trial exam hindsight": "* !plan !pace !progress !cli",
    "preferences": "",
    "preferences.losses": "torch jaxtyping",
    "preferences.learned": "types models preferences torch jaxtyping numpy",
    "preferences.training": "types ledger models preferences seeds settings steps pydantic torch",
    "preferences.calibration": "types estimates numpy",
    "preferences.recipe": "types overrides preferences sentences settings pydantic tomli_w",
    "preferences.transcripts": "types",
    "preferences.gathered": "types chat engines.local grading models preferences rollout scorers "
    "seeds",
    "preferences.asked preferences.tables": "types",
    "preferences.pair preferences.database preferences.simulated preferences.look "
    "preferences.terminal": "types preferences",
    "preferences.store": "types preferences seeds",
    "preferences.agreement": "estimates seeds numpy",
    "preferences.answered": "preferences numpy",
    "preferences.annotators": "types seeds",
    "preferences.formats": "types envs.datasets fields preferences",
    "preferences.moved": "types envs.datasets files preferences pyarrow?",
    "preferences.acquisition": "preferences seeds numpy",
    "preferences.candidates": "types chat engines.local envs.datasets models names overrides "
    "preferences rollout scorers seeds settings",
    "preferences.proposing": "types models preferences seeds numpy",
    "preferences.commands": "preferences? typer",
    "preferences.process": "types chat envs.datasets fields grading models preferences rollout "
    "seeds numpy",
    "preferences.picture": "curve estimates preferences",
    "preferences.made": "types devices estimates files ledger models names preferences scorers "
    "seeds threads torch numpy",
    "slope": "scaling typer",
    "reward_models": "preferences? typer",
    "cli": "*",
    "": "launch? machine? recipe? resume? runs?",
}
# Lines of a file and of a function. ``types`` has every noun; ``parts`` is not an algorithm.
LIMIT, LONGEST, ALGORITHM = 300, 60, 80
LIMITS = {"train": 100, "types": 350, "algorithms.parts": 270, "algorithms.quality": 120}
LIMITS |= {"algorithms.valued": 200, "algorithms.pairs": 130}
FORBIDDEN = {"utils", "util", "base", "core", "common", "helpers"}
# The code of others is looked at from outside: a config's optional keys, torch's types by name.
ATTRIBUTES = {
    ("models.load", "config.get_text_config()"),
    ("models.load", "config"),
    ("session", "torch"),
    ("sandbox.programs.judge", "builtins"),  # an exception by the name that a program gives it
    ("sandbox.programs.tested", "on"),  # what a test asks of a program's object
    ("sandbox.programs.wire", "builtins"),
}
BROAD = {
    ("grading", "Exception"),  # a user's grader may raise anything
    ("preferences.database", "BaseException"),  # rolls back whatever came between, and re-raises
    ("components", "Exception"),  # and so may a user's file when it is imported
    ("sinks", "Exception"),  # whatever ends a sink, the run goes on
    ("rewards.worker", "Exception"),  # a grader's failure is that answer's, not the worker's
    ("sandbox.programs.tested", "BaseException"),
    ("sandbox.programs.judge", "Exception"),  # tests are others' code, and may raise anything
    ("sandbox.warden", "BaseException"),  # a program that nobody has read may raise anything
    ("tools.play", "Exception"),  # a tool may raise anything, and the play goes on
    ("envs.reasoning_gym", "Exception"),  # generators are others' code, and may raise anything
    ("files", "Exception"),  # libraries hide the system's reason for a failed write in their own
    ("files", "BaseException"),  # undoes a half-written row, whatever came between, and re-raises
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path: Path) -> str:
    """``models.load``; a package's own file has the package's name, the top one's is empty."""
    return (
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        .removesuffix("__init__")
        .removesuffix(".")
    )


FILES = sorted(SOURCE.rglob("*.py"))
TREES = {name_of(p): ast.parse(p.read_text(encoding="utf-8")) for p in FILES}
NODES = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether lazily; its own package's modules without ``upslope``."""
    tree = TREES[name]
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and _typing(n)]
    functions = [n for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]
    lazy = {n for outer in (*typing, *functions) for n in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            yield _known(full), node in lazy


def _typing(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


def _known(full: str) -> str:
    """Our module that the dotted name lies in, or the library."""
    top, _, rest = full.partition(".")
    if top != "upslope":
        return top
    return rest if rest in TREES else rest.rpartition(".")[0]


def row_of(name: str) -> tuple[str, ...]:
    """The most exact row of the table for a module."""
    rows = {part: words.split() for parts, words in TABLE.items() for part in parts.split(" ")}
    near = [part for part in rows if name == part or (part and name.startswith(f"{part}."))]
    assert near, f"{name} has no row in TABLE: say what it may import, as the design has it"
    return tuple(rows[max(near, key=len)])


def allowed(row: tuple[str, ...], target: str, lazy: bool) -> bool:
    """Whether a row allows an import."""

    def covers(word: str) -> bool:
        return target == word or target.startswith(f"{word}.")

    if any(covers(word[1:]) for word in row if word[0] == "!"):
        return False
    if any(covers(word[:-1]) for word in row if word[-1] == "?"):
        return lazy
    return "*" in row or any(map(covers, row)) or target == ""


def test_imports_only_what_the_table_allows() -> None:
    wrong = {}
    for name in TREES:
        row = row_of(name)
        others = [pair for pair in imports(name) if pair[0] not in sys.stdlib_module_names]
        if found := [target for target, lazy in others if not allowed(row, target, lazy)]:
            wrong[name] = found
    assert wrong == {}


def test_the_table_is_read_as_its_words_say() -> None:
    row = ("types", "models", "torch?", "!models.gguf")
    kept = [("types", False), ("models.load", False), ("torch", True)]
    refused = [("torch", False), ("models.gguf", False), ("modelsx", False), ("numpy", True)]
    assert [allowed(row, *pair) for pair in (*kept, *refused)] == [True] * 3 + [False] * 4
    assert allowed(("*", "!cli"), "numpy", False)
    assert not allowed(("*", "!cli"), "cli", True)


def test_every_row_of_the_table_is_of_a_part_that_exists() -> None:
    parts = [part for parts in TABLE for part in parts.split(" ")]
    assert [part for part in parts if part not in TREES] == []


def test_no_import_cycles() -> None:
    """Lazy imports count: a cycle that only runs later is one all the same."""
    left = {name: {t for t, _ in imports(name) if t in TREES} - {name} for name in TREES}
    # ``from upslope import __version__`` reads the package's own file, which imports lazily.
    left[""] = set()
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize(
    "code",
    [
        "import upslope",
        "import upslope.cli, sys; sys.argv = ['upslope', '--help']; upslope.cli.main()",
        "import upslope.recipe, upslope.runs, upslope.ledger, upslope.curve, upslope.envs.prices",
    ],
)
def test_stays_light(code: str) -> None:
    """Importing the package, asking for help and reading runs wait for no heavy library."""
    look = "import sys, atexit; atexit.register(lambda: print('\\nloaded', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", look + code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.rpartition("\nloaded")[2].split())
    assert "upslope" in loaded
    assert loaded & {"torch", "transformers", "pyarrow", "tokenizers"} == set()


def test_at_most_60_settings() -> None:
    assert settings_count() <= 60


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [name for name in TREES if FORBIDDEN & set(name.split("."))] == []


def test_files_are_short() -> None:
    limits = {n: ALGORITHM for n in TREES if n.startswith("algorithms.")} | LIMITS
    lines = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {n: found for n, found in lines.items() if found > limits.get(n, LIMIT)} == {}


def test_functions_are_short() -> None:
    functions = [(name, node) for name, node in NODES if isinstance(node, FUNCTIONS)]
    lines = {(name, f.name): (f.end_lineno or 0) - f.lineno + 1 for name, f in functions}
    assert {place: found for place, found in lines.items() if found > LONGEST} == {}


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_attributes_are_not_asked_for_by_name() -> None:
    asked = {
        (name, ast.unparse(node.args[0]))
        for name, node in NODES
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr", "setattr")
    }
    assert asked == ATTRIBUTES


def test_nothing_is_caught_broadly_but_where_a_reason_is_given() -> None:
    caught = {
        (name, ast.unparse(node.type) if node.type else "everything")
        for name, node in NODES
        if isinstance(node, ast.ExceptHandler)
    }
    broad = {pair for pair in caught if pair[1] in ("everything", "Exception", "BaseException")}
    assert broad == BROAD


def test_no_function_takes_keywords_it_does_not_name() -> None:
    """But transformers' own signature of an attention function, which gets every keyword, and a
    stand-in for any function."""
    taking = [
        name
        for name, node in NODES
        if isinstance(node, (*FUNCTIONS, ast.Lambda)) and node.args.kwarg
    ]
    assert set(taking) == {"models.attention", "sandbox.programs.judge"}


def test_every_zip_says_whether_it_is_strict() -> None:
    loose = [
        f"{name}: {ast.unparse(node)}"
        for name, node in NODES
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "zip"
        and "strict" not in {k.arg for k in node.keywords}
    ]
    assert loose == []
