"""The wheel holds no switch that replaces the operating system's randomness in a deployment.

Looked for in every module of fedward_common, fedward_client and fedward_server, by reading the
syntax trees of the wheel's own files:

1. a generator that can be seeded: the modules random, numpy.random and torch's generators;
2. an environment variable whose name, or whose reading by a computed name, could switch one;
3. a command-line option or a parameter of a command that speaks of a seed or of turning
   noise, masks, encryption or checks off;
4. in fedward_common.secagg and .privacy, a parameter of type RandomBytes with a default: every
   caller must say where its randomness comes from;
5. a source of randomness other than os_random handed out by a production module.

Simulations may be reproducible; fedward_simulations is read only to show that its seeded source
is named nowhere else. Each rule is tried on a planted example, so that it is known to bite.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest
from tests.packaging.conftest import Wheel

PRODUCTION = ("fedward_common/", "fedward_client/", "fedward_server/")
CORES = ("fedward_common/secagg/", "fedward_common/privacy/")

PUBLIC_RANDOMNESS = {
    # The first parameters of a model: public, derived from a seed that the signed plan names.
    "fedward_common/models/parameters.py",
    # Error bars of published, already noised histograms.
    "fedward_server/evaluation.py",
}
"""Modules that use a seeded generator for what is public anyway, each with its reason."""

SUSPICIOUS = re.compile(
    r"seed|random|determinis|reproduc|(no|skip|disable|without|unsafe|insecure|fake|debug|test)"
    r"[-_]?(noise|mask|dp|privacy|encrypt|check|verif|mode|key)",
    re.IGNORECASE,
)
TORCH_GENERATORS = {
    "manual_seed", "seed", "Generator", "rand", "randn", "randint", "randperm", "normal",
    "bernoulli", "multinomial", "poisson", "rand_like", "randn_like", "set_rng_state",
}  # fmt: skip
SEEDED_SOURCE = "SeededStream"

Finding = str
Rule = Callable[[str, ast.Module], Iterator[Finding]]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` for an attribute chain, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that an import statement brings in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def seeded_generators(name: str, tree: ast.Module) -> Iterator[Finding]:
    """Rule 1."""
    if name in PUBLIC_RANDOMNESS:
        return
    for node in ast.walk(tree):
        for module in imported(node):
            if re.match(r"(random|numpy\.random|torch\.random)(\.|$)", module):
                yield f"imports {module}"
        if isinstance(node, ast.Attribute):
            chain = dotted(node)
            head, _, last = chain.rpartition(".")
            if re.match(r"(np|numpy|torch)\.random(\.|$)", chain):
                yield f"uses {chain}"
            if head in {"torch", "torch.cuda"} and last in TORCH_GENERATORS:
                yield f"uses {chain}"


def environment_switches(name: str, tree: ast.Module) -> Iterator[Finding]:
    """Rule 2. The cores read no environment at all."""
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Call) and re.search(r"(getenv|environ\.\w+)$", dotted(node.func)):
            key = node.args[0] if node.args else node.func
        elif isinstance(node, ast.Subscript) and dotted(node.value).endswith("environ"):
            key = node.slice
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            key = node.value
        if key is None:
            continue
        if name.startswith(CORES):
            yield "a core reads the environment"
        if not isinstance(key, ast.Constant):
            if not (isinstance(key, ast.Name) and key.id.isupper()):
                yield "reads an environment variable by a computed name"
        elif SUSPICIOUS.search(repr(key.value)):
            yield f"reads the environment variable {key.value!r}"


def options(name: str, tree: ast.Module) -> Iterator[Finding]:
    """Rule 3."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"--[a-z-]+(/--[a-z-]+)?", node.value) and SUSPICIOUS.search(
                node.value
            ):
                yield f"has the option {node.value}"
        elif "/cli" in name and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if SUSPICIOUS.search(argument.arg):
                    yield f"has the command parameter {argument.arg}"


def default_sources(name: str, tree: ast.Module) -> Iterator[Finding]:
    """Rule 4."""
    if not name.startswith(CORES):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        positional = [*node.args.posonlyargs, *node.args.args]
        count = len(node.args.defaults)
        with_default = [
            *(positional[-count:] if count else []),
            *(a for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d),
        ]
        for argument in with_default:
            if argument.annotation is not None and "RandomBytes" in ast.unparse(
                argument.annotation
            ):
                yield f"{node.name} has a default for {argument.arg}"


def other_sources(name: str, tree: ast.Module) -> Iterator[Finding]:
    """Rule 5: a function from a count to bytes is a source; os_random is the only one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node).endswith(SEEDED_SOURCE):
            yield f"names {SEEDED_SOURCE}"
        if isinstance(node, ast.FunctionDef) and node.name in {"os_random", "__call__"}:
            sole = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg != "self"]
            returns = ast.unparse(node.returns) if node.returns else ""
            where = "fedward_common/randomness.py"
            if sole == ["count"] and returns == "bytes" and name != where:
                yield f"defines a source of randomness, {node.name}"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        seeded_generators, environment_switches, options, default_sources, other_sources,
    )
}  # fmt: skip

PLANTED = {
    "seeded_generators": [
        "import random",
        "from numpy.random import default_rng",
        "import numpy as np\nx = np.random.default_rng(1)",
        "import torch\ntorch.manual_seed(0)",
    ],
    "environment_switches": [
        "import os\nx = os.environ.get('FEDWARD_SEED')",
        "import os\nx = os.getenv('FEDWARD_NO_NOISE')",
        "import os\nx = os.environ['FEDWARD_TEST_KEYS']",
        "import os\nx = os.environ[name]",
        "x = Option(0, envvar='SEED')",
    ],
    "options": [
        "x = Option(0, '--seed')",
        "x = Option(False, '--no-noise')",
        "x = Option(False, '--encrypt/--no-encrypt')",
        "def run(path, seed=0): ...",
    ],
    "default_sources": [
        "def mask(d, random: RandomBytes = os_random): ...",
        "def mask(d, *, random: RandomBytes | None = None): ...",
    ],
    "other_sources": [
        "x = SeededStream(1)",
        "class Fixed:\n    def __call__(self, count: int, /) -> bytes: ...",
    ],
}
PLACES = {
    "options": "fedward_client/cli/run.py",
    "default_sources": "fedward_common/secagg/prg.py",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_wheel_has_no_hook(wheel: Wheel, rule: str) -> None:
    modules = [name for name in wheel.names if name.startswith(PRODUCTION) and name.endswith(".py")]
    assert len(modules) > 50
    findings = []
    for name in sorted(modules):
        tree = ast.parse((wheel.unpacked / name).read_text(encoding="utf-8"))
        findings += [f"{name}: {finding}" for finding in RULES[rule](name, tree)]
    assert not findings


@pytest.mark.parametrize(
    ("rule", "code"), [(rule, code) for rule, codes in PLANTED.items() for code in codes]
)
def test_the_rule_finds_a_planted_hook(rule: str, code: str) -> None:
    name = PLACES.get(rule, "fedward_client/planted.py")
    assert list(RULES[rule](name, ast.parse(code)))


def test_the_exceptions_still_exist(wheel: Wheel) -> None:
    assert wheel.names >= PUBLIC_RANDOMNESS


def test_only_simulations_can_be_reproducible(wheel: Wheel) -> None:
    names = [name for name in wheel.names if name.endswith(".py")]
    users = {n for n in names if SEEDED_SOURCE in (wheel.unpacked / n).read_text(encoding="utf-8")}
    assert users
    assert all(name.startswith("fedward_simulations/") for name in users)
