"""What more than one of the properties draws: JSON of every shape, documents with parts of them broken, odd texts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ANY_CHARACTER = st.characters(exclude_categories=())
"""Halves of surrogate pairs too: JSON can hold them as escapes."""
TEXT = st.text(st.one_of(st.sampled_from("aZ09./\\ \n\x00\"'%²١é\u200b\u202e:*"), ANY_CHARACTER), max_size=20)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400, float("nan"), float("inf"), -0.0, 1e308]),
)


def deep(levels: int) -> Any:
    """Lists in lists: as deep as JSON may be that some program still reads."""
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, st.sampled_from(["", " ", "output", "9" * 5000]))
JSON = st.recursive(
    st.one_of(SCALARS, st.builds(deep, st.just(60))),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=10,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from _paths(item, (*path, key))


@st.composite
def broken(draw: st.DrawFn, *documents: Any) -> Any:
    """One of the documents with up to three parts of it replaced, left out or doubled."""
    value = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(value))))
        if not path:
            return draw(JSON)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "replace":
            holder[path[-1]] = draw(JSON)
        elif what == "remove":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(TEXT)] = copy.deepcopy(holder[path[-1]])
        else:
            holder.append(copy.deepcopy(holder[path[-1]]))
    return value
