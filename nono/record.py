"""Record: typing.NamedTuple for the start path.

`class Point(Record)` with annotated fields means exactly what `class Point(NamedTuple)` means, and is that to a type
checker. At run time it costs 15 µs a class instead of 300, and no import of typing (7 ms): together a third of what
nono may take until the agent starts (docs/decisions/0001). Making an instance is slower than a NamedTuple's: rooms
that are entered for each request use the real one.
"""

from __future__ import annotations

from _collections import _tuplegetter  # type: ignore[import-not-found]

__all__ = ["Record"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:

    class Record(tuple):
        """Immutable fields by name and by position; equality, hash, unpacking and `_replace` of a tuple."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012

        def __init_subclass__(cls):
            annotations = cls.__dict__.get("__annotations__", {})  # noqa: RUF063  (inspect costs 6 ms)
            cls._fields = tuple(annotations)
            cls._field_defaults = {name: cls.__dict__[name] for name in annotations if name in cls.__dict__}
            for index, name in enumerate(annotations):
                setattr(cls, name, _tuplegetter(index, None))

        def __new__(cls, *values, **named):
            if not named and len(values) == len(cls._fields):  # a third of the time, where there are hundreds
                return tuple.__new__(cls, values)
            for name in cls._fields[len(values) :]:
                if name in named:
                    values += (named.pop(name),)
                elif name in cls._field_defaults:
                    values += (cls._field_defaults[name],)
                else:
                    raise TypeError(f"{cls.__name__}: {name} is missing")
            if named or len(values) != len(cls._fields):
                raise TypeError(f"{cls.__name__}: takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"
