"""What code does, as a short text that stays the same until the code does something else."""

import ast
import hashlib

# What may have a docstring, and what has a name of its own.
DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def digest_code(text: str, name: str) -> str:
    """Return a digest of what a name in a module's text stands for and all that this reaches.

    Functions, classes and constants of the same text count, and statements at its top level that
    define nothing. Comments, docstrings and layout do not, nor what is imported.

    Args:
        text: source of the module.
        name: of a function, class or constant in it.
    """
    definitions = find_definitions(text)
    reached = {}
    # "" is the name of statements that define nothing
    waiting = ["", name]
    while waiting:
        current = waiting.pop()
        if current in reached:
            continue
        statements = definitions.get(current, [])
        reached[current] = [ast.dump(statement) for statement in statements]
        for statement in statements:
            waiting.extend(find_names(statement))
    content = repr(sorted(reached.items()))
    return hashlib.sha256(content.encode()).hexdigest()


def find_definitions(text: str) -> dict[str, list[ast.stmt]]:
    """Return {name: the statements at top level that define or change it}, without docstrings."""
    module = remove_docstrings(ast.parse(text))
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in module.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        if isinstance(statement, NAMED):
            names = {statement.name}
        elif isinstance(statement, ast.Assign):
            # of TABLE["key"] = value, too
            names = find_names(ast.Tuple(statement.targets))
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
            names = find_names(statement.target)
        else:
            names = {""}
        for name in names:
            definitions.setdefault(name, []).append(statement)
    return definitions


def find_names(node: ast.AST) -> set[str]:
    """Return every name that stands in a piece of code."""
    return {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}


def remove_docstrings(module: ast.Module) -> ast.Module:
    """Return the syntax tree, changed in place."""
    for node in ast.walk(module):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return module
