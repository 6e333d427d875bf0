"""State trees: tensors nested in tuples, lists and dicts, with the batch first in every leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Tree: TypeAlias = (
    Any  # torch.Tensor | tuple[Tree, ...] | list[Tree] | dict[str, Tree]; recursive aliases defeat mypy here
)


def tree_map(function: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """Apply `function` to every tensor leaf, keeping the structure."""
    if isinstance(tree, torch.Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: tree_map(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        mapped = [tree_map(function, value) for value in tree]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else type(tree)(mapped)
    raise TypeError(f"[tree_map] expected tensors in tuples, lists and dicts, got {type(tree).__name__}")


def tree_leaves(tree: Tree) -> list[torch.Tensor]:
    """The tensor leaves in a fixed order (dicts in insertion order)."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, (dict, tuple, list)):
        return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in tree_leaves(item)]
    raise TypeError(f"[tree_leaves] expected tensors in tuples, lists and dicts, got {type(tree).__name__}")


def tree_like(template: Tree, tree: Tree) -> Tree:
    """`tree` with its dicts in the key order of `template`, so that leaves of the two line up.

    Raises:
        ValueError: another structure.
    """
    if isinstance(template, dict):
        if not isinstance(tree, dict) or set(tree) != set(template):
            raise ValueError(f"[tree_like] expected a dict with keys {sorted(template)}")
        return {key: tree_like(value, tree[key]) for key, value in template.items()}
    if isinstance(template, (tuple, list)):
        if not isinstance(tree, (tuple, list)) or len(tree) != len(template):
            raise ValueError(f"[tree_like] expected a tuple or list of {len(template)}")
        items = [tree_like(value, item) for value, item in zip(template, tree, strict=True)]
        return type(template)(*items) if hasattr(template, "_fields") else type(template)(items)
    return tree


def tree_cat(trees: list[Tree]) -> Tree:
    """Concatenate trees of one structure along the batch."""
    columns = [tree_leaves(tree) for tree in trees]
    joined = iter([torch.cat(leaves) for leaves in zip(*columns, strict=True)])
    return tree_map(lambda _: next(joined), trees[0])
